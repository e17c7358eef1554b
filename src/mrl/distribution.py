"""The processes of one job (``torchrun``): how they meet, exchange and share work; one process is the case without any of it.

They meet as the environment says (``MASTER_ADDR``, ``MASTER_PORT``). An extraction talks by gloo, whatever device it computes on,
because what it exchanges lies in main memory; a training on GPUs talks by NCCL. torch is imported once there are several of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mrl.errors import MRLError, ProcessError, ReportedElsewhereError
from mrl.processes import ProcessPlace

if TYPE_CHECKING:
    import torch
    from torch import nn

_MEETING = datetime.timedelta(minutes=10)
_TIMEOUT = datetime.timedelta(minutes=30)  # shares are of equal length, but machines differ, and one validates while others wait


@dataclasses.dataclass(frozen=True)
class Processes(ProcessPlace):
    """The processes of one job; by default this one alone, which exchanges nothing."""

    @contextlib.contextmanager
    def together(self, *, meeting: datetime.timedelta = _MEETING, timeout: datetime.timedelta = _TIMEOUT) -> Iterator[Processes]:
        """Be connected with the others while the block runs; where it ends well, wait until it has ended for all of them.

        Args:
            meeting: how long to wait for the others at the beginning.
            timeout: how long to wait for another process that has not finished its share.

        Raises:
            ProcessError: the others cannot be reached.
        """
        if self.world_size == 1:
            yield self
            return
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        if distributed.is_initialized():
            raise ProcessError("this process has joined a torch.distributed group already; leave it first")
        with self._meeting_others():
            store, rank, world_size = next(rendezvous("env://", timeout=meeting))
            distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
        try:
            yield self
            # A process that left while another still receives would break the connection under it. Whoever has gone by now
            # has said why, and this process has all it needs.
            with contextlib.suppress(RuntimeError):
                distributed.barrier()
        finally:
            distributed.destroy_process_group()

    def device(self, device: str) -> str:
        """Return the device of this process: ``cuda`` is the GPU with its local rank, everything else stays."""
        return f"cuda:{self.gpu_number}" if device == "cuda" and self.world_size > 1 else device

    def exchange(self, value: Any) -> list[Any]:
        """Return the JSON values of all processes, in the order of ranks.

        Raises:
            ProcessError: another process has ended or does not answer.
        """
        if self.world_size == 1:
            return [value]
        import torch

        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [int(length) for length in self._gather(torch.tensor([len(data)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(data)] = data
        gathered = zip(self._gather(padded), lengths, strict=True)
        return [json.loads(values[:length].numpy().tobytes()) for values, length in gathered]

    def exchange_rows(self, rows: npt.NDArray[np.float32], counts: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """Return the matrices (counts[rank], width) of all processes, bit for bit, in the order of ranks.

        Raises:
            ProcessError: another process has ended or does not answer.
        """
        if self.world_size == 1:
            return [rows]
        import torch

        if not any(counts):
            return [rows[:0] for _ in counts]
        padded = torch.zeros((max(counts), rows.shape[1]), dtype=torch.float32)
        padded[: len(rows)] = torch.from_numpy(rows)
        return [values[:count].numpy() for values, count in zip(self._gather(padded), counts, strict=True)]

    def require_same_work(self, work: Sequence[str]) -> None:
        """Make sure that all processes mean the same recordings.

        Raises:
            ProcessError: they do not.
        """
        digest = hashlib.sha256("\n".join(work).encode(errors="surrogateescape")).hexdigest()
        given = self.exchange([digest, len(work)])
        if any(other != given[0] for other in given):
            numbers = ", ".join(str(number) for _, number in given)
            raise ProcessError(
                f"the processes were given different recordings ({numbers} of them); all need the same inputs, under the same "
                "paths, and files must not be added meanwhile"
            )

    def common_error(self, error: MRLError) -> MRLError:
        """Return what to raise for an error that all processes run into together: only the first one tells the user."""
        return error if self.is_first else ReportedElsewhereError(str(error))

    def connect(self, device: torch.device, *, timeout: datetime.timedelta = _TIMEOUT) -> None:
        """Join the other processes until :meth:`disconnect`: NCCL between GPUs, gloo between CPUs.

        A GPU is bound to the process first: otherwise every process would open a context on the first GPU of its machine, and
        NCCL would have to guess from the rank which GPU is whose.

        Args:
            device: what this process computes on.
            timeout: how long to wait for another process that does not answer.

        Raises:
            ProcessError: they cannot be reached.
        """
        import torch

        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.world_size == 1 or torch.distributed.is_initialized():
            return
        with self._meeting_others():
            if device.type == "cuda":
                torch.distributed.init_process_group("nccl", timeout=timeout, device_id=device)
            else:
                torch.distributed.init_process_group("gloo", timeout=timeout)

    def disconnect(self) -> None:
        """Leave the group."""
        if self.world_size == 1:
            return
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            from torch import distributed

            with self.with_others():
                distributed.barrier()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace the tensor by its sum over all processes."""
        if self.world_size > 1:
            from torch import distributed

            with self.with_others():
                distributed.all_reduce(tensor)
        return tensor

    def share_state(self, module: nn.Module) -> None:
        """Give all processes the parameters and buffers of process 0."""
        if self.world_size > 1:
            from torch import distributed

            with self.with_others():
                for value in (*module.parameters(), *module.buffers()):
                    distributed.broadcast(value.detach(), src=0)

    def _gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        import torch
        from torch import distributed

        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        with self.with_others():
            distributed.all_gather(gathered, tensor)
        return gathered

    @contextlib.contextmanager
    def _meeting_others(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:
            raise ProcessError(
                f"{self} cannot reach the others ({_short(error)}); MASTER_ADDR and MASTER_PORT must be the first one's, "
                "and all must be started"
            ) from error

    @contextlib.contextmanager
    def with_others(self) -> Iterator[None]:
        """Be the context of an exchange.

        Raises:
            ProcessError: another process has ended or does not answer.
        """
        import torch

        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ProcessError(
                f"{self} has lost the others: one has ended early (its own message says why) or does not answer "
                f"({_short(error)}); start all of them again (a training with --resume auto)"
            ) from error


def _short(error: BaseException) -> str:
    """Return the beginning of what torch says, which goes on with addresses and a stack."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."
