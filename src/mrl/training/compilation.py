"""``training.compile``: the network's forward and backward passes through torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mrl.errors import ConfigError


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, compiled anew for each shape of its arguments.

    A function is compiled, not a module, so that names in checkpoints stay what they are and validation, with its many lengths,
    stays uncompiled. One program per shape makes the numbers depend on the shape alone, not on the shapes that came before: a
    resumed run meets the same programs.
    """
    result: Callable[..., Any] = torch.compile(function, dynamic=False)
    return result


def check_compiler(device: torch.device) -> None:
    """Compile and run something small, forward and backward.

    Raises:
        ConfigError: there is no compiler that works.
    """

    def small(numbers: torch.Tensor) -> torch.Tensor:
        return (numbers.sin() * 2.0).sum()

    try:
        compiled(small)(torch.ones(8, device=device, requires_grad=True)).backward()
    except Exception as error:  # whatever compiler, driver and linker make of it
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"training.compile does not work here ({lines[0] if lines else type(error).__name__}); install a C++ "
            "compiler such as g++ (CPU) or Triton (GPU), or set training.compile: false"
        ) from error
