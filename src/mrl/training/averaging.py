"""Exponential moving average of the weights, for validation and for the result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

_FASTEST = 10  # at step n the decay is at most (1 + n) / (10 + n): early averages forget the start quickly


class WeightAverage:
    """Averages the floating-point state (parameters and buffers) of a module over steps.

    Args:
        module: what is averaged; its state now is the first average.
        decay: share of the old average that each step keeps, once enough steps are done.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {name: value.detach().clone() for name, value in _averaged(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's state after one optimizer step; frozen parameters stay bit for bit what they are."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (_FASTEST + self.steps))
        for name, value in _averaged(module).items():
            if value.requires_grad:
                self.state[name].lerp_(value.detach(), 1.0 - decay)
            elif not isinstance(value, nn.Parameter):
                self.state[name].copy_(value)  # running statistics are averages already

    @contextlib.contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Give the module the averaged state while the block runs, then its own back, bit for bit."""
        own = {name: value.detach().clone() for name, value in _averaged(module).items()}
        self.copy_to(module)
        try:
            yield
        finally:
            self._copy(own, module)

    def copy_to(self, module: nn.Module) -> None:
        """Give the module the averaged state for good."""
        self._copy(self.state, module)

    @staticmethod
    @torch.no_grad()
    def _copy(state: dict[str, torch.Tensor], module: nn.Module) -> None:
        for name, value in _averaged(module).items():
            value.copy_(state[name])


def _averaged(module: nn.Module) -> dict[str, torch.Tensor]:
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value for name, value in named.items() if value.is_floating_point()}
