"""What goes into a shard: a plain tar file that is the same for the same members, and the bytes of each utterance."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from mrl.audio import SAMPLE_RATE, audio_info, load_audio
from mrl.audio.decoded import AudioInfo
from mrl.data.utterances import Utterance
from mrl.errors import DataError, InputError

_BLOCK = tarfile.BLOCKSIZE


class TarWriter:
    """A plain tar file: members of mode 644 without owner and time, so that equal members make equal files.

    Attributes:
        size: bytes written so far.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its first byte."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._write(header.tobuf(tarfile.GNU_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def finish(self) -> str:
        """Write the end of the archive and return the SHA-256 of the file."""
        self._write(bytes(finished_bytes(self.size) - self.size))
        self._stream.flush()
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.size += len(data)


def member_bytes(data: bytes) -> int:
    """Return the bytes that a member takes in a tar file: header, data, padding."""
    return _BLOCK + len(data) + -len(data) % _BLOCK


def finished_bytes(size: int) -> int:
    """Return the size of a tar file with members of ``size`` bytes: two empty blocks end it, and it fills whole records."""
    end = size + 2 * _BLOCK
    return end + -end % tarfile.RECORDSIZE


# From an utterance to the bytes that a shard holds of it: a FLAC of just that stretch, or the recording as it is.

Encoding = Literal["flac", "as-is"]

ENCODINGS: tuple[Encoding, ...] = ("flac", "as-is")

_SAME_LENGTH_SECONDS = 0.1  # a manifest's length may be rounded

_LONGEST_SUFFIX = 8


@dataclasses.dataclass(frozen=True)
class EncodedUtterance:
    """What a shard holds of one utterance.

    Attributes:
        audio: the encoded recording.
        suffix: its kind, with the dot.
        seconds: its length.
        facts: the content of its JSON member, but for the key.
    """

    audio: bytes
    suffix: str
    seconds: float
    facts: dict[str, Any]

    @property
    def crc32(self) -> int:
        """CRC-32 of the audio's bytes."""
        return zlib.crc32(self.audio)

    def json_member(self, key: str) -> bytes:
        """Return the bytes of ``KEY.json``."""
        return json.dumps({"key": key, **self.facts}, ensure_ascii=False, allow_nan=False).encode()


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """An utterance that could not be read, and why."""

    path: str
    reason: str


def encode_utterance(utterance: Utterance, encoding: Encoding, root: Path | None = None) -> EncodedUtterance:
    """Read an utterance for a shard.

    Args:
        utterance: what to read.
        encoding: ``flac``: just its stretch, 16 kHz, one channel, 16 bits, without loss beyond that; ``as-is``: the bytes of the
            recording, which must be used whole.
        root: folder that the recorded origin is relative to; a path outside is recorded by its file name alone.

    Raises:
        AudioLoadingError: the recording cannot be read.
        DataError: ``as-is`` of a stretch, or of a file with an unsupported extension.
    """
    if encoding == "flac":
        samples = load_audio(utterance.source, offset=utterance.start, duration=utterance.seconds)
        audio, suffix, info = _flac(samples), ".flac", AudioInfo(len(samples) / SAMPLE_RATE, SAMPLE_RATE, 1)
    else:
        info = audio_info(utterance.source)
        whole = utterance.seconds is None or utterance.seconds >= info.seconds - _SAME_LENGTH_SECONDS
        if utterance.start > 0 or not whole:
            raise DataError(
                f"{utterance.path}: the utterance is a stretch of {info.seconds:.2f} s (from {utterance.start:g} s, "
                f"{utterance.seconds} s long), which cannot be copied as it is; use --encode flac"
            )
        suffix = utterance.path.suffix.lower()
        if not 2 <= len(suffix) <= _LONGEST_SUFFIX:
            raise DataError(f"{utterance.path}: the extension {suffix!r} does not identify the format; use --encode flac")
        audio = utterance.path.read_bytes() if utterance.slice is None else utterance.slice.read()
    facts = {
        "speaker": utterance.speaker,
        "session": utterance.session,
        "seconds": info.seconds,
        "sample_rate": info.sample_rate,
        "channels": info.channels,
        "origin": _origin(utterance.path, root),
    }
    return EncodedUtterance(audio, suffix, info.seconds, facts)


class EncodedAhead:
    """Utterances of a plan, encoded ahead by threads, in order."""

    def __init__(
        self,
        plan: Sequence[Utterance],
        encode: Callable[[Utterance], EncodedUtterance | LeftOut],
        pool: ThreadPoolExecutor,
        count: int,
    ) -> None:
        self.position = 0
        self._plan = plan
        self._encode = encode
        self._pool = pool
        self._count = count
        self._futures: deque[Future[EncodedUtterance | LeftOut]] = deque()

    def seek(self, position: int) -> None:
        """Go to a place of the plan; where it is already, what was encoded is kept."""
        if position != self.position:
            self.stop()
            self.position = position

    def peek(self) -> EncodedUtterance | LeftOut:
        """Return what is at the position."""
        while len(self._futures) < min(self._count, len(self._plan) - self.position):
            self._futures.append(self._pool.submit(self._encode, self._plan[self.position + len(self._futures)]))
        return self._futures[0].result()

    def advance(self) -> None:
        """Go to the next."""
        self._futures.popleft()
        self.position += 1

    def stop(self) -> None:
        """Begin nothing more."""
        for future in self._futures:
            future.cancel()
        self._futures.clear()


def check_encoding(encoding: str) -> Encoding:
    """Return the name if it is one.

    Raises:
        InputError: it is not.
    """
    for known in ENCODINGS:
        if encoding == known:
            return known
    raise InputError(f"encoding is {encoding!r}, expected flac or as-is")


def _flac(samples: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    import soundfile

    # libsndfile scales floats by 32767 but reads by 32768; whole numbers keep 16-bit recordings bit for bit
    whole = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, whole, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def _origin(path: Path, root: Path | None) -> str:
    if root is not None and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return path.name
