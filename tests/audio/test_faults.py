"""Files that cannot be used: each gives one clear line."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from mrl.audio import audio_info, load_audio
from mrl.errors import AudioLoadingError
from tests.audio.sounds import sweep, tone, write_with_ffmpeg, write_with_soundfile


def refusal(path: Path, **arguments: float) -> str:
    with pytest.raises(AudioLoadingError) as caught:
        load_audio(path, **arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_absent_folder_empty(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nowhere.wav")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "empty.flac").touch()
    assert "empty (0 bytes)" in refusal(tmp_path / "empty.flac")
    write_with_soundfile(tmp_path / "header-only.wav", np.zeros(0, np.float32), 16000)
    message = refusal(tmp_path / "header-only.wav")
    assert "soundfile: no samples in it" in message
    assert "ffmpeg:" in message
    for path in (tmp_path / "nowhere.wav", tmp_path, tmp_path / "empty.flac"):
        with pytest.raises(AudioLoadingError, match=re.escape(str(path))):
            audio_info(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in refusal(tmp_path / "pipe.wav")


@pytest.mark.parametrize("name", ["page.wav", "page.mp3", "page.m4a"])
def test_web_page(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\n<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20, encoding="utf-8")
    assert "web page" in refusal(tmp_path / name)


def test_git_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    assert "git lfs pull" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["noise.wav", "noise.mp3", "noise.m4a", "noise.raw", "noise"])
def test_non_audio_joins_what_both_decoders_say(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(5).integers(0, 128, 5000, dtype=np.uint8).tobytes())
    message = refusal(tmp_path / name)
    assert "soundfile: " in message
    assert "ffmpeg: " in message
    assert "expected wav" in message


def test_video_without_sound(tmp_path: Path) -> None:
    import av

    path = tmp_path / "silent film.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))
    assert "no audio stream" in refusal(path)


def test_silent_and_cancelling(tmp_path: Path) -> None:
    samples = np.zeros(16000, np.float32)
    samples[12000:] = tone(16000, 0.25)
    path = write_with_soundfile(tmp_path / "half.wav", samples, 16000)
    assert "digital silence" in refusal(path, duration=0.5)
    assert not load_audio(path, duration=0.5, allow_silence=True).any()
    assert np.any(load_audio(path))
    opposed = np.stack([tone(16000, 0.5), -tone(16000, 0.5)], axis=1)
    assert "cancel" in refusal(write_with_soundfile(tmp_path / "opposed.wav", opposed, 16000, subtype="FLOAT"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path: Path, bad: float) -> None:
    samples = tone(16000, 0.5)
    samples[[7, 4000]] = bad
    message = refusal(write_with_soundfile(tmp_path / "a.wav", samples, 16000, subtype="FLOAT"))
    assert "2 of 8000 samples are NaN or infinite" in message


def test_float_file_on_the_integer_scale(tmp_path: Path) -> None:
    path = write_with_soundfile(tmp_path / "a.wav", tone(16000, 0.5) * 32768, 16000, subtype="FLOAT")
    assert "full scale is 1" in refusal(path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_offset_past_the_end(tmp_path: Path, name: str) -> None:
    path = write_with_soundfile(tmp_path / name, tone(16000, 1.0), 16000)
    for offset in (1.0, 1.5, 1000.0):
        assert "past the end, the recording has 1.00 s" in refusal(path, offset=offset)
    assert len(load_audio(path, offset=0.9, duration=5.0)) == 1600


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.m4a", "aac", 16000), ("a.webm", "libopus", 48000)])
def test_offset_past_the_end_by_ffmpeg(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    path = write_with_ffmpeg(tmp_path / name, tone(rate, 4.0), rate, codec)
    for offset in (4.05, 1000.0):
        assert "past the end, the recording has 4.00 s" in refusal(path, offset=offset)


def _cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def _found_and_promised(message: str) -> tuple[float, float]:
    found = re.findall(r"(\d+\.\d+) s found of (\d+\.\d+) s", message)
    assert found, message
    return float(found[-1][0]), float(found[-1][1])


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_cut_off_files_say_what_was_found_and_promised(tmp_path: Path, name: str, share: float) -> None:
    path = _cut(write_with_soundfile(tmp_path / name, sweep(16000, 8.0), 16000), share)
    message = refusal(path)
    found, promised = _found_and_promised(message)
    assert "cut off" in message
    assert promised == pytest.approx(8.0, abs=0.1)
    assert found == pytest.approx(8.0 * share, abs=1.0)
    refusal(path, offset=7.5, duration=0.2)  # the part that is not there


@pytest.mark.parametrize(
    ("name", "codec", "rate", "options"),
    [("a.m4a", "aac", 16000, {"movflags": "faststart"}), ("a.webm", "libopus", 48000, {}), ("a.mkv", "aac", 16000, {})],
)
def test_cut_off_files_by_ffmpeg(tmp_path: Path, name: str, codec: str, rate: int, options: dict[str, str]) -> None:
    path = _cut(write_with_ffmpeg(tmp_path / name, sweep(rate, 8.0), rate, codec, **options), 0.5)
    found, promised = _found_and_promised(refusal(path))
    assert promised == pytest.approx(8.0, abs=0.1)
    assert found == pytest.approx(4.0, abs=1.0)
    found, _ = _found_and_promised(refusal(path, offset=7.0, duration=0.2))
    assert found == pytest.approx(4.0, abs=1.0)
    assert len(load_audio(path, offset=1.0, duration=1.0)) == 16000  # what is there can be had


def test_m4a_without_its_index(tmp_path: Path) -> None:
    path = _cut(write_with_ffmpeg(tmp_path / "a.m4a", sweep(16000, 4.0), 16000, "aac"), 0.5)
    assert "ffmpeg: Invalid data" in refusal(path)


@pytest.mark.parametrize(("name", "subtype"), [("a.ogg", "VORBIS"), ("a.opus", "OPUS")])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_cut_ogg(tmp_path: Path, name: str, subtype: str, share: float) -> None:
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, 10 * 16000).astype(np.float32)
    path = _cut(write_with_soundfile(tmp_path / name, noise, 16000, format="OGG", subtype=subtype), share)
    message = refusal(path)
    found = re.search(r"(\d+\.\d+) s found", message)
    assert found is not None
    assert "inside an Ogg page" in message
    assert float(found[1]) == pytest.approx(10.0 * share, abs=1.5)


def test_cut_in_an_ogg_page_header(tmp_path: Path) -> None:
    path = write_with_soundfile(tmp_path / "a.ogg", sweep(16000, 8.0), 16000, format="OGG", subtype="VORBIS")
    data = path.read_bytes()
    last = data.rfind(b"OggS")
    for kept in (1, 3, 4, 10, 26, 27):
        path.write_bytes(data[: last + kept])
        assert "inside an Ogg page" in refusal(path)
    path.write_bytes(data + b"TAG" + bytes(125))  # what follows the last page is no fault
    assert len(load_audio(path)) == 8 * 16000


def test_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    """Writers to a pipe cannot go back to fill in the size."""
    path = write_with_soundfile(tmp_path / "a.wav", tone(16000, 1.0), 16000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFF000):
        data[place : place + 4] = struct.pack("<I", size)
        path.write_bytes(data)
        assert len(load_audio(path)) == 16000


def test_damage_in_the_middle_of_a_flac(tmp_path: Path) -> None:
    path = write_with_soundfile(tmp_path / "a.flac", sweep(16000, 8.0), 16000)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    assert "soundfile: " in refusal(path)


def test_no_descriptor_leaks_through_errors(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("no /proc here")
    (tmp_path / "a.wav").write_bytes(b"RIFF0000WAVE" + bytes(500))
    _cut(write_with_soundfile(tmp_path / "a.flac", sweep(16000, 4.0), 16000), 0.5)
    _cut(write_with_ffmpeg(tmp_path / "a.m4a", sweep(16000, 4.0), 16000, "aac", movflags="faststart"), 0.5)
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        for name in ("a.wav", "a.flac", "a.m4a"):
            refusal(tmp_path / name)
    assert len(list(descriptors.iterdir())) <= before
