"""What the processes of a training exchange between a backward pass and a step: gradients, and running statistics after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import distributed, nn

from mrl.distribution import Processes

_BUCKET_BYTES = 25_000_000  # large enough for full bandwidth, small enough that the first one leaves early


class GradientExchange:
    """Sums gradients over processes, in a few large exchanges that run during the backward pass.

    Parameters are put into buckets in the opposite order of their use. A bucket leaves as soon as the last gradient in it is
    there, and never before those ahead of it, so that all processes exchange in the same order whatever they compute.

    Args:
        processes: those that train together.
        parameters: all that are trained, in the same order in every process.
        bucket_bytes: about how much one exchange holds.
    """

    def __init__(self, processes: Processes, parameters: Sequence[nn.Parameter], *, bucket_bytes: int = _BUCKET_BYTES) -> None:
        self._processes = processes
        self._buckets = _buckets(parameters[::-1], bucket_bytes) if processes.world_size > 1 else []
        self._bucket_of = {parameter: number for number, bucket in enumerate(self._buckets) for parameter in bucket}
        self._missing = [len(bucket) for bucket in self._buckets]
        self._sent: list[tuple[torch.Tensor, distributed.Work]] = []

    @contextlib.contextmanager
    def overlapping(self, *, enabled: bool = True) -> Iterator[None]:
        """Send each bucket as soon as it is complete while the block runs the last backward pass of an update."""
        hooks = [
            parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
            for parameter in self._bucket_of
            if enabled
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self) -> None:
        """Send what has not been sent, and replace each gradient by its sum; a process without one counts as zero.

        Raises:
            ProcessError: another process has ended or does not answer.
        """
        self._send(everything=True)
        for bucket, (flat, work) in zip(self._buckets, self._sent, strict=True):
            with self._processes.with_others():
                work.wait()
            for parameter, part in zip(bucket, torch.split(flat, [each.numel() for each in bucket]), strict=True):
                parameter.grad = part.view_as(parameter)
        self._sent = []
        self._missing = [len(bucket) for bucket in self._buckets]

    def _arrived(self, parameter: torch.Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        self._missing[self._bucket_of[parameter]] -= 1
        self._send()

    def _send(self, *, everything: bool = False) -> None:
        while len(self._sent) < len(self._buckets) and (everything or self._missing[len(self._sent)] == 0):
            bucket = self._buckets[len(self._sent)]
            gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            with self._processes.with_others():
                self._sent.append((flat, distributed.all_reduce(flat, async_op=True)))


def _buckets(parameters: Iterable[nn.Parameter], most_bytes: int) -> list[list[nn.Parameter]]:
    buckets: list[list[nn.Parameter]] = []
    size, dtype = 0, None
    for parameter in parameters:
        if not buckets or size >= most_bytes or parameter.dtype != dtype:
            buckets.append([])
            size, dtype = 0, parameter.dtype
        buckets[-1].append(parameter)
        size += parameter.numel() * parameter.element_size()
    return buckets


def average_running_statistics(processes: Processes, module: nn.Module) -> None:
    """Average the running statistics of BatchNorms over the processes, in one exchange; other buffers stay as they are."""
    moving = running_statistics(module) if processes.world_size > 1 else []
    if moving:
        flat = processes.sum_(torch.cat([value.reshape(-1) for value in moving])).div_(processes.world_size)
        for value, part in zip(moving, torch.split(flat, [value.numel() for value in moving]), strict=True):
            value.copy_(part.view_as(value))


def running_statistics(module: nn.Module) -> list[torch.Tensor]:
    """Return the running means and variances of the module's BatchNorms."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    return [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
