"""How much memory is needed and free."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.backbone import scratch_backbone
from mrl.deployment import checks as memory
from mrl.deployment.checks import CHECKED_SHAPES, Reference, shapes_that_fit


def test_estimate() -> None:
    b0 = scratch_backbone("b0")
    frames = 1 + 960000 // 240
    assert memory.estimated_bytes(b0, 8, 60.0) == 4 * 8 * (16 * 1800 * frames + 2 * frames**2)
    # ONNX Runtime took 0.3 GB for one recording of a minute.
    assert 0.3e9 < memory.estimated_bytes(b0, 1, 60.0) < 0.7e9


def test_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.free_bytes() is None
    assert memory.fits_memory(2**31) and not memory.fits_memory(2**31 + 1)
    (tmp_path / "meminfo").write_text("MemTotal:  9000000 kB\nMemFree:  1 kB\nMemAvailable:  4000000 kB\n")
    assert memory.free_bytes() == 4096000000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.free_bytes() == 4096000000
    (tmp_path / "memory.max").write_text("3000\n")
    assert memory.free_bytes() == 2000
    assert memory.fits_memory(1000) and not memory.fits_memory(1001)


def test_shapes_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference(scratch_backbone("b0").eval(), "waveform")
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**40)
    assert shapes_that_fit(reference, CHECKED_SHAPES) == CHECKED_SHAPES
    assert (8, 60.0) in CHECKED_SHAPES and (1, 0.3) in CHECKED_SHAPES
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**32)
    assert set(CHECKED_SHAPES) - set(shapes_that_fit(reference, CHECKED_SHAPES)) == {(8, 60.0)}
