"""From uploaded bytes to a waveform: only formats that hold their audio themselves, and no more of it than agreed.

ffmpeg's libraries also open playlists, which name other files, and would read those of this machine for whoever uploads one.
So the first bytes must be those of a format known to hold its own audio, and that decides before any decoder sees them.
"""

from __future__ import annotations

from mrl.audio import SAMPLE_RATE, audio_info, load_audio
from mrl.audio.decoded import Waveform
from mrl.errors import AudioLoadingError
from mrl.serving.limits import Limits
from mrl.serving.refusals import Refusal, one_line

FORMATS = "wav, flac, ogg, opus, mp3, m4a, aac, aiff, caf or webm"

_STARTS = (b"fLaC", b"OggS", b"caff", b"\x1aE\xdf\xa3")  # the last: EBML, of Matroska and WebM
_MOST_SAMPLES_PER_SECOND = 768_000  # of all channels: eight of them at 96 kHz; bounds what decoding takes of memory
_MARGIN_SECONDS = 0.5  # containers round their lengths


def is_recording(data: bytes) -> bool:
    """Return whether bytes begin as one of the :data:`FORMATS` does."""
    start = _after_id3(data)
    head = data[start : start + 16]
    if start and not head.startswith((b"fLaC", b"\xff")):
        return False  # ffmpeg skips a tag and guesses anew by what follows: only MP3, AAC and FLAC have one
    return (
        head.startswith(_STARTS)
        or (head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE")
        or (head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"))
        or head[4:8] == b"ftyp"
        or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)  # MPEG audio, AAC (ADTS)
    )


def decode_recording(data: bytes, limits: Limits) -> Waveform:
    """Return a recording's waveform (samples,) float32 at 16 kHz.

    Raises:
        Refusal: 415 no known format; 413 longer than allowed, or with more channels or a higher rate than any recording has;
            422 damaged or silent.
    """
    if not is_recording(data):
        raise Refusal(415, f"this is no recording in a known format; send {FORMATS}")
    try:
        info = audio_info(data)
        if info.sample_rate * info.channels > _MOST_SAMPLES_PER_SECOND:
            raise Refusal(413, f"{info.channels} channels at {info.sample_rate} Hz are too many; send one at 16000 Hz")
        if info.seconds > limits.max_seconds + _MARGIN_SECONDS:
            raise _too_long(limits)
        # The header may not tell the truth, so no more than this is decoded whatever it says.
        waveform = load_audio(data, duration=limits.max_seconds + 2 * _MARGIN_SECONDS)
    except AudioLoadingError as error:
        raise Refusal(422, one_line(error)) from error
    if len(waveform) > (limits.max_seconds + _MARGIN_SECONDS) * SAMPLE_RATE:
        raise _too_long(limits)
    return waveform


def _too_long(limits: Limits) -> Refusal:
    return Refusal(413, f"a recording may last {limits.max_seconds:g} s at most; send a part of it")


def _after_id3(data: bytes) -> int:
    """Return where the audio starts after ID3v2 tags; 0 without one."""
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        size = 0
        for byte in data[start + 6 : start + 10]:
            size = size << 7 | (byte & 0x7F)
        start += 10 + size + (10 if data[start + 5] & 0x10 else 0)
    if start:  # padding that the tag does not count
        start = len(data) - len(data[start:].lstrip(b"\0"))
    return start
