"""How much memory a comparison needs, and how much there is: so that a check never brings the machine down."""

from __future__ import annotations

from pathlib import Path

from mrl.backbone import ReDimNet

_FLOAT_BYTES = 4
# Measured with ONNX Runtime for b0, b2 and b5 at 60 s: 6 to 15 maps of the widest stage, and two products over pairs of frames.
_MAPS = 16
_PAIRS = 2
_SHARE = 0.5
_WITHOUT_KNOWLEDGE = 2**31

_MEMORY = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def estimated_bytes(backbone: ReDimNet, batch: int, seconds: float) -> int:
    """Return about how many bytes a runtime without fused attention takes at most for ``batch`` recordings of ``seconds``."""
    frames = 1 + round(seconds * backbone.sample_rate) // backbone.config.front_end.hop_length
    per_recording = _MAPS * backbone.encoder.numbers_per_frame * frames + _PAIRS * frames * frames
    return _FLOAT_BYTES * batch * per_recording


def fits_memory(num_bytes: int) -> bool:
    """Return whether ``num_bytes`` are at most half of the memory that is free; where that is unknown, whether they are 2 GiB."""
    free = free_bytes()
    return num_bytes <= (_WITHOUT_KNOWLEDGE if free is None else _SHARE * free)


def free_bytes() -> int | None:
    """Return how much memory this process may still take, with the limit of its container; None where Linux does not say."""
    found = []
    if _MEMORY.is_file():
        for line in _MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
    limit, used = _number(_GROUP / "memory.max"), _number(_GROUP / "memory.current")
    if limit is not None and used is not None:
        found.append(max(0, limit - used))
    return min(found, default=None)


def _number(file: Path) -> int | None:
    text = file.read_text(encoding="ascii").strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None
