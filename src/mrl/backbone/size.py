"""Whether a network that a file describes is about as large as what the file holds, before any memory is taken for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mrl.errors import CheckpointError

_Network = TypeVar("_Network", bound=nn.Module)

_SLACK = 1 << 20  # filter banks and windows, which a file need not hold

_FILLING = {"normal_", "uniform_", "fill_", "zero_", "constant_", "ones_", "zeros_", "kaiming_uniform_", "kaiming_normal_"}


class _ShapesOnly(TorchFunctionMode):
    """Leaves out what fills tensors: on the ``meta`` device it changes nothing, but would import PyTorch's compiler (3 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in _FILLING:
            return args[0] if args else named["tensor"]
        if func is torch.hamming_window:
            return torch.empty(args[0])
        return func(*args, **named)


def require_size(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Make sure that a network is not much larger than the tensors that are to go into it.

    Args:
        build: makes the network; called with PyTorch's ``meta`` device, on which tensors have a shape and no values.
        tensors: what the file holds.

    Raises:
        CheckpointError: the network would have more values than the file.
    """
    with torch.device("meta"), _ShapesOnly():
        described = build()
    needed = sum(tensor.numel() for tensor in (*described.parameters(), *described.buffers()))
    held = sum(tensor.numel() for tensor in tensors.values())
    if needed > held + held // 4 + _SLACK:
        raise CheckpointError(
            f"its configuration describes a network of {needed:,} values, the file holds {held:,}: they do not belong together"
        )
