"""Cohorts from folders, manifests and files of embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.embeddings import save_embeddings
from mrl.errors import DataError, InputError
from mrl.evaluation import open_cohort


def test_a_folder_and_a_manifest_name_the_same_recordings(tmp_path: Path) -> None:
    for name in ("a/1.wav", "a/2.wav", "b/1.wav"):
        (tmp_path / "voices" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "voices" / name).write_bytes(b"")
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("path,speaker\nvoices/a/1.wav,a\nvoices/a/2.wav,a\nvoices/b/1.wav,b\n")
    folder, listed = open_cohort(tmp_path / "voices"), open_cohort(manifest)
    assert folder.paths == listed.paths and folder.speakers == listed.speakers == ("a", "a", "b")
    assert folder.num_speakers == 2 and folder.speakers_in(["b", "c"]) == ("b",)
    folder.require_speakers(2)
    with pytest.raises(InputError, match="top 3 needs as many cohort speakers; .* has 2"):
        folder.require_speakers(3)
    folder.require_others([tmp_path / "elsewhere.wav"])
    with pytest.raises(DataError, match="1 of 2 recordings of the trials are in the cohort"):
        folder.require_others([tmp_path / "voices" / "x" / ".." / "a" / "1.wav", tmp_path / "c.wav"])


def test_a_file_of_embeddings(tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2) + 1
    save_embeddings(tmp_path / "e.npz", ["a/1", "a/2", "u3"], matrix)
    cohort = open_cohort(tmp_path / "e.npz", speakers={"u3": "c"})
    assert cohort.speakers == ("a", "a", "c") and cohort.matrix is not None and np.array_equal(cohort.matrix, matrix)
    with pytest.raises(DataError, match="cannot tell the speaker from 'u3'"):
        open_cohort(tmp_path / "e.npz")


def test_what_is_no_cohort(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_cohort(tmp_path / "absent")
    (tmp_path / "list.xyz").write_text("")
    with pytest.raises(InputError, match="is no cohort"):
        open_cohort(tmp_path / "list.xyz")
    (tmp_path / "m.csv").write_text("path,speaker,start,duration\na.wav,a,1.5,2\nb.wav,b,0,2\n")
    with pytest.raises(DataError, match="1 rows of .* begin later than at 0 s"):
        open_cohort(tmp_path / "m.csv")
