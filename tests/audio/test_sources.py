"""Recordings inside larger files and in memory sound as from files of their own; damage is told with both names."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio import FileSlice, audio_info, load_audio, sources
from mrl.errors import AudioLoadingError, InputError
from tests.audio.sounds import sweep, write_with_ffmpeg, write_with_soundfile

FORMATS = ("a.wav", "a.flac", "a.ogg", "a.opus", "a.aiff", "a.mp3", "a.m4a", "a.webm")
BEFORE, AFTER = b"RIFF" * 101, b"OggS" * 77  # a slice must not see its neighbours


def _encoded(folder: Path, name: str) -> Path:
    if name == "a.m4a":
        return write_with_ffmpeg(folder / name, sweep(16000, 1.5), 16000, "aac")
    if name == "a.webm":
        return write_with_ffmpeg(folder / name, sweep(48000, 1.5), 48000, "libopus")
    kinds = {"a.ogg": ("OGG", "VORBIS"), "a.opus": ("OGG", "OPUS")}
    format_and_subtype = dict(zip(("format", "subtype"), kinds[name], strict=True)) if name in kinds else {}
    return write_with_soundfile(folder / name, sweep(16000, 1.5), 16000, **format_and_subtype)


def _slice(path: Path, holder: Path, *, checked: bool = True) -> FileSlice:
    data = path.read_bytes()
    holder.write_bytes(BEFORE + data + AFTER)
    return FileSlice(holder, len(BEFORE), len(data), path.name, zlib.crc32(data) if checked else None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("whole_bytes", [1 << 22, 10])  # read at once, or little by little
def test_every_format_from_a_slice_and_from_memory(
    tmp_path: Path, name: str, whole_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_READ_WHOLE_BYTES", whole_bytes)
    path = _encoded(tmp_path, name)
    inside = _slice(path, tmp_path / "shard.tar")
    expected, part = load_audio(path), load_audio(path, offset=1.2, duration=0.2)
    for source in (inside, path.read_bytes()):
        assert np.array_equal(load_audio(source), expected)
        assert np.array_equal(load_audio(source, offset=1.2, duration=0.2), part)
        assert audio_info(source) == audio_info(path)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_stream_of_a_slice_is_a_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytes(range(256)) * 3
    holder = tmp_path_factory.mktemp("slices") / "holder"
    holder.write_bytes(content)
    offset = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, len(content) - offset))
    expected = content[offset : offset + length]
    with sources._SliceStream(FileSlice(holder, offset, length, "x")) as stream:
        assert stream.read() == expected
        for _ in range(5):
            whence, start = data.draw(st.sampled_from([(0, 0), (1, stream.tell()), (2, length)]))
            place = data.draw(st.integers(0, length + 5))
            assert stream.seek(place - start, whence) == place == stream.tell()
            count = data.draw(st.integers(0, length + 5))
            assert stream.read(count) == expected[place : place + count]


@pytest.mark.parametrize("whole_bytes", [1 << 22, 10])
def test_a_holder_that_is_cut_or_gone(tmp_path: Path, whole_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_READ_WHOLE_BYTES", whole_bytes)
    inside = _slice(_encoded(tmp_path, "a.flac"), tmp_path / "shard-00000.tar")
    end = len(BEFORE) + inside.length
    inside.path.write_bytes(inside.path.read_bytes()[: end - 3])
    with pytest.raises(
        AudioLoadingError, match=rf"shard-00000\.tar/a\.flac: the file is cut off: it has {end - 3} bytes, .* {end}"
    ):
        load_audio(inside)
    inside.path.unlink()
    with pytest.raises(AudioLoadingError, match=r"shard-00000\.tar/a\.flac: there is no such file"):
        load_audio(inside)


def test_altered_bytes_are_noticed(tmp_path: Path) -> None:
    inside = _slice(_encoded(tmp_path, "a.wav"), tmp_path / "shard-00000.tar")  # WAV itself has no check
    content = bytearray(inside.path.read_bytes())
    content[len(BEFORE) + 1000] ^= 1
    inside.path.write_bytes(content)
    with pytest.raises(
        AudioLoadingError, match=r"a\.wav: its bytes are not those that were written \(CRC-32 [0-9a-f]{8}, expected"
    ):
        load_audio(inside)
    content[len(BEFORE) + 1000] ^= 1
    content[0] ^= 1  # a neighbour's damage is none of ours
    inside.path.write_bytes(content)
    assert load_audio(inside).size == 24000


def test_what_is_not_audio(tmp_path: Path) -> None:
    with pytest.raises(AudioLoadingError, match=r"audio in memory \(0 bytes\): the file is empty"):
        load_audio(b"")
    with pytest.raises(AudioLoadingError, match=r"audio in memory \(2000 bytes\): soundfile: .*ffmpeg: "):
        load_audio(b"what is this" * 166 + b"12345678")
    with pytest.raises(InputError, match="must be 0 or more"):
        FileSlice(tmp_path, -1, 3, "x")


@pytest.mark.parametrize(
    "playlist", ["ffconcat version 1.0\nfile secret.wav\n", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.wav\n"]
)
@pytest.mark.parametrize("as_file", [False, True])
def test_a_playlist_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, playlist: str, as_file: bool) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("secret.wav", np.full(16000, 0.25, dtype=np.float32), 16000)
    source: Path | bytes = playlist.encode()
    if as_file:
        source = tmp_path / "innocent.m4a"
        source.write_text(playlist)
    with pytest.raises(AudioLoadingError):
        load_audio(source)
