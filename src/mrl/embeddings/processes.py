"""Several processes that embed recordings together (``torchrun``): who takes which, and how all get every result.

The processes meet as the environment says (``MASTER_ADDR``, ``MASTER_PORT``) and talk by gloo, whatever device they compute on:
what they exchange lies in main memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from mrl.errors import MRLError, ProcessError, ReportedElsewhereError
from mrl.processes import ProcessPlace

_MEETING = datetime.timedelta(minutes=10)
_TIMEOUT = datetime.timedelta(hours=2)  # shares are of equal length, but machines may differ


@dataclasses.dataclass(frozen=True)
class Processes(ProcessPlace):
    """The processes of one extraction; by default this one alone, which exchanges nothing."""

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
        if distributed.is_initialized():
            raise ProcessError("this process has joined a torch.distributed group already; leave it first")
        try:
            store, rank, world_size = next(rendezvous("env://", timeout=meeting))
            distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
        except (RuntimeError, ValueError, OSError) as error:
            raise ProcessError(
                f"{self} cannot reach the others: {_short(error)}; MASTER_ADDR and MASTER_PORT must be the first one's, "
                "and all must be started"
            ) from error
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
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [int(length) for length in self._gather(torch.tensor([len(data)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(data)] = data
        gathered = zip(self._gather(padded), lengths, strict=True)
        return [json.loads(one[:length].numpy().tobytes()) for one, length in gathered]

    def exchange_rows(self, rows: npt.NDArray[np.float32], counts: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """Return the matrices (counts[rank], width) of all processes, bit for bit, in the order of ranks.

        Raises:
            ProcessError: another process has ended or does not answer.
        """
        if self.world_size == 1:
            return [rows]
        if not any(counts):
            return [rows[:0] for _ in counts]
        padded = torch.zeros((max(counts), rows.shape[1]), dtype=torch.float32)
        padded[: len(rows)] = torch.from_numpy(rows)
        return [one[:count].numpy() for one, count in zip(self._gather(padded), counts, strict=True)]

    def require_same_work(self, work: Sequence[str]) -> None:
        """Make sure that all processes mean the same recordings.

        Raises:
            ProcessError: they do not.
        """
        digest = hashlib.sha256("\n".join(work).encode(errors="surrogateescape")).hexdigest()
        found = self.exchange([digest, len(work)])
        if any(other != found[0] for other in found):
            numbers = ", ".join(str(number) for _, number in found)
            raise ProcessError(
                f"the processes were given different recordings ({numbers} of them); all need the same inputs, under the same "
                "paths, and files must not be added meanwhile"
            )

    def common_error(self, error: MRLError) -> MRLError:
        """Return what to raise for an error that all processes run into together: only the first one tells the user."""
        return error if self.is_first else ReportedElsewhereError(str(error))

    def _gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        try:
            distributed.all_gather(gathered, tensor)
        except RuntimeError as error:
            raise ProcessError(
                f"{self} has lost the others: one has ended early (its own message says why) or does not answer ({_short(error)})"
            ) from error
        return gathered


def split_by_length(seconds: Mapping[int, float], num_shares: int) -> list[list[int]]:
    """Divide recordings into shares of nearly equal total length: each, from the longest on, goes to the shortest share so far.

    The shares' totals differ by the longest recording at most. The same lengths give the same shares in every process.

    Args:
        seconds: length of each recording, by its number.
        num_shares: number of shares.

    Returns:
        The numbers in each share, ascending.
    """
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    totals = [(0.0, 0, share) for share in range(num_shares)]
    for index in sorted(seconds, key=lambda index: (-seconds[index], index)):
        total, count, share = totals[0]
        shares[share].append(index)
        heapq.heapreplace(totals, (total + seconds[index], count + 1, share))
    return [sorted(share) for share in shares]


def _short(error: BaseException) -> str:
    """Return the beginning of what torch says, which goes on with addresses and a stack."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."
