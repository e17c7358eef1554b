"""Every decoder, rate, width and channel count, and parts against the whole."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio import AudioInfo, audio_info, load_audio, stream_audio
from mrl.errors import AudioLoadingError, InputError
from tests.audio.sounds import Waveform, frequency_and_amplitude, sweep, tone, write_with_ffmpeg, write_with_soundfile

RATES = (8000, 16000, 22050, 44100, 48000)

LOSSLESS = {
    "u8.wav": ({"subtype": "PCM_U8"}, 2**-7),
    "s16.wav": ({"subtype": "PCM_16"}, 2**-15),
    "s24.wav": ({"subtype": "PCM_24"}, 2**-23),
    "s32.wav": ({"subtype": "PCM_32"}, 2**-24),
    "float.wav": ({"subtype": "FLOAT"}, 0.0),
    "double.wav": ({"subtype": "DOUBLE"}, 0.0),
    "s16.flac": ({"subtype": "PCM_16"}, 2**-15),
    "s24.flac": ({"subtype": "PCM_24"}, 2**-23),
    "s16.aiff": ({"subtype": "PCM_16"}, 2**-15),
}
LOSSY_SOUNDFILE = {
    "a.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}
LOSSY_FFMPEG = {
    "a.m4a": ("aac", 16000, {}),
    "a44.m4a": ("aac", 44100, {"movflags": "faststart"}),
    "a.mov": ("aac", 16000, {}),
    "a.mkv": ("aac", 16000, {}),
    "a.webm": ("libopus", 48000, {}),
    "lame.mp3": ("libmp3lame", 16000, {}),
    "bare.mp3": ("libmp3lame", 16000, {"write_xing": "0", "id3v2_version": "0"}),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files_come_back_to_the_last_bit(tmp_path: Path, name: str) -> None:
    kind, step = LOSSLESS[name]
    samples = sweep(16000, 0.5)
    loaded = load_audio(write_with_soundfile(tmp_path / name, samples, 16000, **kind))
    assert loaded.dtype == np.float32
    assert loaded.shape == (8000,)
    assert np.max(np.abs(loaded - samples)) <= step


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channel_count_gives_the_same_tone(tmp_path: Path, rate: int, channels: int) -> None:
    shares = np.linspace(0.5, 1.5, channels) if channels > 1 else np.ones(1)  # mean 1
    samples = (tone(rate, 1.0)[:, None] * shares).astype(np.float32)
    path = write_with_soundfile(tmp_path / "tone.wav", samples, rate, subtype="FLOAT")
    loaded = load_audio(path)
    assert len(loaded) == 16000
    hertz, amplitude = frequency_and_amplitude(loaded[1000:-1000], 16000)
    assert hertz == pytest.approx(440.0, abs=0.1)
    assert amplitude == pytest.approx(0.25, rel=2e-3)
    assert np.max(np.abs(loaded[500:-500] - tone(16000, 1.0)[500:-500])) < 1e-3  # in time as well: the resampler adds no delay
    assert audio_info(path) == AudioInfo(1.0, rate, channels)


def test_resampling_removes_what_the_new_rate_cannot_carry(tmp_path: Path) -> None:
    both = tone(48000, 1.0) + tone(48000, 1.0, hertz=11000.0)
    loaded = load_audio(write_with_soundfile(tmp_path / "high.wav", both, 48000, subtype="FLOAT"))
    assert np.sqrt(np.mean((loaded[1000:-1000] - tone(16000, 1.0)[1000:-1000]) ** 2)) < 1e-4


def _tone_file(folder: Path, name: str) -> Path:
    if name in LOSSY_SOUNDFILE:
        return write_with_soundfile(folder / name, tone(16000, 2.0), 16000, **LOSSY_SOUNDFILE[name])
    codec, rate, options = LOSSY_FFMPEG[name]
    return write_with_ffmpeg(folder / name, tone(rate, 2.0), rate, codec, **options)


@pytest.mark.parametrize("name", [*LOSSY_SOUNDFILE, *LOSSY_FFMPEG])
def test_lossy_formats_keep_tone_length_and_time(tmp_path: Path, name: str) -> None:
    loaded = load_audio(_tone_file(tmp_path, name))
    # MP4, Ogg, Opus and MP3 with a LAME header state where the sound begins and ends; the others add up to a few packets.
    exact = name.endswith((".m4a", ".mov", ".webm", ".ogg", ".opus", "a.mp3", "lame.mp3"))
    assert len(loaded) / 16000 == pytest.approx(2.0, abs=1e-4 if exact else 0.12)
    hertz, amplitude = frequency_and_amplitude(loaded[4000:24000], 16000)
    assert hertz == pytest.approx(440.0, abs=0.2)
    assert amplitude == pytest.approx(0.25, rel=0.06)  # LAME turns down by 5 %
    if exact:  # priming is taken off: the phase is right from the start on
        assert np.sqrt(np.mean((loaded[2000:28000] - tone(16000, 2.0)[2000:28000]) ** 2)) < 0.02
    assert audio_info(tmp_path / name).seconds == pytest.approx(len(loaded) / 16000, abs=0.03)


def test_stereo_m4a_is_averaged(tmp_path: Path) -> None:
    samples = np.stack([tone(16000, 1.0, amplitude=0.4), tone(16000, 1.0, amplitude=0.1)], axis=1)
    path = write_with_ffmpeg(tmp_path / "a.m4a", samples, 16000, "aac")
    assert frequency_and_amplitude(load_audio(path)[2000:-2000], 16000)[1] == pytest.approx(0.25, rel=0.03)
    assert audio_info(path).channels == 2


def test_sound_of_a_video_is_read(tmp_path: Path) -> None:
    import av

    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(16000, 1.0)[None, : 15 * 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=16000, frame_size=1024)
        for index in range(10):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), index * 20, dtype=np.uint8), format="rgb24")
            container.mux(video.encode(picture))
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio.encode(part))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    loaded = load_audio(path)
    assert len(loaded) == 15 * 1024
    assert frequency_and_amplitude(loaded[2000:-2000], 16000)[0] == pytest.approx(440.0, abs=0.2)


# Parts ---------------------------------------------------------------------------------------------------------------------

PART_FILES = {
    "s16_16.wav": (16000, {}),
    "s16_44.wav": (44100, {}),
    "s16_22.flac": (22050, {}),
    "s16_8.flac": (8000, {}),
    "vorbis_44.ogg": (44100, LOSSY_SOUNDFILE["a.ogg"]),
    "opus_48.opus": (48000, LOSSY_SOUNDFILE["a.opus"]),
    "opus_16.opus": (16000, LOSSY_SOUNDFILE["a.opus"]),
    "mpeg_44.mp3": (44100, LOSSY_SOUNDFILE["a.mp3"]),
    "lame_16.mp3": (16000, ("libmp3lame", {})),
    "bare_16.mp3": (16000, ("libmp3lame", {"write_xing": "0", "id3v2_version": "0"})),
    "aac_16.m4a": (16000, ("aac", {})),
    "aac_44.m4a": (44100, ("aac", {})),
    "aac_44.mkv": (44100, ("aac", {})),
    "aac_16.aac": (16000, ("aac", {})),
    "opus_48.webm": (48000, ("libopus", {})),
}


@pytest.fixture(scope="module")
def part_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Waveform]]:
    """Eight seconds of a sweep in every format, and each decoded as a whole."""
    folder = tmp_path_factory.mktemp("parts")
    files = {}
    for name, (rate, kind) in PART_FILES.items():
        if isinstance(kind, tuple):
            path = write_with_ffmpeg(folder / name, sweep(rate, 8.0), rate, kind[0], **kind[1])
        else:
            path = write_with_soundfile(folder / name, sweep(rate, 8.0), rate, **kind)
        files[name] = path, load_audio(path)
    return files


@pytest.mark.parametrize("name", PART_FILES)
@settings(max_examples=12, deadline=None)
@given(offset=st.floats(0.0, 7.9), duration=st.none() | st.floats(0.001, 9.0))
def test_a_part_equals_the_same_part_of_the_whole(
    part_files: dict[str, tuple[Path, Waveform]], name: str, offset: float, duration: float | None
) -> None:
    path, whole = part_files[name]
    start = round(offset * 16000)
    stop = None if duration is None else start + max(1, round(duration * 16000))
    part = load_audio(path, offset=offset, duration=duration, allow_silence=True)
    expected = whole[start:stop]
    assert len(part) == len(expected)
    assert np.max(np.abs(part - expected)) < 2e-6


@pytest.mark.parametrize("name", PART_FILES)
def test_blocks_joined_equal_the_whole(part_files: dict[str, tuple[Path, Waveform]], name: str) -> None:
    path, whole = part_files[name]
    for duration, block in ((None, 0.37), (1.3, 0.5), (None, 100.0)):
        blocks = list(stream_audio(path, duration=duration, block_seconds=block))
        assert {len(part) for part in blocks[:-1]} <= {round(block * 16000)} and blocks[-1].size
        expected = whole if duration is None else whole[: round(duration * 16000)]
        np.testing.assert_allclose(np.concatenate(blocks), expected, atol=2e-6)
    np.testing.assert_allclose(np.concatenate(list(stream_audio(path.read_bytes()))), whole, atol=2e-6)


def test_what_a_stream_refuses(tmp_path: Path) -> None:
    silent = write_with_soundfile(tmp_path / "silent.wav", np.zeros(40000, dtype=np.float32), 16000)
    with pytest.raises(AudioLoadingError, match="digital silence"):
        list(stream_audio(silent, block_seconds=1.0))
    cancelling = np.stack([sweep(16000, 1.0), -sweep(16000, 1.0)], axis=1)
    with pytest.raises(AudioLoadingError, match="channels cancel"):
        list(stream_audio(write_with_soundfile(tmp_path / "cancelling.wav", cancelling, 16000, subtype="FLOAT")))
    cut = write_with_soundfile(tmp_path / "cut.flac", sweep(16000, 4.0), 16000)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    seen: list[Waveform] = []
    with pytest.raises(AudioLoadingError, match=r"cut\.flac: .*s found of 4\.00 s"):
        seen.extend(stream_audio(cut, block_seconds=0.5))
    np.testing.assert_allclose(np.concatenate(seen), sweep(16000, 4.0)[: sum(map(len, seen))], atol=1e-4)
    with pytest.raises(AudioLoadingError, match="there is no such file"):
        list(stream_audio(tmp_path / "absent.wav"))
    loud = write_with_soundfile(tmp_path / "loud.wav", 1000 * sweep(16000, 1.0), 16000, subtype="FLOAT")
    with pytest.raises(AudioLoadingError, match="samples reach 300"):
        list(stream_audio(loud))


def test_noise_substitution_of_aac_differs_only_in_its_random_bands(tmp_path: Path) -> None:
    """AAC replaces noisy bands by random numbers: a part and the whole agree in all else."""
    rng = np.random.default_rng(0)
    noisy = sweep(44100, 6.0) + 0.02 * rng.standard_normal(6 * 44100).astype(np.float32)
    path = write_with_ffmpeg(tmp_path / "a.m4a", noisy, 44100, "aac", substitute_noise=True)
    whole, part = load_audio(path), load_audio(path, offset=3.0, duration=2.0)
    expected = whole[48000:80000]
    assert np.mean((part - expected) ** 2) < 0.02 * np.mean(expected**2)
    lags = [np.dot(part[100:-100], expected[100 + lag : len(expected) - 100 + lag]) for lag in range(-5, 6)]
    assert int(np.argmax(lags)) == 5


def test_long_files_are_not_decoded_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl.audio import ffmpeg_decoder

    path = write_with_ffmpeg(tmp_path / "long.m4a", sweep(16000, 20.0), 16000, "aac")
    decoded = []
    to_mono = ffmpeg_decoder._to_mono
    monkeypatch.setattr(ffmpeg_decoder, "_to_mono", lambda frame: decoded.append(frame.samples) or to_mono(frame))
    assert len(load_audio(path, offset=15.0, duration=1.0)) == 16000
    assert sum(decoded) < 2.0 * 16000


def test_other_delivery_rates(tmp_path: Path) -> None:
    path = write_with_soundfile(tmp_path / "a.wav", tone(16000, 1.0), 16000, subtype="FLOAT")
    loaded = load_audio(path, sample_rate=8000, offset=0.25, duration=0.5)
    assert len(loaded) == 4000
    assert frequency_and_amplitude(loaded, 8000) == (pytest.approx(440.0, abs=0.2), pytest.approx(0.25, rel=5e-3))


def test_values_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    path = write_with_soundfile(tmp_path / "a.wav", tone(16000, 0.1, amplitude=1.5), 16000, subtype="FLOAT")
    loaded = load_audio(path)
    assert (loaded.min(), loaded.max()) == (-1.0, 1.0)


def test_odd_names_are_read(tmp_path: Path) -> None:
    for name in ("a: b.m4a", "naïve 声.m4a", "no suffix", "wrong suffix.txt", "%d.m4a"):
        path = write_with_ffmpeg(tmp_path / "source.m4a", tone(16000, 0.5), 16000, "aac").rename(tmp_path / name)
        assert len(load_audio(path)) == 8000


def test_many_threads_read_alike_and_close_their_files(part_files: dict[str, tuple[Path, Waveform]]) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
    jobs = list(part_files.values()) * 3
    with ThreadPoolExecutor(4) as pool:
        for (_, whole), loaded in zip(jobs, pool.map(lambda job: load_audio(job[0]), jobs), strict=True):
            assert np.array_equal(loaded, whole)
    assert threading.active_count() >= 1
    if descriptors.is_dir():
        assert len(list(descriptors.iterdir())) <= before


def test_nothing_is_printed(
    part_files: dict[str, tuple[Path, Waveform]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, (path, _) in part_files.items():
        load_audio(path, offset=3.0, duration=1.0)
        cut = tmp_path / name
        cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(Exception, match=r"cut off|found|past the end|ffmpeg"):
            load_audio(cut, offset=7.0)
    assert capfd.readouterr() == ("", "")


def test_constant_length_of_a_bare_mp3_is_not_guessed(tmp_path: Path) -> None:
    """libsndfile takes the length of an MP3 without a header from its first bit rate; ours is counted."""
    samples = tone(16000, 4.0)
    samples[:8000] *= 0.0
    path = write_with_ffmpeg(tmp_path / "bare.mp3", samples, 16000, "libmp3lame", write_xing="0", id3v2_version="0")
    assert audio_info(path).seconds == pytest.approx(4.0, abs=0.12)
    assert len(load_audio(path)) / 16000 == pytest.approx(4.0, abs=0.12)


@pytest.mark.parametrize(
    "bad", [{"offset": -0.1}, {"offset": float("nan")}, {"duration": 0.0}, {"duration": -1.0}, {"sample_rate": 0}]
)
def test_unusable_arguments_are_named(tmp_path: Path, bad: dict[str, float]) -> None:
    path = write_with_soundfile(tmp_path / "a.wav", tone(16000, 0.1), 16000)
    with pytest.raises(InputError, match=next(iter(bad))):
        load_audio(path, **bad)  # type: ignore[arg-type]


@pytest.mark.shared
def test_real_speech_has_the_length_that_the_manifest_states(shared: Path) -> None:
    lines = (shared / "corpora" / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    entry = next(line.split("\t") for line in lines if line.startswith("eval/libri_test_other/"))
    path, seconds = shared / "corpora" / entry[0], float(entry[6])
    loaded = load_audio(path)
    assert len(loaded) / 16000 == pytest.approx(seconds, abs=0.011)
    assert audio_info(path).seconds == pytest.approx(seconds, abs=0.011)
    assert 0.005 < np.sqrt(np.mean(loaded**2)) < 0.5
    part = load_audio(path, offset=1.3, duration=1.1)
    error = part - loaded[20800 : 20800 + 17600]
    assert np.mean(error**2) < 1e-3 * np.mean(part**2)  # the state of the Opus decoder, about -50 dB
    assert soundfile.info(str(path)).samplerate == audio_info(path).sample_rate
