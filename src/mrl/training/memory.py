"""Out of memory, told in words that help: which keys of the configuration make a run smaller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from mrl.errors import TrainingError

# torch has a class of its own for GPUs only; its CPU and Apple allocators raise a plain RuntimeError.
_ALLOCATOR_WORDS = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory", "out of memory")


@contextlib.contextmanager
def out_of_memory_told() -> Iterator[None]:
    """Turn an allocator's error within the block into one that names the keys to change.

    Raises:
        TrainingError: the block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise TrainingError(
            "out of memory: lower training.batch_size (and raise training.accumulation_steps by as much: their product may stay "
            "the same on resume), set training.gradient_checkpointing: true or training.precision: bf16, lower data.crop_seconds "
            f"or data.finetune_crop_seconds, or take a smaller advanced.model_name ({_first_line(error)})"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in _ALLOCATOR_WORDS)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
