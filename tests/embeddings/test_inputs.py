"""From what a user names to recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.embeddings import collect_recordings
from mrl.errors import DataError
from tests.embeddings.fakes import write_tone


def test_files_folders_and_lists_each_recording_once(tmp_path: Path) -> None:
    a, b, c = (write_tone(tmp_path / name, hertz=500, seconds=0.05) for name in ("f/b.wav", "f/deep/a.wav", "c.wav"))
    listing = tmp_path / "list.txt"
    listing.write_text(f"{c}\n\n{tmp_path / 'absent.wav'}\n")
    assert collect_recordings([b, tmp_path / "f", listing, a]) == [b, a, c, tmp_path / "absent.wav"]


def test_empty_folder_and_unusable_lists(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        (".", "no recordings"),
        ("empty.txt", "is empty"),
        ("binary.txt", "cannot be read"),
        ("no.txt", "cannot"),
    ):
        with pytest.raises(DataError, match=message):
            collect_recordings([tmp_path / name])
