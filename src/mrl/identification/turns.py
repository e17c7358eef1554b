"""Who speaks when, as diarisation tools write it: RTTM, JSON, SRT and WebVTT, read and written with other names.

- RTTM: the ``SPEAKER`` lines of the NIST format; a file of several recordings is read for one of them.
- JSON: a list of objects with ``start``, ``end`` and ``speaker`` (or ``label``) in seconds, at the top or under ``segments``
  (WhisperX), ``diarization`` (pyannote.ai) or ``content`` (``pyannote.core.Annotation.for_json``).
- WebVTT: voice spans, ``<v NAME>``.
- SRT, and WebVTT without voice spans: captions that begin with ``[NAME]``, or with ``NAME:`` where NAME is one word with a digit
  or an underscore (``SPEAKER_00``) or in capitals, because sentences have colons too.

What is written is the file that was read, with the names of speakers replaced and nothing else.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mrl.bounded import parse_json, read_text
from mrl.errors import DataError, InputError

_LISTS = ("segments", "diarization", "content")
_MOST_TURNS = 1_000_000
_LONGEST_SECONDS = 1e7  # four months; a longer recording is a mistake in the file

# Every repetition is bounded: the files come from anywhere.
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"(?<!\d){_TIME}[ \t]{{0,9}}-->[ \t]{{0,9}}{_TIME}")
_SPAN = re.compile(r"<v(?:\.[^ >\t]{0,99})?[ \t]{1,9}([^>]{1,199})>")
_WORD = r"(?=\S{0,79}[^\W\d_])(?:[^\s:\[\]<>]{0,79}[\d_][^\s:\[\]<>]{0,79}|[^\Wa-z\d_][^\s:\[\]<>a-z]{0,79})"
_TAG = re.compile(rf"(?m)^(?:\[([^\[\]\n]{{1,199}})\]|({_WORD})):?(?<=[\]:])(?=\s)")


@dataclasses.dataclass(frozen=True)
class Turn:
    """A stretch of a recording in which one speaker speaks; times in seconds from its beginning."""

    speaker: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Turns:
    """The turns of one recording.

    Attributes:
        turns: in the order of the file.
        renamed: gives the text of the file with other names for its speakers, by name; others stay.
        source: the file.
    """

    turns: tuple[Turn, ...]
    renamed: Callable[[Mapping[str, str]], str]
    source: Path

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names in the order in which they first speak."""
        return tuple(dict.fromkeys(turn.speaker for turn in sorted(self.turns, key=lambda turn: turn.start)))

    def alone(self) -> dict[str, list[tuple[float, float]]]:
        """Return for each speaker the stretches (start, end) in seconds in which nobody else speaks."""
        changes = sorted({time for turn in self.turns for time in (turn.start, turn.end)})
        begins, ends = _by_time(self.turns, "start"), _by_time(self.turns, "end")
        alone: dict[str, list[tuple[float, float]]] = {speaker: [] for speaker in self.speakers}
        active: dict[str, int] = {}
        for start, end in itertools.pairwise(changes):
            for speaker in ends.get(start, ()):
                active[speaker] -= 1
                if not active[speaker]:
                    del active[speaker]
            for speaker in begins.get(start, ()):
                active[speaker] = active.get(speaker, 0) + 1
            if len(active) == 1:
                stretches = alone[next(iter(active))]
                if stretches and stretches[-1][1] == start:
                    start = stretches.pop()[0]
                stretches.append((start, end))
        return alone


def read_turns(path: str | os.PathLike[str], *, recording: str | None = None) -> Turns:
    """Read the turns of one recording; the suffix says which format it has (.rttm, .json, .srt, .vtt).

    Args:
        path: the file.
        recording: its name in an RTTM file of several recordings, usually the audio file's name without the suffix.

    Raises:
        InputError: another suffix.
        DataError: no such file, it is damaged or holds no turn with a speaker, or it is of several recordings, not of this one.
    """
    file = Path(path)
    kinds = {".rttm": _rttm, ".json": _json, ".srt": _captions, ".vtt": _captions}
    if file.suffix.lower() not in kinds:
        raise InputError(f"{file}: unsupported extension {file.suffix!r}; turns are read from {', '.join(kinds)}")
    try:
        text = read_text(file)
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    turns, renamed = kinds[file.suffix.lower()](text, file, recording)
    if not turns:
        raise DataError(f"{file} holds no turn of a speaker with a length; expected {_EXPECTED[file.suffix.lower()]}")
    if len(turns) > _MOST_TURNS:
        raise DataError(f"{file} holds {len(turns):,} turns, at most {_MOST_TURNS:,} are read; split it")
    return Turns(tuple(turns), renamed, file)


_EXPECTED = {
    ".rttm": "lines 'SPEAKER recording 1 start duration <NA> <NA> name <NA> <NA>'",
    ".json": "objects with start, end and speaker",
    ".srt": "captions that begin with [NAME] or NAME:",
    ".vtt": "captions with <v NAME>, or that begin with [NAME] or NAME:",
}

_Read = tuple[list[Turn], Callable[[Mapping[str, str]], str]]


def _rttm(text: str, file: Path, recording: str | None) -> _Read:
    lines = [line.split() for line in text.splitlines()]
    places = [place for place, fields in enumerate(lines) if len(fields) >= 8 and fields[0] == "SPEAKER"]
    broken = [place for place, fields in enumerate(lines) if fields and fields[0] == "SPEAKER" and len(fields) < 8]
    if broken:
        raise DataError(f"{file}, line {broken[0] + 1}: expected {_EXPECTED['.rttm']}, found {len(lines[broken[0]])} fields")
    recordings = list(dict.fromkeys(lines[place][1] for place in places))
    if len(recordings) > 1:
        if recording not in recordings:
            raise DataError(
                f"{file} holds {len(recordings)} recordings ({', '.join(recordings[:5])}...), none of them {recording!r}; "
                "name the audio file like one of them"
            )
        places = [place for place in places if lines[place][1] == recording]
    turns = []
    for place in places:
        where = f"{file}, line {place + 1}"
        start = _seconds(lines[place][3], where)
        turns += _turn(lines[place][7], start, start + _seconds(lines[place][4], where), where)

    def renamed(names: Mapping[str, str]) -> str:
        written = text.splitlines(keepends=True)
        for place in places:
            name = names.get(lines[place][7])
            if name is not None:
                begin, end = list(re.finditer(r"\S+", written[place]))[7].span()
                without_spaces = re.sub(r"\s+", "_", name)  # the format has none in names
                written[place] = written[place][:begin] + without_spaces + written[place][end:]
        return "".join(written)

    return turns, renamed


def _json(text: str, file: Path, recording: str | None) -> _Read:
    document = parse_json(text, str(file))
    segments = document
    if isinstance(document, dict):
        segments = next((document[key] for key in _LISTS if isinstance(document.get(key), list)), None)
    if not isinstance(segments, list):
        raise DataError(f"{file}: expected a list of segments, or an object with one under {', '.join(_LISTS)}")
    turns = []
    for place, segment in enumerate(segments):
        if not isinstance(segment, dict):
            raise DataError(f"{file}: segment {place} is not an object")
        speaker = segment.get("speaker", segment.get("label"))
        if speaker is None:
            continue  # speech that nobody was found for
        times = segment["segment"] if isinstance(segment.get("segment"), dict) else segment
        where = f"{file}, segment {place}"
        if not isinstance(speaker, str):
            raise DataError(f"{where}: its speaker is not a text")
        turns += _turn(speaker, _seconds(times.get("start"), where), _seconds(times.get("end"), where), where)

    def renamed(names: Mapping[str, str]) -> str:
        changed = copy.deepcopy(document)
        waiting = [changed]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                for key in ("speaker", "label"):
                    if isinstance(value.get(key), str):
                        value[key] = names.get(value[key], value[key])
            waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return json.dumps(changed, indent=2, ensure_ascii=False) + "\n"

    return turns, renamed


def _captions(text: str, file: Path, recording: str | None) -> _Read:
    pattern = _SPAN if _SPAN.search(text) else _TAG
    turns = []
    for start, end, first, last in _cues(text):
        where = f"{file} at {start:g} s"
        for name, _, _ in _names(pattern, text, first, last):
            turns += _turn(name, start, end, where)

    def renamed(names: Mapping[str, str]) -> str:
        parts: list[str] = []
        done = 0
        for _, _, first, last in _cues(text):
            for name, begin, stop in _names(pattern, text, first, last):
                new = re.sub(r"[<>\[\]\s]+", " ", names[name]).strip() if name in names else text[begin:stop]
                if name in names and pattern is _TAG and text[begin - 1] != "[" and re.fullmatch(_WORD, new) is None:
                    new = f"[{new}]"  # as it was it would not be read as a name again
                parts += [text[done:begin], new]
                done = stop
        return "".join([*parts, text[done:]])

    return turns, renamed


def _cues(text: str) -> Iterator[tuple[float, float, int, int]]:
    """Yield start and end in seconds of each caption, and where its text begins and ends."""
    cues = list(_TIMES.finditer(text))
    for times, following in itertools.zip_longest(cues, cues[1:]):
        start, end = (
            int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(rest.ljust(3, "0")) / 1000
            for hours, minutes, seconds, rest in (times.groups()[:4], times.groups()[4:])
        )
        first = text.find("\n", times.end()) + 1 or len(text)
        yield start, end, first, len(text) if following is None else max(first, following.start())


def _names(pattern: re.Pattern[str], text: str, first: int, last: int) -> Iterator[tuple[str, int, int]]:
    """Yield the names of speakers in a stretch of text, with where they stand."""
    for match in pattern.finditer(text, first, last):
        group = 1 if match[1] is not None else 2
        yield match[group].strip(), match.start(group), match.end(group)


def _by_time(turns: Iterable[Turn], end: str) -> dict[float, list[str]]:
    speakers: dict[float, list[str]] = {}
    for turn in turns:
        speakers.setdefault(getattr(turn, end), []).append(turn.speaker)
    return speakers


def _seconds(value: Any, where: str) -> float:
    try:
        seconds = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise DataError(f"{where}: expected a time in seconds from 0 up, found {str(value)[:40]!r}")
    return seconds


def _turn(speaker: str, start: float, end: float, where: str) -> list[Turn]:
    """Return the turn in a list, or none where it has no length."""
    if end < start:
        raise DataError(f"{where}: the turn ends at {end:g} s, before it starts at {start:g} s")
    return [Turn(speaker, start, end)] if end > start and speaker else []
