"""From a corpus as it lies on disk to a manifest that training can trust, and a list of what was left out."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mrl.audio.examining import StretchFacts
from mrl.data.corpora import FoundRecordings, Recording
from mrl.data.faults import FAULTS, Fault, Limits, clipped_shares, find_faults
from mrl.data.manifest import MANIFEST_SUFFIXES, write_manifest
from mrl.data.overlap import SpeakerOverlap, overlapping_speakers
from mrl.data.surveying import survey
from mrl.errors import DataError, InputError

KEEPABLE = ("silent", "too-short", "duplicate", "contradictory")
"""Faults that :func:`prepare_manifest` can be told to pass; clipping is no fault unless a limit is set."""

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
        kept: kind -> how many of them are in the manifest all the same.
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
    found: FoundRecordings,
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

    An interrupted call goes on where it stopped when it is made again: finished work is noted in a hidden file beside the
    output. Both files are written atomically.

    Args:
        found: from :func:`find_recordings`.
        output: the manifest; its suffix names the format.
        root: folder that paths in the manifest start from. By default the manifest's own, as :func:`read_manifest` expects;
            recordings that do not lie below it are given by absolute path.
        limits: when an utterance counts as short, silent or clipped.
        keep: kinds of fault (of :data:`KEEPABLE`) that stay in the manifest and are listed only.
        decode: false: read headers only, and do not look for silence, clipping, duplicates and damage inside.
        evaluation: recordings of trials whose speakers must not be trained on.
        overlap: what to do with those speakers: refuse to go on, leave their utterances out, or allow them.
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
        raise InputError(f"{target} has the suffix {target.suffix!r}; expected {', '.join(MANIFEST_SUFFIXES)}")
    unknown = sorted(set(keep) - set(KEEPABLE))
    if unknown:
        raise InputError(f"{unknown[0]!r} cannot be kept; expected {', '.join(KEEPABLE)}")
    evaluated = _check_overlap(found, evaluation, overlap)
    recordings = found.recordings
    journal = target.with_name(f".{target.name}.journal")
    facts = survey(
        [one.stretch for one in recordings],
        decode=decode,
        num_workers=num_workers,
        journal=journal,
        show_progress=show_progress,
    )
    faults = find_faults(recordings, facts, limits or Limits())
    for index, one in enumerate(recordings):
        if one.full_speaker in evaluated and index not in faults:
            faults[index] = Fault("evaluated", "the speaker stands in the evaluation trials")
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
        layout=found.layout,
        utterances=len(kept),
        speakers=len({recordings[index].full_speaker for index in kept}),
        seconds=math.fsum(facts[index].seconds for index in kept),
        found=len(recordings),
        faults=_count(faults.values()),
        kept=_count(faults[index] for index in kept if index in faults),
        clipped=clipped_shares(facts, NOTABLE_CLIPPED_SHARE),
        passed_over=len(found.passed_over),
    )


def _check_overlap(
    found: FoundRecordings, evaluation: Iterable[str | os.PathLike[str]], overlap: OverlapPolicy
) -> frozenset[str]:
    """Return the speakers to leave out."""
    corpus = found.corpus()
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


def _row(one: Recording, facts: StretchFacts, base: Path) -> Mapping[str, Any]:
    seconds = round(facts.seconds, 6)  # well below a sample
    is_part = one.start > 0 or one.seconds is not None
    return {
        "path": path_below(one.path, base),
        "speaker": one.speaker,
        "start": one.start if is_part else None,
        "duration": seconds if is_part else None,
        "seconds": seconds,
        "session": one.session,
        "corpus": one.corpus,
        "sample_rate": facts.sample_rate,
        **one.columns,
    }


def path_below(path: Path, base: Path) -> str:
    """Return ``path`` relative to ``base`` with forward slashes if it lies below it, else absolute."""
    absolute = path.absolute()
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.as_posix()


def _write_report(report: Path, recordings: tuple[Recording, ...], faults: Mapping[int, Fault], kept: set[int]) -> None:
    rows = [
        {
            "fault": fault.kind,
            "path": _printable(str(one.path)),
            "start": one.start or None,
            "speaker": _printable(one.full_speaker),
            "session": None if one.session is None else _printable(one.session),
            "reason": _printable(fault.reason),
            "kept": "yes" if index in kept else "no",
        }
        for index, fault in sorted(faults.items())
        for one in (recordings[index],)
    ]
    write_manifest(report, rows, columns=_REPORT_COLUMNS)


def _printable(text: str) -> str:
    return " ".join(text.encode("utf-8", "backslashreplace").decode().splitlines())
