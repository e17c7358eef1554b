"""Early exits: an embedding from the first stages of the network, for those who need it sooner.

After each stage the features of a backbone have the same shape, and its last layer is a weighted sum of all stages. An exit after
stage ``depth`` is such a sum of its own over what has been computed by then, followed by the network's own pooling and a
Matryoshka head of its own, fitted so that its embedding follows that of the whole network. What it costs and what it loses is
measured in docs/appendix/early-exits.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from mrl.backbone import Backbone
from mrl.backbone.inference import fold_norm
from mrl.backbone.sums import FixedSum, WeightedSum
from mrl.errors import CheckpointError, InputError
from mrl.matryoshka.projection import MatryoshkaProjection

_FEWEST_UTTERANCES = 10


class EarlyExit(nn.Module):
    """Weighted sum of the first stages' outputs, norm of their pooled statistics, and a Matryoshka head.

    The sum starts with the weights that the whole network's last layer gives these stages. Nothing here takes part in training.

    Args:
        backbone: the network that it leaves early.
        depth: the number of stages before the exit, from 1 to one less than all.
        embed_dim: length of the embedding.
    """

    def __init__(self, backbone: Backbone, depth: int, embed_dim: int) -> None:
        super().__init__()
        self.weighted_sum: WeightedSum | FixedSum = backbone.early_sum(depth)
        self.norm: nn.Module = nn.BatchNorm1d(backbone.pooled_dim)
        self.projection = MatryoshkaProjection(backbone.pooled_dim, embed_dim)
        self.requires_grad_(False).to(backbone.device).eval()

    def forward(self, pooled: Tensor, target_dim: int | None = None) -> Tensor:
        """Pooled statistics ``(batch, pooled_dim)`` -> raw embeddings ``(batch, target_dim)``, not of unit length."""
        raw: Tensor = self.projection(self.norm(pooled), target_dim)
        return raw

    @torch.no_grad()
    def fit(self, pooled: Tensor, embeddings: Tensor, *, ridge: float = 0.1) -> None:
        """Fit norm and head in closed form: ridge regression from the exit's statistics to the whole network's embedding.

        Needs no labels. As the head predicts the whole network's embedding, embeddings of different depths may be compared.

        Args:
            pooled: ``(utterances, pooled_dim)`` statistics of this exit.
            embeddings: ``(utterances, embed_dim)`` of the whole network, of the same utterances; their length is ignored.
            ridge: penalty, as a share of the variance of one standardised statistic.

        Raises:
            InputError: shapes that do not fit, too few utterances, or values that cannot be used.
        """
        expected = (len(pooled), self.projection.embed_dim)
        if pooled.ndim != 2 or pooled.shape[1] != self.projection.inputs or embeddings.shape != expected:
            raise InputError(
                f"statistics {tuple(pooled.shape)} and embeddings {tuple(embeddings.shape)} do not fit; expected "
                f"(utterances, {self.projection.inputs}) and (utterances, {self.projection.embed_dim})"
            )
        if len(pooled) < _FEWEST_UTTERANCES:
            raise InputError(
                f"{len(pooled)} utterances are too few to fit an exit; expected hundreds, at least {_FEWEST_UTTERANCES}"
            )
        if not (torch.isfinite(pooled).all() and torch.isfinite(embeddings).all()):
            raise InputError("statistics or embeddings hold NaN or infinite values; find the recordings they come from")
        if not ridge > 0:
            raise InputError(f"ridge={ridge} cannot be used; expected a number above 0")
        assert isinstance(self.norm, nn.BatchNorm1d)
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        self.norm.running_mean.copy_(pooled.double().mean(dim=0))
        self.norm.running_var.copy_(pooled.double().var(dim=0))
        inputs = self.norm(pooled.to(self.norm.running_mean)).double().cpu()
        targets = nn.functional.normalize(embeddings.double().cpu(), dim=1)
        bias = targets.mean(dim=0)
        gram = inputs.T @ inputs / len(inputs) + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
        weight = torch.linalg.solve(gram, inputs.T @ (targets - bias) / len(inputs)).T
        self.projection.weight.copy_(weight)
        self.projection.bias.copy_(bias)

    @torch.no_grad()
    def inference_copy(self, backbone: Backbone, copy_of_backbone: Backbone) -> EarlyExit:
        """Return this exit for the inference copy of ``backbone``: the softmax taken, the norm folded into the head."""
        assert isinstance(self.weighted_sum, WeightedSum) and isinstance(self.norm, nn.BatchNorm1d)
        result = EarlyExit(backbone, backbone.encoder.depth_of(self.weighted_sum.num_inputs), self.projection.embed_dim)
        dtype = next(copy_of_backbone.encoder.final_sum.buffers()).dtype
        result.weighted_sum = self.weighted_sum.for_inference().to(dtype)
        weight, bias = fold_norm(self.projection.weight, self.projection.bias, self.norm)
        result.projection.weight.copy_(weight)
        result.projection.bias.copy_(bias)
        result.norm = nn.Identity()
        return result.eval()


def checked_exit_depth(depth: int, num_stages: int) -> int:
    """Return ``depth``.

    Raises:
        InputError: the network has no exit there: not a whole number from 1 to one less than its stages.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth < num_stages:
        raise InputError(f"an exit after {depth!r} stages cannot be made; expected a whole number from 1 to {num_stages - 1}")
    return depth


# An early exit as a network of its own: the first stages alone, which can go wherever a whole network can.


class Cut(TypedDict):
    """Where a model ends that is the beginning of another one.

    Embeddings of models with the same ``whole_sha256`` may be compared with each other, and with those of the whole model.
    """

    depth: int
    """After how many stages."""
    stages: int
    """So many has the whole model."""
    whole_sha256: str
    """Hash of the whole model's weights, see :func:`mrl.embeddings.weights_sha256`."""


def read_cut(values: Any, num_stages: int) -> Cut | None:
    """Return what a configuration says about a cut; None where it says nothing.

    Args:
        values: as in ``config.json``.
        num_stages: of the model that the configuration describes.

    Raises:
        CheckpointError: it cannot be true.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        depth, stages, whole = (values.get(key) for key in ("depth", "stages", "whole_sha256"))
        if depth == num_stages and isinstance(stages, int) and stages > num_stages and isinstance(whole, str):
            return Cut(depth=num_stages, stages=stages, whole_sha256=whole)
    raise CheckpointError(f"cut={values!r} does not fit a model of {num_stages} stages; copy the model folder again")


@torch.no_grad()
def cut_backbone(backbone: Backbone, early: EarlyExit) -> Backbone:
    """Return a copy of ``backbone`` that ends where ``early`` leaves it; its embedding is the raw one of the exit."""
    depth = backbone.encoder.depth_of(early.weighted_sum.num_inputs)
    result = backbone.with_embedding(early.projection.embed_dim, num_stages=depth).to(backbone.device)
    with_exit = {
        "encoder.final_sum.": early.weighted_sum,
        "pooled_norm.": early.norm,
        "embedding.": early.projection,
    }
    state = {name: tensor for name, tensor in backbone.state_dict().items() if not name.startswith(tuple(with_exit))}
    for prefix, module in with_exit.items():
        state |= {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    result.load_state_dict({name: state[name] for name in result.state_dict()})
    result.pretrained_source = backbone.pretrained_source
    return result.eval()
