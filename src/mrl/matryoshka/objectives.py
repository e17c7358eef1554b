"""What a Matryoshka loss minimises at each prefix length, by the names of ``loss.type`` in a configuration.

An objective is any object with two methods. One that compares embeddings with a vector for each training speaker has

- ``evaluate(cosines, labels, margin, bias)`` -> :class:`mrl.matryoshka.class_objectives.ObjectiveValue`: value, accuracy and the
  gradient in closed form for cosines ``(batch, classes)``;
- ``uninformed_loss(num_classes, margin)``: the loss where all cosines are 0.

One that compares the crops of a batch with each other says so by ``compares_crops = True`` and has

- ``evaluate(vectors, labels, margin, scale)`` -> loss and accuracy for raw embeddings ``(batch, dim)``, by autograd;
- ``uninformed_loss(speakers, crops, margin, scale)``.

Attributes that it may have: ``margin`` (where the margin starts, radians; default 0.2), ``scale``, ``num_subcenters`` (vectors
for each speaker, default 1), ``initial_bias(num_classes, margin)`` (a learnable bias), ``learns_scale``,
``with_weighted_negatives(weight)`` (for sampled classes, see :class:`mrl.matryoshka.MatryoshkaLoss`).

A new objective is a file with such a class, whose ``from_settings`` picks what it needs from the settings, and a line in
:data:`OBJECTIVES`. Nothing here imports torch, so that a configuration can be checked without it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrl.errors import InputError


@dataclass(frozen=True)
class RegisteredObjective:
    """Where an objective is defined.

    Attributes:
        module, name: of the class, the module within this room.
        compares_crops: whether it needs several crops of a speaker in a batch instead of a vector for each speaker.
    """

    module: str
    name: str
    compares_crops: bool = False


OBJECTIVES: dict[str, RegisteredObjective] = {
    "aam": RegisteredObjective("class_objectives", "MarginSoftmax"),
    "subcenter_aam": RegisteredObjective("class_objectives", "NearestSubcenter"),
    "sphereface2": RegisteredObjective("class_objectives", "SphereFace2"),
    "mv_softmax": RegisteredObjective("mv_softmax", "MisclassifiedVectorSoftmax"),
    "angular_prototypical": RegisteredObjective("pair_objectives", "AngularPrototypical", compares_crops=True),
    "supervised_contrastive": RegisteredObjective("pair_objectives", "SupervisedContrastive", compares_crops=True),
}


PAIR_LOSSES = tuple(name for name, entry in OBJECTIVES.items() if entry.compares_crops)


AAM_LOSSES = ("aam", "subcenter_aam")


def make_objective(name: str, settings: Mapping[str, Any], *, strict: bool = False) -> Any:
    """Return the objective of a name with the settings of a configuration, of which it takes those that concern it.

    Args:
        name: a key of :data:`OBJECTIVES`.
        settings: keys of the section ``loss``; those that are absent or None have the objective's own default.
        strict: refuse settings that do not concern the objective.

    Raises:
        InputError: there is no such objective, or a setting cannot be used or has no meaning for it.
    """
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(str(name), OBJECTIVES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"loss_type={name!r} is unknown; expected {', '.join(map(repr, OBJECTIVES))}{hint}")
    if settings.get("topk_penalty") and name not in AAM_LOSSES:
        raise InputError(
            f"topk_penalty={settings['topk_penalty']} belongs to {' and '.join(AAM_LOSSES)}; it has no meaning for {name}"
        )
    entry = OBJECTIVES[name]
    module = importlib.import_module(f"mrl.matryoshka.{entry.module}")
    noted = _Settings(settings)
    objective = getattr(module, entry.name).from_settings(noted)
    unused = sorted(set(settings) - noted.read)
    if strict and unused:
        raise InputError(f"{', '.join(unused)} cannot be set for {name}; it knows {', '.join(sorted(noted.read))}")
    return objective


class _Settings(dict[str, Any]):
    """Settings that remember which of them were looked at."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


def chosen(settings: Mapping[str, Any], **fields: str) -> dict[str, Any]:
    """Return the settings that are given, by the names of an objective's fields: ``chosen(settings, topk="topk")``."""
    return {field: settings[key] for field, key in fields.items() if settings.get(key) is not None}
