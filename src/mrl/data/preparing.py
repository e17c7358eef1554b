"""From a corpus on disk to a manifest that is safe to train on, and a list of what was left out."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mrl.audio.examining import StretchFacts
from mrl.data.corpora import FoundRecordings, Recording, find_recordings
from mrl.data.manifest import MANIFEST_SUFFIXES, FilterValue, write_manifest
from mrl.data.overlap import SpeakerOverlap, overlapping_speakers
from mrl.data.surveying import survey
from mrl.errors import DataError, InputError

# What makes an utterance unfit for training, and how that is judged from what an examination found.


FAULTS: dict[str, str] = {
    "unreadable": "cannot be read",
    "silent": "silent",
    "too-short": "too short",
    "clipped": "clipped",
    "duplicate": "the same audio as another of the speaker's",
    "contradictory": "the same audio under several speakers",
    "evaluated": "of speakers in the evaluation trials",
}
"""Kinds of fault in the order in which they are looked for, with words for a summary; an utterance has the first that fits."""


DEFAULT_MIN_SECONDS = 0.5


DEFAULT_SILENCE_DB = -60.0


@dataclass(frozen=True)
class Fault:
    """What is wrong with an utterance: a key of :data:`FAULTS`, and the reason in one line."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Limits:
    """From where on something counts as a fault.

    Attributes:
        min_seconds: shorter utterances are too short.
        silence_db: an utterance whose loudest sample lies below this level is silent, in dB relative to full scale.
        max_clipped_share: an utterance with a larger share of samples at full scale is clipped, 0 to 1; None: none is.
    """

    min_seconds: float = DEFAULT_MIN_SECONDS
    silence_db: float = DEFAULT_SILENCE_DB
    max_clipped_share: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min_seconds) and self.min_seconds >= 0):
            raise InputError(f"min_seconds is {self.min_seconds}, expected seconds, 0 or more")
        if not (math.isfinite(self.silence_db) and self.silence_db <= 0):
            raise InputError(f"silence_db is {self.silence_db}, expected a level in dB, 0 or less")
        if self.max_clipped_share is not None and not 0 <= self.max_clipped_share <= 1:
            raise InputError(f"max_clipped_share is {self.max_clipped_share}, expected a share from 0 to 1")


def find_faults(recordings: Sequence[Recording], facts: Sequence[StretchFacts], limits: Limits) -> dict[int, Fault]:
    """Return what is wrong, by position; positions without a fault are absent.

    Of several copies of the same audio by one speaker, all but the first are duplicates. If copies are listed under several
    speakers, which is right is unknown, and all are contradictory.
    """
    faults: dict[int, Fault] = {}
    copies: dict[str, list[int]] = {}
    for index, (recording, examined) in enumerate(zip(recordings, facts, strict=True)):
        fault = _own_fault(recording, examined, limits)
        if fault is not None:
            faults[index] = fault
        # Clipped utterances can be copies too, but silence says nothing about whose it is.
        if examined.content is not None and (fault is None or fault.kind == "clipped"):
            copies.setdefault(examined.content, []).append(index)
    for members in copies.values():
        if len(members) > 1:
            faults.update({index: fault for index, fault in _copies(recordings, members).items() if index not in faults})
    return faults


def clipped_shares(facts: Mapping[int, StretchFacts] | Sequence[StretchFacts], above: float) -> int:
    """Return how many utterances have more than this share of their samples at full scale."""
    values = facts.values() if isinstance(facts, Mapping) else facts
    return sum(each.clipped_share is not None and each.clipped_share > above for each in values)


def _own_fault(recording: Recording, facts: StretchFacts, limits: Limits) -> Fault | None:
    try:
        str(recording.path).encode()
    except UnicodeEncodeError:
        return Fault("unreadable", "the name is not valid UTF-8; rename the file")
    if facts.error is not None:
        return Fault("unreadable", facts.error)
    if facts.peak is not None and facts.peak < 10 ** (limits.silence_db / 20):
        level = "every sample is zero" if facts.peak == 0 else f"the loudest sample is at {20 * math.log10(facts.peak):.0f} dB"
        return Fault("silent", level)
    if facts.seconds < limits.min_seconds:
        return Fault("too-short", f"{facts.seconds:.2f} s")
    if limits.max_clipped_share is not None and (facts.clipped_share or 0.0) > limits.max_clipped_share:
        return Fault("clipped", f"{100 * (facts.clipped_share or 0.0):.2f} % of the samples are at full scale")
    return None


def _copies(recordings: Sequence[Recording], members: Sequence[int]) -> dict[int, Fault]:
    speakers = sorted({recordings[index].full_speaker for index in members})
    if len(speakers) > 1:
        first = {speaker: next(i for i in members if recordings[i].full_speaker == speaker) for speaker in speakers}
        named = "; ".join(f"{speaker}: {recordings[index].path}" for speaker, index in list(first.items())[:3])
        return {
            index: Fault("contradictory", f"the same audio is listed under {len(speakers)} speakers ({named})")
            for index in members
        }
    original = recordings[members[0]].path
    return {index: Fault("duplicate", f"the same audio as {original}") for index in members[1:]}


# Reading every utterance of a manifest to its end, and saying all that is wrong.


@dataclass(frozen=True)
class FaultyUtterance:
    """An utterance with what is wrong; ``kind`` is a key of :data:`mrl.data.preparing.FAULTS`."""

    path: Path
    speaker: str
    start: float
    kind: str
    reason: str


@dataclass(frozen=True)
class ManifestCheck:
    """What a check found.

    Attributes:
        utterances, speakers: in the manifest.
        seconds: of the utterances that can be read.
        faulty: in the order of the corpus.
    """

    utterances: int
    speakers: int
    seconds: float
    faulty: tuple[FaultyUtterance, ...]

    def counts(self) -> dict[str, int]:
        """Return how many utterances have each kind of fault."""
        return {kind: count for kind in FAULTS if (count := sum(fault.kind == kind for fault in self.faulty))}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        faulty = [
            {"path": str(fault.path), "speaker": fault.speaker, "start": fault.start, "fault": fault.kind, "reason": fault.reason}
            for fault in self.faulty
        ]
        plain = {"utterances": self.utterances, "speakers": self.speakers, "seconds": round(self.seconds, 3)}
        return {**plain, "counts": self.counts(), "faulty": faulty}


def check_manifest(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    where: Mapping[str, FilterValue] | None = None,
    limits: Limits | None = None,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> ManifestCheck:
    """Decode everything that a manifest names.

    Found are: missing and unreadable recordings, NaN and infinite samples, stretches past the end of their recording, stated
    lengths that are longer than what is there, silence, utterances that are too short, and copies.

    Args:
        path: the manifest.
        root, where: as for :func:`mrl.data.read_manifest`.
        limits: when an utterance counts as short, silent or clipped; by default none is too short.
        num_workers: processes; None: one per processor.
        show_progress: draw a bar (on a terminal only).

    Raises:
        DataError: the manifest itself cannot be read.
        ProcessError: a process died while examining.
    """
    recordings = find_recordings(path, corpus="manifest", root=root, where=where, trust_lengths=True).recordings
    facts = survey(
        [each.stretch for each in recordings], num_workers=num_workers, description="decoding", show_progress=show_progress
    )
    faults = find_faults(recordings, facts, limits or Limits(min_seconds=0.0))
    return ManifestCheck(
        utterances=len(recordings),
        speakers=len({each.full_speaker for each in recordings}),
        seconds=sum(each.seconds for each in facts),
        faulty=tuple(_faulty(recordings[index], fault.kind, fault.reason) for index, fault in sorted(faults.items())),
    )


def _faulty(recording: Recording, kind: str, reason: str) -> FaultyUtterance:
    return FaultyUtterance(recording.path, recording.full_speaker, recording.start, kind, reason)


KEEPABLE = ("silent", "too-short", "duplicate", "contradictory")
"""Faults that :func:`prepare_manifest` can ignore; clipping is not a fault unless a limit is set."""


NOTABLE_CLIPPED_SHARE = 0.01
"""Utterances with more than this share of samples at full scale are counted in the summary, though they are kept."""


_REPORT_COLUMNS = ("fault", "path", "start", "speaker", "session", "reason", "kept")


_LOG = logging.getLogger("mrl.data")


OverlapPolicy = Literal["refuse", "leave-out", "allow"]


@dataclass(frozen=True)
class Preparation:
    """What was written.

    Attributes:
        manifest, report: the files; the report lists every faulty utterance.
        layout: how the source was read.
        utterances, speakers, seconds: in the manifest.
        found: utterances in the source.
        faults: kind -> how many, of all that were found.
        kept: kind -> how many of them are in the manifest nevertheless.
        clipped: utterances with more than :data:`NOTABLE_CLIPPED_SHARE` of their samples at full scale.
        passed_over: recordings that do not fit the layout.
    """

    manifest: Path
    report: Path
    layout: str
    utterances: int
    speakers: int
    seconds: float
    found: int
    faults: dict[str, int]
    kept: dict[str, int]
    clipped: int
    passed_over: int


def prepare_manifest(
    source: FoundRecordings,
    output: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    keep: Collection[str] = (),
    decode: bool = True,
    evaluation: Iterable[str | os.PathLike[str]] = (),
    overlap: OverlapPolicy = "refuse",
    num_workers: int | None = None,
    show_progress: bool = True,
) -> Preparation:
    """Examine recordings, leave out the faulty ones, and write a manifest and beside it ``NAME.faults.tsv``.

    An interrupted call resumes where it stopped when it is made again: finished work is noted in a hidden file beside the
    output. Both files are written atomically.

    Args:
        found: from :func:`find_recordings`.
        output: the manifest; its suffix names the format.
        root: folder that paths in the manifest start from. By default the manifest's own, as :func:`read_manifest` expects;
            recordings outside it are given by absolute path.
        limits: when an utterance counts as short, silent or clipped.
        keep: kinds of fault (of :data:`KEEPABLE`) that stay in the manifest and are listed only.
        decode: false: read headers only, and do not look for silence, clipping, duplicates and damage inside.
        evaluation: recordings of trials whose speakers must not be trained on.
        overlap: what to do with those speakers: refuse, leave their utterances out, or allow them.
        num_workers: processes; None: one per processor.
        show_progress: draw a bar (on a terminal only).

    Raises:
        InputError: unusable suffix, root or limits.
        DataError: speakers overlap, or no utterance is left.
        ProcessError: a process died while examining.
        OSError: the files cannot be written.
    """
    target = Path(output)
    if target.suffix.lower() not in MANIFEST_SUFFIXES:
        raise InputError(f"{target} has the unsupported extension {target.suffix!r}; expected {', '.join(MANIFEST_SUFFIXES)}")
    unknown = sorted(set(keep) - set(KEEPABLE))
    if unknown:
        raise InputError(f"{unknown[0]!r} cannot be kept; expected {', '.join(KEEPABLE)}")
    evaluated = _check_overlap(source, evaluation, overlap)
    recordings = source.recordings
    journal = target.with_name(f".{target.name}.journal")
    facts = survey(
        [recording.stretch for recording in recordings],
        decode=decode,
        num_workers=num_workers,
        journal=journal,
        show_progress=show_progress,
    )
    faults = find_faults(recordings, facts, limits or Limits())
    for index, recording in enumerate(recordings):
        if recording.full_speaker in evaluated and index not in faults:
            faults[index] = Fault("evaluated", "the speaker is in the evaluation trials")
    kept = [index for index in range(len(recordings)) if index not in faults or faults[index].kind in keep]
    report = target.with_suffix(".faults.tsv")
    base = (Path(root) if root is not None else target.parent).absolute()
    _write_report(report, recordings, faults, set(kept))
    if not kept:
        example = next(iter(faults.values()))
        raise DataError(
            f"all {len(recordings):,} utterances are faulty, the first is {example.kind} ({example.reason}); see {report}"
        )
    write_manifest(target, [_row(recordings[index], facts[index], base) for index in kept])
    journal.unlink(missing_ok=True)
    return Preparation(
        manifest=target,
        report=report,
        layout=source.layout,
        utterances=len(kept),
        speakers=len({recordings[index].full_speaker for index in kept}),
        seconds=math.fsum(facts[index].seconds for index in kept),
        found=len(recordings),
        faults=_count(faults.values()),
        kept=_count(faults[index] for index in kept if index in faults),
        clipped=clipped_shares(facts, NOTABLE_CLIPPED_SHARE),
        passed_over=len(source.passed_over),
    )


def _check_overlap(
    source: FoundRecordings, evaluation: Iterable[str | os.PathLike[str]], overlap: OverlapPolicy
) -> frozenset[str]:
    """Return the speakers to leave out."""
    corpus = source.corpus()
    both: SpeakerOverlap = overlapping_speakers(corpus, evaluation)
    if not both.all:
        return frozenset()
    if overlap == "refuse":
        raise DataError(f"{both.describe()}; --overlap leave-out leaves them out of the manifest, --overlap allow keeps them")
    if overlap == "allow":
        _LOG.warning("%s; kept as asked for: error rates on those trials will look better than they are", both.describe())
        return frozenset()
    return frozenset(both.all)


def _count(faults: Iterable[Fault]) -> dict[str, int]:
    counts = dict.fromkeys(FAULTS, 0)
    for fault in faults:
        counts[fault.kind] += 1
    return {kind: count for kind, count in counts.items() if count}


def _row(recording: Recording, facts: StretchFacts, base: Path) -> Mapping[str, Any]:
    seconds = round(facts.seconds, 6)  # well below a sample
    is_part = recording.start > 0 or recording.seconds is not None
    return {
        "path": path_below(recording.path, base),
        "speaker": recording.speaker,
        "start": recording.start if is_part else None,
        "duration": seconds if is_part else None,
        "seconds": seconds,
        "session": recording.session,
        "corpus": recording.corpus,
        "sample_rate": facts.sample_rate,
        **recording.columns,
    }


def path_below(path: Path, base: Path) -> str:
    """Return ``path`` relative to ``base`` with forward slashes if it lies below it, else absolute."""
    absolute = path.absolute()
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.as_posix()


def _write_report(report: Path, recordings: tuple[Recording, ...], faults: Mapping[int, Fault], kept: set[int]) -> None:
    rows = [
        {
            "fault": fault.kind,
            "path": _printable(str(recording.path)),
            "start": recording.start or None,
            "speaker": _printable(recording.full_speaker),
            "session": None if recording.session is None else _printable(recording.session),
            "reason": _printable(fault.reason),
            "kept": "yes" if index in kept else "no",
        }
        for index, fault in sorted(faults.items())
        for recording in (recordings[index],)
    ]
    write_manifest(report, rows, columns=_REPORT_COLUMNS)


def _printable(text: str) -> str:
    return " ".join(text.encode("utf-8", "backslashreplace").decode().splitlines())
