"""What is taken for a recording, and how much of it is decoded."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from mrl.audio import load_audio
from mrl.serving import Limits
from mrl.serving.gate import Refusal
from mrl.serving.service import decode_recording, is_recording
from tests.serving.makers import recording

LIMITS = Limits(max_seconds=3)


def encoded(container: str, codec: str, seconds: float = 1.5) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as written:
        track = written.add_stream(codec, rate=48_000)
        samples = load_audio(recording(1, seconds=seconds), sample_rate=48_000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(format=track.codec_context.format, layout="mono", rate=48_000, frame_size=960)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            written.mux(track.encode(piece))
        written.mux(track.encode(None))
    return stream.getvalue()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "AIFF", "CAF", "MP3", "RF64"])
def test_formats_of_libsndfile(form: str) -> None:
    data = recording(1, form=form)
    assert is_recording(data)
    assert len(decode_recording(data, LIMITS)) == pytest.approx(24_000, abs=2400)


@pytest.mark.parametrize(("container", "codec"), [("webm", "libopus"), ("mp4", "aac"), ("adts", "aac")])
def test_formats_of_browsers_and_telephones(container: str, codec: str) -> None:
    data = encoded(container, codec)
    assert is_recording(data)
    assert len(decode_recording(data, LIMITS)) == pytest.approx(24_000, abs=2400)
    with pytest.raises(Refusal, match="may last 3 s at most") as refused:
        decode_recording(encoded(container, codec, 4.0), LIMITS)
    assert refused.value.status == 413


@pytest.mark.parametrize("prefix", [b"", b"ID3\x04\0\0\0\0\0\x05abcde", b"ID3\x04\0\0\0\0\0\x00\0\0\0", b"\xef\xbb\xbf", b"\n"])
def test_playlists_read_no_files_of_this_machine(prefix: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # ffmpeg's libraries follow names without a folder most readily
    secret = tmp_path / "secret.wav"
    secret.write_bytes(recording(1))
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1.5,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret}\n",
        f"ffconcat version 1.0\nfile {secret.name}\n",
    ):
        with pytest.raises(Refusal, match="no recording in a known format") as refused:
            decode_recording(prefix + text.encode(), LIMITS)
        assert refused.value.status == 415


def test_tags_before_audio() -> None:
    for size in (b"\0\0\0\x05abcde", b"\0\0\0\0\0\0\0\0"):
        assert is_recording(b"ID3\x04\0\0" + size + b"\xff\xfb\x90\x64")
    assert (
        not is_recording(b"ID3")
        and not is_recording(b"")
        and not is_recording(b"\xff")
        and not is_recording(b"ID3\x04\0\0\x7f\x7f\x7f\x7f")
    )


def test_headers_that_lie_or_ask_too_much() -> None:
    small_and_long = io.BytesIO()  # a minute of silence in some hundred bytes
    soundfile.write(small_and_long, np.zeros(16_000 * 60), 16_000, format="FLAC")
    with pytest.raises(Refusal, match="may last 3 s"):
        decode_recording(small_and_long.getvalue(), LIMITS)
    wide = io.BytesIO()
    soundfile.write(wide, np.ones((400, 40)) * 0.1, 48_000, format="WAV")
    with pytest.raises(Refusal, match="40 channels at 48000 Hz are too many") as refused:
        decode_recording(wide.getvalue(), LIMITS)
    assert refused.value.status == 413
    slow = bytearray(recording(1))
    slow[24:28] = struct.pack("<I", 100)  # Hz: 24,000 samples are then four minutes
    with pytest.raises(Refusal, match="may last 3 s"):
        decode_recording(bytes(slow), LIMITS)
    silent = io.BytesIO()
    soundfile.write(silent, np.zeros(16_000), 16_000, format="WAV")
    with pytest.raises(Refusal, match="digital silence") as refused:
        decode_recording(silent.getvalue(), LIMITS)
    assert refused.value.status == 422


def test_the_very_waveform_that_files_give(tmp_path: Path) -> None:
    file = tmp_path / "x.flac"
    file.write_bytes(recording(3, form="FLAC", rate=44_100))
    np.testing.assert_allclose(decode_recording(file.read_bytes(), LIMITS), load_audio(file), atol=2e-6)
