"""benchmarks/gpu_suite.py runs on a CPU with tiny sizes, so that it works at the first try where there is a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks import gpu_suite


def test_every_part_is_measured_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compiling tiny networks takes most of a minute; that compiled training is right has tests of its own.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    assert gpu_suite.main(["--device", "cpu", "--tiny", "--output", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    names = {row["row"] for row in found["training"]} | set(found["left_out"])
    ways = [f"tiny, stage 2, {kind}{more}" for kind in ("fp32", "bf16") for more in ("", ", channels last", ", compiled")]
    assert names >= {*ways, "tiny, plain loop around the network, fp32", "tiny, plain loop around the network, bf16"}
    assert {name for name in found["left_out"] if "compiled" not in name} == set()  # a machine may have no compiler
    assert all(row["crops_per_second"] > 0 for row in [*found["training"], *found["loader"]])
    assert [row["row"] for row in found["embedding"]] == ["tiny, batch 1", "tiny, batch 3"]
    assert found["exchange"][0]["backend"] == "gloo" and found["exchange"][0]["gigabytes_per_second"] > 0
    assert 0 < found["agreement"][0]["bf16"] < 0.2
    capsys.readouterr()
    gpu_suite.main(["--table", str(tmp_path / "out.json")])
    printed = capsys.readouterr().out
    assert "| tiny, stage 2, fp32 |" in printed and "| tiny, batch 3 |" in printed


def test_what_there_is_no_time_for_is_listed() -> None:
    budget = gpu_suite.Budget(-1.0)
    assert budget.row("late", dict) == [] and budget.left_out == {"late": "no time left"}
    budget = gpu_suite.Budget(60.0)

    def failing() -> dict[str, object]:
        raise RuntimeError("out of\nmemory")

    assert budget.row("large", failing) == [] and budget.left_out == {"large": "out of memory"}
