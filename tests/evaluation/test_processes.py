"""An evaluation by several processes under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl.embeddings import Crops, Extraction, extract, open_embedder
from tests.embeddings.fakes import all_pairs
from tests.embeddings.tiny import write_models, write_voices

ROOT = Path(__file__).resolve().parents[2]
CROPS: dict[str, Any] = {
    "how": Extraction(batch_seconds=5.0, num_workers=1, show_progress=False),
    "crops": Crops(2, 0.3),
    "on_error": "raise",
}
_TIME_ENOUGH = 200


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_models(folder)
    lines = [f"{int(label)} {a} {b}\n" for label, a, b in all_pairs(write_voices(folder / "voices"))]
    (folder / "trials.txt").write_text("".join(lines))
    (folder / "voices" / "bad.wav").write_text("not audio")
    (folder / "with-bad.txt").write_text("".join(lines) + f"0 bad.wav {lines[0].split()[1]}\n")
    return folder


def _evaluate(place: Path, *more: str, processes: int, trials: str = "trials.txt") -> subprocess.CompletedProcess[str]:
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, "-m", "mrl", "evaluate", str(place / "tiny-mrl"), "--trials", str(place / trials)]
    command += ["--root", str(place / "voices"), "--dims", "16,192", "--bootstrap", "0", *more]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIME_ENOUGH, env=settings)


def _figures(report: Path) -> list[Any]:
    read = json.loads((report / "report.json").read_text())
    return [read["systems"], read["strata"], read["trial_list"]]


def _assert_alike(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            _assert_alike(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    else:
        assert found == expected


def _cached(cache: Path) -> dict[tuple[str, str], list[np.ndarray]]:
    """The rows of a cache by shelf and recording; none is there twice."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for part in cache.glob("*/part-*.npz"):
        with np.load(part, allow_pickle=False) as archive:
            outputs = [archive[name] for name in archive.files if name.startswith("output")]
            for row, path in enumerate(archive["paths"]):
                assert (part.parent.name, str(path)) not in found
                found[part.parent.name, str(path)] = [output[row] for output in outputs]
    return found


@pytest.mark.slow
def test_torchrun_evaluates_like_one_process_and_fills_the_same_cache(place: Path, tmp_path: Path) -> None:
    more = ["--cut-seconds", "0.3"]
    alone = _evaluate(place, *more, "--output", str(tmp_path / "one"), "--cache", str(tmp_path / "cache-one"), processes=1)
    assert alone.returncode == 0, alone.stderr
    places = ["--output", str(tmp_path / "two"), "--cache", str(tmp_path / "cache-two")]
    together = _evaluate(place, *more, *places, processes=2)
    assert together.returncode == 0, together.stderr
    _assert_alike(_figures(tmp_path / "two"), _figures(tmp_path / "one"))
    assert together.stdout.count("written: ") == alone.stdout.count("written: ") == len(list((tmp_path / "one").iterdir()))
    one, two = _cached(tmp_path / "cache-one"), _cached(tmp_path / "cache-two")
    on_test = {line.split()[2] for line in (place / "trials.txt").read_text().splitlines()}
    assert len(one) == 18 + len(on_test) and two.keys() == one.keys()
    for key, rows in one.items():
        for row, other in zip(rows, two[key], strict=True):
            np.testing.assert_allclose(other, row, rtol=1e-5, atol=1e-6 * float(np.abs(row).max()))
    before = sorted((tmp_path / "cache-two").rglob("*"))
    again = _evaluate(place, *more, *places, processes=2)
    assert again.returncode == 0, again.stderr
    assert sorted((tmp_path / "cache-two").rglob("*")) == before
    _assert_alike(_figures(tmp_path / "two"), _figures(tmp_path / "one"))


def test_crops_are_shared_too(place: Path, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
import numpy as np
from mrl.embeddings import EmbeddingCache, Processes, extract, open_embedder
from tests.evaluation.test_processes import CROPS
model, voices, folder = sys.argv[1:]
paths = sorted(Path(voices).glob("*/*.flac"))
with Processes.from_environment().together() as processes:
    cache = EmbeddingCache(Path(folder) / "cache")
    crops = extract(open_embedder(model), paths, cache=cache, processes=processes, **CROPS).matrices[0]
np.save(Path(folder) / f"{processes.rank}.npy", crops)
"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python", sys.executable]
    arguments = ["-c", script, str(place / "tiny-mrl"), str(place / "voices"), str(tmp_path)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=_TIME_ENOUGH, env=settings)
    assert run.returncode == 0, run.stderr
    paths = sorted((place / "voices").glob("*/*.flac"))
    expected = extract(open_embedder(place / "tiny-mrl"), paths, **CROPS).matrices[0]
    assert expected.shape == (18, 2, 256)
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npy", allow_pickle=False)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len({path for _, path in _cached(tmp_path / "cache")}) == 18


def test_an_unreadable_recording_is_told_once(place: Path, tmp_path: Path) -> None:
    together = _evaluate(place, "--output", str(tmp_path / "report"), processes=2, trials="with-bad.txt")
    assert together.returncode != 0
    told = [line for line in together.stderr.splitlines() if "mrl evaluate" in line]
    assert len(told) == 1, together.stderr
    assert told[0].startswith(f"mrl evaluate: error: 1 of 19 recordings cannot be used: {place / 'voices' / 'bad.wav'}")
    assert not (tmp_path / "report").exists()
