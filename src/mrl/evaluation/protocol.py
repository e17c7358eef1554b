"""How trials are scored: plain cosines of whole recordings, or one of the protocols that change this."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.data.corpora import scan_speaker_folders
from mrl.data.manifest import MANIFEST_SUFFIXES, read_manifest
from mrl.embeddings.formats import READABLE_SUFFIXES, holds_embeddings, load_embeddings
from mrl.errors import DataError, InputError
from mrl.evaluation.result import ProtocolFacts
from mrl.scoring.cosine import prefix_norms, score_changed_test_side, score_crops, score_prefixes
from mrl.scoring.enrolled import enrolled_pairs, enrolled_prefixes
from mrl.scoring.normalisation import adaptive_symmetric_norm, centre
from mrl.trials.enrolment import EnrolledTrials, EnrolmentMap, read_enrolment_map
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speaker_of

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Cohort:
    """The cohort of a centring or score normalisation: which recordings or embeddings, and whose.

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
            ids name the speaker (see :func:`mrl.trials.speaker_of`) or are in ``speakers``.
        speakers: id -> speaker for such a file.

    Raises:
        DataError: the place is missing or unusable, speakers are not known, or recordings begin later than at 0 s.
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
    stretches = sum(utterance.start > 0 for utterance in corpus.utterances)
    if stretches:
        raise DataError(
            f"{stretches} rows of {path} begin later than at 0 s; a cohort needs recordings that are files of their own"
        )
    return Cohort(
        str(path),
        tuple(utterance.speaker for utterance in corpus.utterances),
        tuple(utterance.path for utterance in corpus.utterances),
    )


@dataclass(frozen=True, eq=False)
class Protocol:
    """What is done beyond the cosine of two whole recordings; without arguments nothing.

    Attributes:
        centre: subtract the mean of the cohort's speakers from every embedding (at unit length).
        as_norm_top: AS-Norm with this many cohort speakers per side; None for none.
        cohort: folder of speakers, manifest or file of embeddings; goes with ``centre`` or ``as_norm_top``.
        num_crops: score this many crops of every recording; None for whole recordings.
        crop_seconds: length of a crop in seconds.
        enrolment: the recordings behind the names of enrolment models; None where the list names recordings.

    Raises:
        InputError: parts that do not go together, or values that cannot be used.
    """

    centre: bool = False
    as_norm_top: int | None = None
    cohort: str | os.PathLike[str] | None = None
    num_crops: int | None = None
    crop_seconds: float = 4.0
    enrolment: EnrolmentMap | None = None

    def __post_init__(self) -> None:
        if self.needs_cohort != (self.cohort is not None):
            raise InputError(
                "centring (--centre) and AS-Norm (--as-norm) need a cohort (--cohort), and a cohort needs one of them; "
                "found only one of the two"
            )
        if self.as_norm_top is not None and self.as_norm_top < 2:
            raise InputError(f"AS-Norm needs at least 2 cohort speakers per side (--as-norm); found {self.as_norm_top}")
        if self.num_crops is not None and (self.num_crops < 1 or not self.crop_seconds > 0):
            raise InputError(
                f"crops need a number from 1 up and a length above 0 s; found {self.num_crops} and {self.crop_seconds:g} s"
            )
        for part, given in (("a cohort", self.needs_cohort), ("an enrolment map", self.enrolment is not None)):
            if self.num_crops is not None and given:
                raise InputError(f"crops (--crops) do not go with {part}; give one of the two")

    @property
    def needs_cohort(self) -> bool:
        """Whether embeddings of a cohort are needed."""
        return self.centre or self.as_norm_top is not None

    @property
    def is_plain(self) -> bool:
        """Whether scores are raw cosines of two whole recordings: what calibrations of model folders are made for."""
        return not self.needs_cohort and self.num_crops is None and self.enrolment is None

    def enrolled(self, trials: TrialList) -> EnrolledTrials | None:
        """Return the trials with their models resolved; None without an enrolment map."""
        return None if self.enrolment is None else self.enrolment.resolve(trials)

    def recordings(self, trials: TrialList) -> tuple[str, ...]:
        """Return the recordings that a list needs, in the order in which :func:`score_by_protocol` takes their embeddings."""
        enrolled = self.enrolled(trials)
        return trials.utterances if enrolled is None else enrolled.recordings

    def facts(self, *, cohort_speakers: int = 0, cohort_recordings: int = 0, notes: Sequence[str] = ()) -> ProtocolFacts:
        """Return what reports say about this protocol."""
        if self.is_plain:
            return ProtocolFacts()
        parts = [] if self.num_crops is not None else ["whole recordings"]
        settings: dict[str, Any] = {}
        if self.num_crops is not None:
            parts.append(f"{self.num_crops} crops of {self.crop_seconds:g} s, mean cosine over all pairs of crops")
            settings |= {"crops": self.num_crops, "crop_seconds": self.crop_seconds}
        if self.enrolment is not None:
            parts.append(f"enrolment by the average of several recordings ({Path(self.enrolment.source).name})")
            settings["enrolment_map"] = self.enrolment.source
        if self.centre:
            parts.append("centred on the mean of the cohort's speakers")
        if self.as_norm_top is not None:
            parts.append(f"AS-Norm with the top {self.as_norm_top} cohort speakers of each side")
        if self.needs_cohort:
            parts.append(f"cohort of {cohort_speakers:,} speakers, {cohort_recordings:,} recordings")
            settings |= {
                "centre": self.centre,
                "as_norm_top": self.as_norm_top,
                "cohort": str(self.cohort),
                "cohort_speakers": cohort_speakers,
                "cohort_recordings": cohort_recordings,
            }
        return ProtocolFacts("; ".join(parts), self._score(), settings, tuple(notes))

    def _score(self) -> str:
        if self.as_norm_top is not None:
            return "AS-Norm score"
        if self.centre:
            return "centred cosine"
        return "mean cosine" if self.num_crops is not None else "cosine"


def make_protocol(
    *,
    centre: bool = False,
    as_norm_top: int | None = None,
    cohort: str | os.PathLike[str] | None = None,
    num_crops: int | None = None,
    crop_seconds: float | None = None,
    enrolment_map: str | os.PathLike[str] | None = None,
    enrolment_prefix: str | None = None,
) -> Protocol:
    """Return the protocol that a user names.

    Args:
        centre, as_norm_top, cohort, num_crops: as for :class:`Protocol`.
        crop_seconds: length of a crop in seconds, 4 by default; goes with ``num_crops``.
        enrolment_map: file for :func:`mrl.evaluation.read_enrolment_map`.
        enrolment_prefix: its prefix; goes with ``enrolment_map``.

    Raises:
        InputError: parts that do not go together.
        DataError: the enrolment map cannot be read.
    """
    if crop_seconds is not None and num_crops is None:
        raise InputError("a length of crops (--crop-seconds) needs their number (--crops)")
    if enrolment_prefix is not None and enrolment_map is None:
        raise InputError("a prefix of enrolment recordings (--enrolment-prefix) needs the map (--enrolment-map)")
    return Protocol(
        centre,
        as_norm_top,
        cohort,
        num_crops,
        4.0 if crop_seconds is None else crop_seconds,
        None if enrolment_map is None else read_enrolment_map(enrolment_map, prefix=enrolment_prefix or ""),
    )


def score_by_protocol(
    protocol: Protocol,
    embeddings: FloatArray,
    trials: TrialList,
    dims: Sequence[int],
    *,
    cohort: FloatArray | None = None,
    changed: FloatArray | None = None,
) -> dict[int, FloatArray]:
    """Return the scores of every trial at every prefix length.

    Args:
        protocol: how to score.
        embeddings: (recordings, dim), row i belongs to ``protocol.recordings(trials)[i]``; (recordings, crops, dim) with crops.
        trials: the list.
        dims: prefix lengths.
        cohort: (speakers, dim) speaker means (:func:`mrl.evaluation.speaker_means`); needed with centring and AS-Norm.
        changed: (recordings, dim) embeddings of the recordings as they are on the test side, where they differ there.

    Returns:
        ``{dim: (trials,) float32}`` in ascending order of dim.

    Raises:
        DataError, InputError: as the functions of each protocol.
    """
    if protocol.num_crops is not None:
        return score_crops(embeddings, trials, dims)
    if protocol.centre:
        assert cohort is not None
        embeddings = _centred(embeddings, cohort)
        changed = None if changed is None else _centred(changed, cohort)
        cohort = centre(cohort, cohort)
    enrolled = protocol.enrolled(trials)
    if enrolled is not None:
        return _score_enrolled(protocol, embeddings, enrolled, dims, cohort)
    if changed is None:
        scores = score_prefixes(embeddings, trials, dims)
    else:
        scores = score_changed_test_side(embeddings, changed, trials, dims)
    if protocol.as_norm_top is None:
        return scores
    assert cohort is not None
    test = embeddings if changed is None else changed
    return adaptive_symmetric_norm(scores, embeddings, test, cohort, trials, dims, top=protocol.as_norm_top)


def _score_enrolled(
    protocol: Protocol, embeddings: FloatArray, enrolled: EnrolledTrials, dims: Sequence[int], cohort: FloatArray | None
) -> dict[int, FloatArray]:
    pairs = enrolled_pairs(enrolled)
    by_dim: dict[int, FloatArray] = {}
    for dim, rows in enrolled_prefixes(embeddings, enrolled, dims):
        scores: Mapping[int, FloatArray] = score_prefixes(rows, pairs, [dim])
        if protocol.as_norm_top is not None:
            assert cohort is not None
            scores = adaptive_symmetric_norm(scores, rows, rows, cohort[:, :dim], pairs, [dim], top=protocol.as_norm_top)
        by_dim[dim] = scores[dim]
    return by_dim


def _centred(embeddings: FloatArray, cohort: FloatArray) -> FloatArray:
    """The cohort's rows are means of unit-length embeddings, so the others must have that scale, too."""
    width = embeddings.shape[1]
    unit, _ = prefix_norms(embeddings, (width,), [f"row {row}" for row in range(len(embeddings))])
    return centre(unit, cohort)
