"""The cohort of a score normalisation: which recordings or embeddings, and whose."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mrl.data.folders import scan_speaker_folders
from mrl.data.manifest import MANIFEST_SUFFIXES, read_manifest
from mrl.embeddings.formats import READABLE_SUFFIXES, load_embeddings
from mrl.embeddings.sharded import holds_embeddings
from mrl.errors import DataError, InputError
from mrl.trials.speakers import speaker_of


@dataclass(frozen=True, eq=False)
class Cohort:
    """A cohort as it was named.

    Attributes:
        source: what the user named.
        speakers: the speaker of every recording or embedding.
        paths: the recordings; empty where the cohort is a file of embeddings.
        matrix: (n, dim) embeddings from a file; None where they are still to be made.
    """

    source: str
    speakers: tuple[str, ...]
    paths: tuple[Path, ...] = ()
    matrix: npt.NDArray[np.float32] | None = None

    @property
    def num_speakers(self) -> int:
        """Different speakers."""
        return len(set(self.speakers))

    def require_speakers(self, top: int | None) -> None:
        """Raise :class:`InputError` when the cohort is smaller than ``top`` speakers."""
        if top is not None and top > self.num_speakers:
            raise InputError(
                f"AS-Norm with the top {top} needs as many cohort speakers; {self.source} has {self.num_speakers}: "
                "give a smaller number or a larger cohort"
            )

    def require_others(self, recordings: Sequence[Path]) -> None:
        """Raise :class:`DataError` when a recording of the trial list is in the cohort (all are counted)."""
        own = {os.path.realpath(path) for path in self.paths}
        shared = [path for path in recordings if os.path.realpath(path) in own]
        if shared:
            raise DataError(
                f"{len(shared)} of {len(recordings)} recordings of the trials are in the cohort {self.source}, the first is "
                f"{shared[0]}; a cohort consists of other speakers"
            )

    def speakers_in(self, others: Sequence[str]) -> tuple[str, ...]:
        """Return the cohort's speakers whose names are among ``others``."""
        return tuple(sorted(set(self.speakers) & set(others)))


def open_cohort(place: str | os.PathLike[str], *, speakers: Mapping[str, str] | None = None) -> Cohort:
    """Open a cohort.

    Args:
        place: a folder with one subfolder per speaker, a manifest (``.csv``, ``.tsv``, ``.jsonl``) with the columns ``path`` and
            ``speaker``, or a file of embeddings of the network to be measured (a ``.parquet`` file is one of embeddings), whose
            ids name the speaker (see :func:`mrl.evaluation.speaker_of`) or are in ``speakers``.
        speakers: id -> speaker for such a file.

    Raises:
        DataError: the place is missing or unusable, speakers cannot be told, or recordings begin later than at 0 s.
        InputError: a file of another kind.
    """
    path = Path(place)
    if holds_embeddings(path):
        table = load_embeddings(path)
        known = speakers or {}
        named = tuple(known[name] if name in known else speaker_of(name) for name in table.ids)
        return Cohort(str(path), named, matrix=table.matrix)
    if path.is_dir():
        corpus = scan_speaker_folders(path)
    elif path.suffix.lower() in MANIFEST_SUFFIXES:
        corpus = read_manifest(path)
    elif path.exists():
        raise InputError(
            f"{path} is no cohort: expected a folder of speakers, a manifest ({', '.join(MANIFEST_SUFFIXES[:-1])}) or a file of "
            f"embeddings ({', '.join(READABLE_SUFFIXES)})"
        )
    else:
        raise DataError(f"the cohort {path} does not exist")
    stretches = sum(one.start > 0 for one in corpus.utterances)
    if stretches:
        raise DataError(
            f"{stretches} rows of {path} begin later than at 0 s; a cohort needs recordings that are files of their own"
        )
    return Cohort(str(path), tuple(one.speaker for one in corpus.utterances), tuple(one.path for one in corpus.utterances))
