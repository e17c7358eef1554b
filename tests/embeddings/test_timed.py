"""Windows along recordings, with their times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mrl.audio import load_audio
from mrl.cli.embed import command
from mrl.embeddings import Extraction, as_embedder, embed_windows, save_timed
from mrl.errors import InputError
from tests.embeddings.fakes import SpectrumBackbone, write_tone
from tests.embeddings.tiny import write_models


def test_windows_have_their_times_and_are_embedded_alone(tmp_path: Path) -> None:
    long = write_tone(tmp_path / "long.wav", hertz=500, seconds=1.3)
    short = write_tone(tmp_path / "short.wav", hertz=900, seconds=0.2)
    embedder = as_embedder(SpectrumBackbone())
    timed = embed_windows(embedder, [long, tmp_path / "absent.wav", short], Extraction(batch_seconds=1.0), seconds=0.5, hop=0.25)
    assert timed.paths == (str(long),) * 5 + (str(short),)
    np.testing.assert_allclose(timed.starts, [0, 0.25, 0.5, 0.75, 0.8, 0])
    np.testing.assert_allclose(timed.ends, [0.5, 0.75, 1.0, 1.25, 1.3, 0.2])
    audio = load_audio(long)
    parts = [audio[round(start * 16000) : round(start * 16000) + 8000] for start in timed.starts[:5]]
    np.testing.assert_allclose(timed.matrix, embedder.embed([*parts, load_audio(short)]), rtol=1e-4, atol=1e-4)
    assert [(failure.path.name, "no such file" in failure.reason) for failure in timed.failures] == [("absent.wav", True)]
    for hop in (0.0, 0.6):
        with pytest.raises(InputError, match="hop must be above 0 s and no longer than a window"):
            embed_windows(embedder, [long], seconds=0.5, hop=hop)
    with pytest.raises(InputError, match=r"unsupported extension for timed windows; expected \.npz or \.parquet"):
        save_timed(tmp_path / "a.safetensors", timed, {})


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_the_command_writes_columns(tmp_path: Path, suffix: str) -> None:
    checkpoint, _ = write_models(tmp_path)
    file, output = write_tone(tmp_path / "a.wav", hertz=500, seconds=1.0), tmp_path / f"out{suffix}"
    done = CliRunner().invoke(
        command, [str(file), "-o", str(output), "--model", str(checkpoint), "--windows", "0.5", "--dim", "8"]
    )
    assert done.exit_code == 0 and done.stdout == f"3 embeddings of 8 dimensions written to {output}\n"
    if suffix == ".npz":
        with np.load(output) as arrays:
            found = {name: arrays[name] for name in ("path", "start", "end", "embedding")}
            notes = json.loads(str(arrays["metadata"]))
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(output)
        found = {name: np.array(table[name].to_pylist()) for name in ("path", "start", "end", "embedding")}
        notes = json.loads(table.schema.metadata[b"mrl"])
    assert found["path"].tolist() == [str(file)] * 3 and found["embedding"].shape == (3, 8)
    assert found["start"].tolist() == [0.0, 0.25, 0.5] and found["end"].tolist() == [0.5, 0.75, 1.0]
    assert (notes["window_seconds"], notes["hop_seconds"], notes["dim"]) == (0.5, 0.25, 8)
