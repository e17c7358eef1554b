"""What every result file of the study says about where it comes from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl.files import sha256_of
from mrl.hardware import hardware_line


def provenance(script: str, weights: Path, *, seeds: Sequence[int], resamples: int) -> dict[str, Any]:
    """Return command, weights, seeds, resamples and hardware of this run of ``benchmarks.study.<script>``."""
    return {
        "command": ["python", "-m", f"benchmarks.study.{script}", *sys.argv[1:]],
        "weights": weights.name,
        "weights_sha256": sha256_of(weights),
        "seeds": list(seeds),
        "resamples": resamples,
        "hardware": hardware_line(),
    }
