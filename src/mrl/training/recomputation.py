"""Gradient checkpointing: the backbone's stages are computed again in the backward pass instead of being kept (arXiv 1604.06174).

What a stage holds within itself need then not be kept for all stages at once, but for one at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mrl.backbone import ReDimNet


@contextlib.contextmanager
def recomputed_stages(network: ReDimNet) -> Iterator[None]:
    """Let the stages of the network keep only their inputs while the block runs forward passes with gradient.

    Backward passes may come after the block. Losses and gradients are those of the ordinary pass; random numbers (dropout) are
    drawn again from the same state, and BatchNorm takes a batch into its running statistics once.
    """
    stages = list(network.encoder.stages)
    for stage in stages:
        stage.forward = _recomputed(stage)
    try:
        yield
    finally:
        for stage in stages:
            del stage.forward  # the method of its class is back


def _recomputed(stage: nn.Module) -> Callable[..., Any]:
    forward = stage.forward

    def checkpointed(outputs: Sequence[Tensor], mask: Tensor | None) -> Any:
        inputs = tuple(outputs), mask  # the list grows with every stage; what is computed again must see it as it was
        if torch.compiler.is_compiling():
            # the compiler plans forward and backward together, and writes running statistics in the forward pass only
            return checkpoint(forward, *inputs, use_reentrant=False)
        return checkpoint(
            forward, *inputs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _without_statistics(stage))
        )

    return checkpointed


@contextlib.contextmanager
def _without_statistics(stage: nn.Module) -> Iterator[None]:
    """Let BatchNorms in training mode normalise by the batch as ever, but leave their running statistics as they are."""
    moving = [module for module in stage.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training]
    kept = [(module.momentum, module.num_batches_tracked) for module in moving]
    for module in moving:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for module, (momentum, count) in zip(moving, kept, strict=True):
            module.momentum, module.num_batches_tracked = momentum, count
