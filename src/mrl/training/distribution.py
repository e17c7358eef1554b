"""One process or many (torchrun): the same code, with plain collective operations between optimizer steps."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterable, Iterator

import torch
from torch import distributed, nn

from mrl.errors import ProcessError
from mrl.processes import ProcessPlace

_TIMEOUT = datetime.timedelta(hours=2)  # one process may fill the cache or validate while the others wait


@dataclasses.dataclass(frozen=True)
class Processes(ProcessPlace):
    """The processes of one training; by default this one alone."""

    def connect(self, device: torch.device) -> None:
        """Join the other processes: NCCL between GPUs, gloo between CPUs.

        Raises:
            ProcessError: they cannot be reached.
        """
        if self.world_size > 1 and not distributed.is_initialized():
            try:
                distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
            except (RuntimeError, ValueError, OSError) as error:
                raise ProcessError(
                    f"{self} cannot reach the others ({_short(error)}); MASTER_ADDR and MASTER_PORT must be the first one's, "
                    "and all must be started"
                ) from error

    def disconnect(self) -> None:
        """Leave the group."""
        if self.world_size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            with self._loss_told():
                distributed.barrier()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace the tensor by its sum over all processes."""
        if self.world_size > 1:
            with self._loss_told():
                distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes; a process without one counts as zero."""
        if self.world_size == 1:
            return
        for bucket in _buckets(parameters):
            gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in bucket]
            flat = self.sum_(torch.cat([gradient.reshape(-1) for gradient in gradients]))
            for parameter, part in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
                parameter.grad = part.view_as(parameter).clone()

    def share_state(self, module: nn.Module) -> None:
        """Give all processes the parameters and buffers of process 0."""
        if self.world_size > 1:
            with self._loss_told():
                for value in (*module.parameters(), *module.buffers()):
                    distributed.broadcast(value.detach(), src=0)

    def average_buffers(self, module: nn.Module) -> None:
        """Average floating-point buffers (running BatchNorm statistics) over the processes."""
        if self.world_size > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    self.sum_(buffer).div_(self.world_size)

    @contextlib.contextmanager
    def _loss_told(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ProcessError(
                f"{self} has lost the others: one has ended early (its own message says why) or does not answer "
                f"({_short(error)}); start all again with --resume auto"
            ) from error


_BUCKET_NUMBERS = 1 << 22


def _short(error: BaseException) -> str:
    """Return the beginning of what torch says, which goes on with addresses and a stack."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    numbers = 0
    for parameter in parameters:
        bucket.append(parameter)
        numbers += parameter.numel()
        if numbers >= _BUCKET_NUMBERS:
            yield bucket
            bucket, numbers = [], 0
    if bucket:
        yield bucket
