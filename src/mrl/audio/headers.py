"""What the first and last bytes of a file tell that the decoders do not.

libsndfile quietly shortens a truncated WAV or Ogg file to what is there. With MP3 it does worse, and so MP3 goes to ffmpeg:
without a Xing or Info header it guesses the length from the first bit rate and stops reading there (measured: 3 of 20 seconds),
after a seek it lacks the bit reservoir (wrong samples), and the library below it prints warnings. FLAC, MP4 and Matroska state
their length where the decoders find it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from mrl.audio.decoded import Unreadable, cut_off
from mrl.audio.sources import Recording

_MISSING_SECONDS = 0.01  # sloppy writers are off by a few bytes; less than this is not worth an error
_STREAMED_WAV_BYTES = 0x7FFFF000  # writers to a pipe put this or more (or 0) where they cannot know the size
_LONGEST_OGG_PAGE = 27 + 255 + 255 * 255
_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclass(frozen=True)
class HeaderFacts:
    """``mp3``: the file is MPEG layer III (or begins with an ID3 tag); ``length_stated``: ffmpeg knows its exact length."""

    mp3: bool = False
    length_stated: bool = True


def inspect_header(recording: Recording) -> HeaderFacts:
    """Look at the container's own bookkeeping.

    Raises:
        Unreadable: the file is empty, is evidently no recording, or is a truncated WAV, Ogg or MP3 file.
        OSError: it cannot be opened.
    """
    size = recording.size
    with recording.stream() as stream:
        head = stream.read(512)
        if size == 0:
            raise Unreadable("the file is empty (0 bytes)", final=True, remedy="copy or fetch the file again")
        _refuse_text(head)
        if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
            _check_wav(stream, size)
        elif head[:4] == b"OggS":
            _check_ogg(stream, head, size)
        else:
            return _check_mp3(stream, size)
    return HeaderFacts()


def _refuse_text(head: bytes) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise Unreadable(
            "this is a web page, not a recording",
            final=True,
            remedy="the download failed and saved its error page: fetch the file again",
        )
    if start.startswith(b"version https://git-lfs"):
        raise Unreadable(
            "this is a Git LFS pointer, not a recording", final=True, remedy="run `git lfs pull` where the file came from"
        )


def _check_wav(stream: BinaryIO, size: int) -> None:
    """Compare the size that the data chunk states with the bytes that follow it."""
    stream.seek(12)
    bytes_per_second, data_bytes_64 = 0, None
    while len(chunk := stream.read(8)) == 8:
        name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        body = stream.tell()
        if name == b"ds64":
            data_bytes_64 = struct.unpack("<Q", stream.read(16)[8:])[0] if length >= 16 else None
        elif name == b"fmt ":
            fields = stream.read(12)
            bytes_per_second = struct.unpack("<I", fields[8:])[0] if len(fields) == 12 else 0
        elif name == b"data":
            if length == 0xFFFFFFFF and data_bytes_64 is not None:
                length = data_bytes_64
            elif length == 0 or length >= _STREAMED_WAV_BYTES:
                return
            found = size - body
            if bytes_per_second > 0 and length - found > _MISSING_SECONDS * bytes_per_second:
                raise cut_off(found / bytes_per_second, length / bytes_per_second, "size in the WAV header")
            return
        stream.seek(body + length + length % 2)


def _check_ogg(stream: BinaryIO, head: bytes, size: int) -> None:
    """Ogg states no length, but a file that ends in the middle of a page was cut.

    A missing end-of-stream mark alone is no fault: recorders of live streams leave it out.
    """
    stream.seek(max(0, size - 2 * _LONGEST_OGG_PAGE))
    tail = stream.read()
    last = tail.rfind(b"OggS\0")
    if last < 0:
        return
    end = _ogg_page_end(tail, last)
    leftover = tail[end:] if end is not None else b""
    if end is not None and not (0 < len(leftover) < 5 and b"OggS\0".startswith(leftover)):
        return
    complete = last if end is not None else tail.rfind(b"OggS\0", 0, last)
    raise cut_off(_ogg_seconds(head, tail, complete), None, "it ends inside an Ogg page")


def _ogg_page_end(data: bytes, start: int) -> int | None:
    """The index after the page that starts at ``start``; None if the page is not all there."""
    if len(data) < start + 27 or len(data) < start + 27 + data[start + 26]:
        return None
    segments = data[start + 27 : start + 27 + data[start + 26]]
    end = start + 27 + len(segments) + sum(segments)
    return end if end <= len(data) else None


def _ogg_seconds(head: bytes, tail: bytes, page: int) -> float | None:
    """Seconds up to the end of the page at ``page`` by its granule position; None where the codec's clock is not known here."""
    if page < 0:
        return None
    granule = struct.unpack("<q", tail[page + 6 : page + 14])[0]
    opus, vorbis = head.find(b"OpusHead"), head.find(b"\x01vorbis")
    if granule < 0 or max(opus, vorbis) < 0:
        return None
    if opus >= 0:
        skipped = struct.unpack("<H", head[opus + 10 : opus + 12])[0]
        return max(0.0, float(granule - skipped) / 48000)
    rate: int = struct.unpack("<I", head[vorbis + 12 : vorbis + 16])[0]
    return float(granule) / rate if rate else None


def _check_mp3(stream: BinaryIO, size: int) -> HeaderFacts:
    """Tell whether this is an MP3 and whether it states its length; refuse one that states more than is there.

    The Xing (variable rate) or Info (constant rate) header stands in the first frame, after its side information, and gives the
    number of frames and of bytes.
    """
    stream.seek(0)
    tag = stream.read(10)
    start = 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        a, b, c, d = tag[6:]
        start = 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if tag[5] & 0x10 else 0)
    stream.seek(start)
    frame = stream.read(64)
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:  # eleven sync bits and "layer III"
        return HeaderFacts(mp3=tag[:3] == b"ID3", length_stated=tag[:3] != b"ID3")
    version, rate_index, mono = frame[1] >> 3 & 3, frame[2] >> 2 & 3, frame[3] >> 6 == 3
    if version == 1 or rate_index == 3:
        return HeaderFacts()
    side_information = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    header = frame[4 + side_information :][:16]
    if header[:4] not in (b"Xing", b"Info") or len(header) < 16 or header[7] & 3 != 3:
        return HeaderFacts(mp3=True, length_stated=False)
    frames, stated_bytes = struct.unpack(">II", header[8:16])
    promised = frames * (1152 if version == 3 else 576) / _MP3_RATES[version][rate_index]
    found = promised * min(1.0, (size - start) / max(1, stated_bytes))
    if promised - found > 0.1:
        raise cut_off(found, promised, "Xing header of the MP3")
    return HeaderFacts(mp3=True)
