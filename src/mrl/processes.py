"""Which process this is, of how many that work on one job together (``torchrun``)."""

from __future__ import annotations

import dataclasses
import os
from typing import TypeVar

from mrl.errors import ProcessError

_Place = TypeVar("_Place", bound="ProcessPlace")


@dataclasses.dataclass(frozen=True)
class ProcessPlace:
    """The place of this process among those of one job.

    Attributes:
        rank: number of this process, from 0; process 0 writes all files.
        world_size: number of processes.
        local_rank: number of this process on its machine, which chooses its GPU; None where the environment does not say.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int | None = None

    @classmethod
    def from_environment(cls: type[_Place]) -> _Place:
        """Read what torchrun sets.

        Raises:
            ProcessError: only some of the variables are set, or they contradict each other.
        """
        given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        if given["WORLD_SIZE"] is None and given["RANK"] is None:
            return cls()
        try:
            local_rank = int(given["LOCAL_RANK"]) if given["LOCAL_RANK"] else None
            place = cls(int(given["RANK"] or ""), int(given["WORLD_SIZE"] or ""), local_rank)
        except ValueError:
            raise ProcessError(f"RANK and WORLD_SIZE must both be whole numbers, as torchrun sets them (given {given})") from None
        if not 0 <= place.rank < place.world_size or (place.local_rank or 0) < 0:
            raise ProcessError(
                f"RANK must lie in 0..WORLD_SIZE - 1 and LOCAL_RANK be at least 0, as torchrun sets them (given {given})"
            )
        return place

    @property
    def gpu_number(self) -> int:
        """Number of the GPU that this process uses on its machine.

        Raises:
            ProcessError: there are several processes, and the environment does not say which of its machine this one is.
        """
        if self.local_rank is None and self.world_size > 1:
            raise ProcessError(
                f"{self} does not know which GPU is its own: LOCAL_RANK is not set; start the processes with torchrun, or set "
                "LOCAL_RANK to the number of each process on its machine, from 0"
            )
        return self.local_rank or 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size}"
