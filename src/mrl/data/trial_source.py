"""Which recordings a trial list is made from: a manifest, or one folder per speaker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mrl.data.corpora import scan_speaker_folders
from mrl.data.manifest import FilterValue, manifest_rows, read_manifest
from mrl.data.utterances import Corpus
from mrl.errors import DataError, InputError
from mrl.trials.lists import TrialList
from mrl.trials.making import make_balanced_trials


@dataclass(frozen=True)
class TrialSource:
    """Recordings to pair.

    Attributes:
        utterances: speaker -> recordings, as paths below ``root``.
        genders: speaker -> gender; None where not asked for.
        sessions: recording -> session, for those where it is known.
        root: the data root that belongs to the list.
    """

    utterances: Mapping[str, tuple[str, ...]]
    genders: Mapping[str, str] | None
    sessions: Mapping[str, str]
    root: Path


def open_trial_source(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    where: Mapping[str, FilterValue] | None = None,
    gender_column: str | None = None,
) -> TrialSource:
    """Find the recordings of each speaker.

    Args:
        source: a manifest (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``) or a folder with one subfolder per speaker.
        root: folder that the list's paths are relative to; by default the folder itself, or the manifest's.
        where: for a manifest: keep only rows whose column has the value.
        gender_column: for a manifest: the column with the speakers' genders, to be read.

    Raises:
        DataError: no recordings, recordings outside the root, stretches of recordings (a trial list names whole files), or a
            speaker with two genders.
        InputError: ``where`` or ``gender_column`` with a folder, which has no columns.
    """
    place = Path(source)
    if place.is_dir():
        if where or gender_column:
            raise InputError(f"{place} is a folder and has no columns; filters and genders need a manifest")
        corpus, base = scan_speaker_folders(place), Path(root) if root is not None else place
    else:
        corpus, base = read_manifest(place, root=root, where=where), Path(root) if root is not None else place.parent
    genders = None if gender_column is None else _genders(place, base, corpus, gender_column)
    sessions = {_relative(utterance.path, base): utterance.session for utterance in corpus.utterances if utterance.session}
    return TrialSource(_by_speaker(corpus, base), genders, sessions, base)


def make_trials_from(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    where: Mapping[str, FilterValue] | None = None,
    max_targets: int = 10_000,
    max_nontargets: int = 50_000,
    same_gender_share: float | None = None,
    gender_column: str = "gender",
    different_sessions: bool = False,
    seed: int = 0,
) -> TrialList:
    """Make a balanced trial list from a manifest or speaker folders.

    Args:
        source, root, where: as for :func:`open_trial_source`.
        max_targets, max_nontargets, same_gender_share, seed: as for :func:`make_balanced_trials`.
        gender_column: column with the speakers' genders; read only with ``same_gender_share``.
        different_sessions: same-speaker trials are of two sessions: the manifest's column ``session``, or the first folder inside
            a speaker's.

    Raises:
        DataError, InputError: as both of these.
    """
    column = None if same_gender_share is None else gender_column
    opened = open_trial_source(source, root=root, where=where, gender_column=column)
    return make_balanced_trials(
        opened.utterances,
        max_targets=max_targets,
        max_nontargets=max_nontargets,
        genders=opened.genders,
        same_gender_share=same_gender_share,
        sessions=opened.sessions if different_sessions else None,
        seed=seed,
    )


def _by_speaker(corpus: Corpus, base: Path) -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    seen: set[Path] = set()
    for utterance in corpus.utterances:
        if utterance.start > 0 or utterance.path in seen:
            raise DataError(
                f"{utterance.path} is used in stretches, but a trial list names whole recordings; "
                "cut the stretches to files first"
            )
        seen.add(utterance.path)
        names.setdefault(utterance.speaker, []).append(_relative(utterance.path, base))
    return {speaker: tuple(recordings) for speaker, recordings in names.items()}


def _relative(path: Path, base: Path) -> str:
    try:
        return path.relative_to(base).as_posix()
    except ValueError:
        raise DataError(f"{path} is not below the root {base}, so no list can name it; give another root") from None


def _genders(manifest: Path, base: Path, corpus: Corpus, column: str) -> dict[str, str]:
    speaker_of = {utterance.path: utterance.speaker for utterance in corpus.utterances}
    genders: dict[str, str] = {}
    for place, row in manifest_rows(manifest):
        speaker = speaker_of.get(base / str(row.get("path")))
        if speaker is None:
            continue
        if column not in row:
            raise DataError(f"{place}: no column {column!r} (columns here: {', '.join(row)})")
        gender = "" if row[column] is None else str(row[column]).strip()
        if gender and genders.setdefault(speaker, gender) != gender:
            raise DataError(f"{place}: speaker {speaker!r} is {gender!r} here and {genders[speaker]!r} before")
    return genders
