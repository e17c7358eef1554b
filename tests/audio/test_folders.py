from __future__ import annotations

from pathlib import Path

import pytest

from mrl.audio import AUDIO_SUFFIXES, find_audio_files
from mrl.errors import DataError


def test_found_recursively_sorted_in_any_case(tmp_path: Path) -> None:
    names = ["b/x.WAV", "a/deep/y.m4a", "a/z.Flac", "a.opus", "notes.txt", "a/.hidden.wav", ".cache/a.wav", "b/movie.MP4"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_audio_files(tmp_path)]
    assert found == ["a/deep/y.m4a", "a/z.Flac", "a.opus", "b/movie.MP4", "b/x.WAV"]
    assert {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".webm", ".mp4"} <= AUDIO_SUFFIXES


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.wav").touch()
    (tmp_path / "real" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert find_audio_files(tmp_path) == [tmp_path / "real" / "a.wav"]


def test_missing_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_audio_files(tmp_path / "nowhere")
    (tmp_path / "a.wav").touch()
    with pytest.raises(DataError, match="is not a folder"):
        find_audio_files(tmp_path / "a.wav")
    assert find_audio_files(tmp_path) == [tmp_path / "a.wav"]
