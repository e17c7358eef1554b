"""The losses by their names in the configuration."""

from __future__ import annotations

import math
from typing import Literal, get_args

from mrl.errors import InputError
from mrl.matryoshka.class_objectives import ClassObjective, MarginSoftmax, NearestSubcenter, SphereFace2
from mrl.matryoshka.pair_objectives import AngularPrototypical, PairObjective, SupervisedContrastive

LossType = Literal["aam", "subcenter_aam", "sphereface2", "angular_prototypical", "supervised_contrastive"]
SphereFace2Margin = Literal["C", "A"]

DEFAULT_SCALES: dict[LossType, float] = {
    "aam": 30.0,
    "subcenter_aam": 30.0,
    "sphereface2": 32.0,
    "angular_prototypical": 10.0,
    "supervised_contrastive": 1.0 / 0.07,
}
PAIR_LOSSES: tuple[LossType, ...] = ("angular_prototypical", "supervised_contrastive")
AAM_LOSSES: tuple[LossType, ...] = ("aam", "subcenter_aam")


def chosen_scale(loss_type: LossType, scale: float | None) -> float:
    """Return the scale, or the loss's own default for None.

    Raises:
        InputError: there is no such loss, or the scale is not positive.
    """
    if loss_type not in DEFAULT_SCALES:
        raise InputError(f"loss_type={loss_type!r} is unknown; expected {', '.join(map(repr, get_args(LossType)))}")
    chosen = DEFAULT_SCALES[loss_type] if scale is None else scale
    if not 0.0 < chosen < math.inf:
        raise InputError(f"scale={chosen} must be positive")
    return chosen


def pair_objective(loss_type: LossType) -> PairObjective | None:
    """Return the objective of a loss that compares crops with each other, None for the others."""
    if loss_type == "angular_prototypical":
        return AngularPrototypical()
    return SupervisedContrastive() if loss_type == "supervised_contrastive" else None


def class_objective(
    loss_type: LossType,
    scale: float,
    *,
    num_subcenters: int = 3,
    topk_penalty: float = 0.0,
    topk: int = 5,
    sphereface2_lambda: float = 0.7,
    sphereface2_t: float = 3.0,
    sphereface2_margin_type: SphereFace2Margin = "C",
) -> ClassObjective | None:
    """Return the objective of a loss with a class matrix, None for the others.

    Raises:
        InputError: a setting cannot be used, or has no meaning for this loss.
    """
    if topk_penalty and loss_type not in AAM_LOSSES:
        raise InputError(f"topk_penalty={topk_penalty} belongs to {' and '.join(AAM_LOSSES)}; it has no meaning for {loss_type}")
    if not 0.0 <= topk_penalty < 1.0 or topk < 1:
        raise InputError(
            f"topk_penalty={topk_penalty}, topk={topk} cannot be used; expected an angle from 0 to 1 radian and a number above 0"
        )
    if loss_type == "sphereface2":
        return SphereFace2(scale, sphereface2_lambda, sphereface2_t, sphereface2_margin_type)
    softmax = MarginSoftmax(scale, topk_penalty, topk)
    if loss_type == "aam":
        return softmax
    if loss_type == "subcenter_aam":
        if num_subcenters < 1:
            raise InputError(f"num_subcenters={num_subcenters} must be positive")
        return NearestSubcenter(softmax, num_subcenters)
    return None
