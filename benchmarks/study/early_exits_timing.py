"""What an exit saves: milliseconds of whole calls, waveform to unit-length prefix."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from mrl.matryoshka import ReDimNetMRL

SECONDS = 3


def time_depths(model: ReDimNetMRL, dims: tuple[int, ...], *, rounds: int) -> dict[str, Any]:
    """Return, for the model as loaded and for its inference copy, median milliseconds and speed by depth and dim.

    All depths and dims take turns within each round, so that what else the machine does hits all of them; the speed is the median
    over rounds of (whole network / exit) at the same dim. One recording of 3 s, the threads that torch is set to.
    """
    audio = 0.05 * torch.randn(1, SECONDS * model.sample_rate, generator=torch.Generator().manual_seed(0))
    return {
        form: _time(network, audio, dims, rounds)
        for form, network in (("as loaded", model), ("inference copy", model.optimize_for_inference()))
    }


@torch.inference_mode()
def _time(model: ReDimNetMRL, audio: torch.Tensor, dims: tuple[int, ...], rounds: int) -> dict[str, Any]:
    calls = [(depth, dim) for depth in model.depths for dim in dims]
    taken: dict[tuple[int, int], list[float]] = {call: [] for call in calls}
    for number in range(-3, rounds):  # the first rounds warm up
        for depth, dim in calls:
            start = time.perf_counter()
            model(audio, target_dim=dim, depth=depth)
            if number >= 0:
                taken[depth, dim].append(time.perf_counter() - start)
    whole = model.depths[-1]
    found: dict[str, Any] = {}
    for (depth, dim), seconds in taken.items():
        ratios = sorted(all_of_it / part for all_of_it, part in zip(taken[whole, dim], seconds, strict=True))
        found.setdefault(str(depth), {})[str(dim)] = {
            "milliseconds": 1000 * statistics.median(seconds),
            "speed": statistics.median(ratios),
            "speed_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
        }
    return found
