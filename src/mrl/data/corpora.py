"""The recordings of a folder or a manifest, with speaker, session and corpus, according to the corpus's layout."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrl.audio import find_audio_files
from mrl.audio.examining import Stretch
from mrl.bounded import brief
from mrl.data.manifest import MANIFEST_SUFFIXES, FilterValue, filtered_rows, utterance_of
from mrl.data.utterances import UNKNOWN_SPEAKER, Corpus, Utterance
from mrl.errors import DataError, InputError
from mrl.trials.lists import text_lines
from mrl.trials.speakers import public_name, read_speakers


def scan_speaker_folders(root: str | os.PathLike[str]) -> Corpus:
    """Return the corpus under ``root``: each direct subfolder is a speaker, with recordings at any depth below it.

    The first folder level inside a speaker's folder is taken as the session (the video, in VoxCeleb); files that are directly in
    the speaker's folder have no session. Hidden subfolders and those without recordings are skipped.

    Raises:
        DataError: ``root`` is not a folder, has no subfolders, or no recordings in them.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one subfolder per speaker with recordings in it")
    speakers = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not speakers:
        raise DataError(f"{folder} has no subfolders; expected one subfolder per speaker with recordings in it")
    utterances = []
    for speaker in speakers:
        for path in find_audio_files(speaker):
            inside = path.relative_to(speaker).parts
            utterances.append(Utterance(path, speaker.name, session=inside[0] if len(inside) > 1 else None))
    if not utterances:
        raise DataError(
            f"no recordings in the {len(speakers)} subfolders of {folder}; expected wav, flac, m4a or other audio files"
        )
    return Corpus.of(utterances)


def scan_recordings(root: str | os.PathLike[str]) -> Corpus:
    """Return all recordings under ``root``, at any depth, as a corpus whose speakers are not known.

    Raises:
        DataError: ``root`` does not exist or has no recordings in it.
    """
    utterances = [Utterance(path, UNKNOWN_SPEAKER) for path in find_audio_files(root)]
    if not utterances:
        raise DataError(f"no recordings in {root}; expected wav, flac, m4a or other audio files")
    return Corpus.of(utterances)


_PUBLIC = {
    "voxceleb": ("voxceleb1", "voxceleb2"),
    "voxceleb1": ("voxceleb1",),
    "voxceleb2": ("voxceleb2",),
    "cnceleb": ("cnceleb1", "cnceleb2"),
    "cnceleb1": ("cnceleb1",),
    "cnceleb2": ("cnceleb2",),
    "voxblink2": ("voxblink2",),
}


_KALDI_FILES = ("wav.scp", "utt2spk")
_IN_ARCHIVE = re.compile(r":\d+$")

CORPORA = ("auto", "folders", "manifest", "kaldi", *_PUBLIC)
"""Layouts that :func:`find_recordings` knows by name."""


_MANIFEST_COLUMNS = frozenset({"path", "speaker", "start", "duration", "seconds", "session", "corpus", "sample_rate"})


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance as it was found.

    Attributes:
        path: the file.
        speaker: its name within ``corpus``.
        session: where known.
        corpus: where known; it becomes part of the speaker's name when the manifest is read.
        start, seconds: the stretch, where a manifest gave one; ``seconds`` None is to the end.
        sample_rate: Hz, where a manifest states it.
        columns: further columns of the manifest to be written.
    """

    path: Path
    speaker: str
    session: str | None = None
    corpus: str | None = None
    start: float = 0.0
    seconds: float | None = None
    sample_rate: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full_speaker(self) -> str:
        """The speaker's name over all corpora, as :func:`read_manifest` will give it."""
        return self.speaker if self.corpus is None else f"{self.corpus}/{self.speaker}"

    @property
    def stretch(self) -> Stretch:
        """What is to be examined."""
        return Stretch(self.path, self.start, self.seconds)


@dataclass(frozen=True)
class FoundRecordings:
    """The recordings of a source, sorted by speaker and path.

    Attributes:
        layout: name of the layout they were read by.
        recordings: those that fit it.
        passed_over: recordings that do not, or that belong to another corpus or split.
    """

    layout: str
    recordings: tuple[Recording, ...]
    passed_over: tuple[Path, ...] = ()

    def corpus(self) -> Corpus:
        """Return them as a corpus.

        Raises:
            DataError: the same stretch of the same file is listed twice.
        """
        return Corpus.of(
            Utterance(each.path, each.full_speaker, each.start, each.seconds, session=each.session) for each in self.recordings
        )


def find_recordings(
    source: str | os.PathLike[str],
    *,
    corpus: str = "auto",
    split: str | None = None,
    root: str | os.PathLike[str] | None = None,
    where: Mapping[str, FilterValue] | None = None,
    trust_lengths: bool = False,
) -> FoundRecordings:
    """Return the recordings of a corpus; nothing is opened but folders, or the manifest.

    Layouts: ``voxceleb1`` and ``voxceleb2`` (``idXXXXX/VIDEO/UTTERANCE`` at any depth: ``wav/``, ``dev/aac/`` and ``test/aac/``
    alike; ``voxceleb`` is both), ``cnceleb1``, ``cnceleb2`` and ``cnceleb`` (``data/idXXXXX/GENRE-XX-YYY`` and the evaluation
    part; the session is genre and number), ``voxblink2`` (``idXXXXXX/VIDEO/UTTERANCE``), ``folders`` (each direct subfolder is a
    speaker, its first folder level the session) and ``manifest``. ``auto`` takes a file for a manifest, and of a folder the
    public layout that more than half of the recordings have, or else ``folders``. ``kaldi`` is a data directory of Kaldi,
    WeSpeaker or ESPnet with ``wav.scp``, ``utt2spk`` and perhaps ``segments``, which ``auto`` recognises.

    Args:
        source: folder or manifest.
        corpus: one of :data:`CORPORA`.
        split: keep only this part, ``dev`` or ``test``, of a public corpus.
        root: folder that the relative paths of a manifest or of ``wav.scp`` start from; by default its own.
        where: keep only rows of a manifest, as in :func:`read_manifest`.
        trust_lengths: take a manifest's column ``seconds`` for the length of the utterance, as training does. Otherwise a
            recording without ``start`` and ``duration`` is meant whole, and its length is measured.

    Raises:
        InputError: no such layout, or options that do not fit it.
        DataError: the source is absent, holds no recordings, or none of that layout.
    """
    if corpus not in CORPORA:
        raise InputError(f"corpus is {corpus!r}, expected one of {', '.join(CORPORA)}")
    if split not in (None, "dev", "test"):
        raise InputError(f"split is {split!r}, expected dev or test")
    place = Path(source)
    if corpus == "manifest" or (corpus == "auto" and (place.is_file() or place.suffix.lower() in MANIFEST_SUFFIXES)):
        if split is not None:
            raise InputError("split is for VoxCeleb and CN-Celeb; choose rows of a manifest by where")
        return _from_manifest(place, root, where, trust_lengths)
    if corpus == "kaldi" or (corpus == "auto" and all((place / name).is_file() for name in _KALDI_FILES)):
        if split is not None or where:
            raise InputError(f"split and where do not apply to a Kaldi data directory; {place} is one: give that of the split")
        return _from_kaldi(place, place if root is None else Path(root))
    if root is not None or where:
        raise InputError(f"root and where belong to a manifest; {place} is read as a folder")
    files = find_audio_files(place)
    if not files:
        raise DataError(f"{place}: no recordings in this folder or below it; expected wav, flac, m4a or other audio files")
    if corpus == "auto":
        corpus = _layout_of(files, place)
    if corpus == "folders":
        if split is not None:
            raise InputError(
                f"split is for VoxCeleb and CN-Celeb; {place} is read as one folder per speaker: give the folder of the split"
            )
        return _from_folders(files, place)
    return _from_public(files, place, corpus, split)


def _layout_of(files: Sequence[Path], root: Path) -> str:
    counts: dict[str, int] = {}
    for file in files:
        name = public_name(_below(file, root))
        if name is not None:
            counts[name.family] = counts.get(name.family, 0) + 1
    family = max(counts, key=counts.__getitem__, default=None)
    return family if family is not None and 2 * counts[family] > len(files) else "folders"


def _below(file: Path, root: Path) -> Path:
    """The path below ``root``, with the root's own name before it: the root may be a speaker's folder, or dev or test."""
    top = root.absolute()
    return Path(*top.parts[-3:]) / file.relative_to(root)


def _from_public(files: Sequence[Path], root: Path, layout: str, split: str | None) -> FoundRecordings:
    recordings: list[Recording] = []
    passed_over: list[Path] = []
    for file in files:
        name = public_name(_below(file, root))
        if name is None or name.corpus not in _PUBLIC[layout] or (split is not None and name.split != split):
            passed_over.append(file)
            continue
        named = {"genre": name.genre, "split": name.split}
        columns = {column: value for column, value in named.items() if value is not None}
        recordings.append(Recording(file, name.speaker, name.session, name.corpus, columns=columns))
    if not recordings:
        part = "" if split is None else f" in the part {split!r}"
        raise DataError(
            f"none of the {len(files):,} recordings below {root} matches the layout {layout}{part}, the first is {files[0]}; "
            "use --corpus folders if each subfolder is a speaker"
        )
    return FoundRecordings(layout, tuple(sorted(recordings, key=_order)), tuple(passed_over))


def _from_folders(files: Sequence[Path], root: Path) -> FoundRecordings:
    recordings: list[Recording] = []
    passed_over: list[Path] = []
    for file in files:
        parts = file.relative_to(root).parts
        if len(parts) < 2:
            passed_over.append(file)
        else:
            recordings.append(Recording(file, parts[0], parts[1] if len(parts) > 2 else None))
    if not recordings:
        raise DataError(f"all {len(files):,} recordings are in {root} itself; expected one subfolder per speaker")
    return FoundRecordings("folders", tuple(sorted(recordings, key=_order)), tuple(passed_over))


def _from_manifest(
    path: Path, root: str | os.PathLike[str] | None, where: Mapping[str, FilterValue] | None, trust_lengths: bool
) -> FoundRecordings:
    base = Path(root) if root is not None else path.parent
    recordings: list[Recording] = []
    for place, row in filtered_rows(path, where):
        utterance = utterance_of(row, base, place)
        corpus = row.get("corpus")
        columns = {name: value for name, value in row.items() if name not in _MANIFEST_COLUMNS and value not in (None, "")}
        recordings.append(
            Recording(
                utterance.path,
                str(row["speaker"]),
                utterance.session,
                str(corpus) if corpus not in (None, "") else None,
                utterance.start,
                utterance.seconds if trust_lengths or utterance.start or row.get("duration") not in (None, "") else None,
                _sample_rate(row, place),
                columns,
            )
        )
    return FoundRecordings("manifest", tuple(sorted(recordings, key=_order)))


def _from_kaldi(folder: Path, root: Path) -> FoundRecordings:
    speakers = read_speakers(folder / "utt2spk")
    files: dict[str, Path] = {}
    for place, name, file in _keyed_lines(folder / "wav.scp", "'utterance file'"):
        if file.endswith("|"):
            raise DataError(f"{place}: {brief(file)} is a command, which is not run; convert the recordings and list files")
        if _IN_ARCHIVE.search(file):
            raise DataError(f"{place}: {brief(file)} is a place in an archive; list files of recordings")
        files[name] = root / file
    stretches: dict[str, tuple[str, float, float | None]] = {name: (name, 0.0, None) for name in files}
    if (folder / "segments").is_file():
        stretches = dict(_segments(folder / "segments"))
    recordings: list[Recording] = []
    passed_over: list[Path] = []
    for utterance, (name, start, seconds) in stretches.items():
        if name not in files or utterance not in speakers:
            passed_over.append(files.get(name, Path(name)))
            continue
        columns = {"utterance": utterance}
        recordings.append(Recording(files[name], speakers[utterance], start=start, seconds=seconds, columns=columns))
    if not recordings:
        raise DataError(
            f"{folder}: none of the {len(stretches):,} utterances has a recording in wav.scp and a speaker in utt2spk"
        )
    return FoundRecordings("kaldi", tuple(sorted(recordings, key=_order)), tuple(passed_over))


def _segments(path: Path) -> Iterator[tuple[str, tuple[str, float, float | None]]]:
    """Yield utterance, recording, start and length (None: to the end, which Kaldi writes as -1), in seconds."""
    expected = "'utterance recording start end', in seconds"
    for place, utterance, rest in _keyed_lines(path, expected):
        try:
            name, first, last = rest.split()
            start, end = float(first), float(last)
        except ValueError:
            raise DataError(f"{place}: found {brief(rest)} after the utterance, expected {expected}") from None
        if not (0 <= start < math.inf and (end == -1 or start < end < math.inf)):
            raise DataError(
                f"{place}: a stretch from {start} s to {end} s; expected 0 or more, and an end after the start, or -1"
            )
        yield utterance, (name, start, None if end == -1 else end - start)


def _keyed_lines(path: Path, expected: str) -> Iterator[tuple[str, str, str]]:
    """Yield the place of each line of a Kaldi table (for messages), its first word, and the rest."""
    keys: set[str] = set()
    for number, line in enumerate(text_lines(path, "Kaldi table"), start=1):
        place, fields = f"{path}, line {number}", line.decode("utf-8", "surrogateescape").split(maxsplit=1)
        if not fields:
            continue
        if len(fields) < 2:
            raise DataError(f"{place}: found {brief(fields[0])}, expected {expected}")
        if fields[0] in keys:
            raise DataError(f"{place}: {brief(fields[0])} is listed twice")
        keys.add(fields[0])
        yield place, fields[0], fields[1].strip()


def _sample_rate(row: Mapping[str, Any], place: str) -> int | None:
    value = row.get("sample_rate")
    if value in (None, ""):
        return None
    try:
        rate = int(value)
    except (TypeError, ValueError):
        rate = 0
    if rate < 1:
        raise DataError(f"{place}: sample_rate is {value!r}; expected Hz, such as 16000")
    return rate


def _order(recording: Recording) -> tuple[str, str, float]:
    return (recording.full_speaker, str(recording.path), recording.start)
