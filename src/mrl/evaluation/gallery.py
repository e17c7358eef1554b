"""The embeddings of all systems of an evaluation, each made once, and the scores that a protocol gives them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mrl.audio import audio_info
from mrl.embeddings.encoders import is_matryoshka
from mrl.embeddings.processes import Processes
from mrl.evaluation.cached_crops import crops_of_recordings
from mrl.evaluation.cohort import Cohort
from mrl.evaluation.conditions import Condition, Cut
from mrl.evaluation.embedding import embed_recordings
from mrl.evaluation.embedding_cache import EmbeddingCache
from mrl.evaluation.evaluate import SystemScores
from mrl.evaluation.protocol import Protocol, score_by_protocol
from mrl.evaluation.result import EvaluationResult, StratumFigures
from mrl.evaluation.strata import figures_of_condition_scores
from mrl.evaluation.systems import Lineup, NetworkSystem, TableSystem
from mrl.scoring.normalisation import speaker_means
from mrl.trials.lists import TrialList

_Matrices = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Extraction:
    """How recordings become embeddings.

    Attributes:
        batch_seconds: most audio per forward pass, in seconds.
        max_seconds: use only the first so many seconds of each recording.
        num_workers: threads that decode ahead.
        device: where the networks go.
        cache: folder where embeddings are kept and looked up; None for none.
        show_progress: draw progress bars (on a terminal only).
        processes: those that share the work, by default this one alone; an evaluation connects them while it embeds.
    """

    batch_seconds: float = 60.0
    max_seconds: float | None = None
    num_workers: int = 2
    device: str = "cpu"
    cache: str | os.PathLike[str] | None = None
    show_progress: bool = True
    processes: Processes = Processes()  # noqa: RUF009 - frozen


class Gallery:
    """The embeddings of all systems: of every recording as it is, of the test sides under every condition, of a cohort.

    Args:
        lineup: the systems.
        lists: the trial lists.
        root: the data root; None where all systems are files of embeddings.
        conditions: what is done to test sides.
        how: how recordings become embeddings.
        protocol: how trials are scored.
        cohort: the cohort, where the protocol needs one.
    """

    def __init__(
        self,
        lineup: Lineup,
        lists: Sequence[TrialList],
        root: str | os.PathLike[str] | None,
        conditions: Sequence[Condition],
        how: Extraction,
        protocol: Protocol,
        cohort: Cohort | None,
    ) -> None:
        self._lineup, self._how, self._protocol = lineup, how, protocol
        self._names = list(dict.fromkeys(name for trials in lists for name in protocol.recordings(trials)))
        self._row = {name: row for row, name in enumerate(self._names)}
        self._root = None if root is None else Path(root)
        self._cache = None if how.cache is None else EmbeddingCache(how.cache)
        self._clean: _Matrices = {}
        self._cohort: _Matrices = {}
        self._changed: dict[Condition, _Matrices] = {}
        for system in lineup.systems:
            if isinstance(system, TableSystem):
                union = TrialList.from_pairs([(True, name, name) for name in self._names], source=lists[0].source)
                self._clean[system.name] = system.table.matrix[union.indices_into(system.table.ids)]
            else:
                self._clean |= self._embed(system, list(range(len(self._names))), None)
            if cohort is not None:
                self._cohort |= self._cohort_means(system, cohort)
        if conditions:
            on_test = sorted({self._row[trials.utterances[index]] for trials in lists for index in np.unique(trials.test)})
        for condition in conditions:
            matrices: _Matrices = {}
            for network in lineup.networks:
                for name, part in self._embed(network, on_test, condition).items():
                    matrices[name] = np.zeros((len(self._names), part.shape[1]), dtype=np.float32)
                    matrices[name][on_test] = part
            self._changed[condition] = matrices

    def scores(self, trials: TrialList) -> list[SystemScores]:
        """Return the scores of every system on one list: those named first, then backbones inside of them."""
        rows = self._rows(trials)
        named: list[SystemScores] = []
        own: list[SystemScores] = []
        for system in self._lineup.systems:
            named.append(self._scores_of(system.name, rows, trials, system.dims))
            if isinstance(system, NetworkSystem) and system.own_name is not None:
                own.append(self._scores_of(system.own_name, rows, trials, system.own_dims))
        return [*named, *own]

    def figures(
        self, result: EvaluationResult, trials: TrialList, condition: Condition, speakers: Mapping[str, str] | None
    ) -> tuple[StratumFigures, ...]:
        """Return the figures of every system on one list under a condition."""
        rows = self._rows(trials)
        scores = {
            (system.name, dim): values
            for system in result.systems
            for dim, values in score_by_protocol(
                self._protocol,
                self._clean[system.name][rows],
                trials,
                system.dims,
                cohort=self._cohort.get(system.name),
                changed=self._filled(system.name, condition, trials, rows),
            ).items()
        }
        note = self._note(trials, condition)
        return figures_of_condition_scores(result, trials, condition.group, condition.name, scores, speakers=speakers, note=note)

    def seconds(self, trials: TrialList) -> npt.NDArray[np.float64]:
        """Return the seconds (utterances,) of each recording that are used."""
        assert self._root is not None  # only networks have calibrations
        longest = np.inf if self._how.max_seconds is None else self._how.max_seconds
        return np.array([min(audio_info(self._root / name).seconds, longest) for name in trials.utterances])

    def _scores_of(self, name: str, rows: list[int], trials: TrialList, dims: Sequence[int]) -> SystemScores:
        cohort = self._cohort.get(name)
        return SystemScores(name, score_by_protocol(self._protocol, self._clean[name][rows], trials, dims, cohort=cohort))

    def _filled(self, name: str, condition: Condition, trials: TrialList, rows: list[int]) -> npt.NDArray[np.float32]:
        """The recordings under a condition; those on no test side as they are, for nothing but to be finite."""
        changed = self._changed[condition][name][rows]
        unused = np.setdiff1d(np.arange(len(trials.utterances)), trials.test)
        changed[unused] = self._clean[name][rows][unused]
        return changed

    def _rows(self, trials: TrialList) -> list[int]:
        return [self._row[name] for name in self._protocol.recordings(trials)]

    def _embed(self, system: NetworkSystem, rows: list[int], condition: Condition | None) -> _Matrices:
        assert self._root is not None  # checked with the arguments
        names = [self._names[row] for row in rows]
        paths = [self._root / name for name in names]
        if self._protocol.num_crops is None:
            description = system.name if condition is None else f"{system.name}, {condition.name}"
            return self._embed_whole(system, names, paths, condition, description)
        networks = [system.model]
        if system.own_name is not None and is_matryoshka(system.model):
            networks.append(system.model.backbone)
        crops = (
            crops_of_recordings(
                network,
                paths,
                num_crops=self._protocol.num_crops,
                crop_seconds=self._protocol.crop_seconds,
                batch_seconds=self._how.batch_seconds,
                num_workers=self._how.num_workers,
                max_seconds=self._how.max_seconds,
                show_progress=self._how.show_progress,
                cache=self._cache,
                processes=self._how.processes,
            )
            for network in networks
        )
        return dict(zip(system.names, crops, strict=True))

    def _embed_whole(
        self, system: NetworkSystem, names: Sequence[str], paths: Sequence[Path], condition: Condition | None, description: str
    ) -> _Matrices:
        matrices = embed_recordings(
            system.model,
            names,
            paths,
            own_backbone=system.own_name is not None,
            batch_seconds=self._how.batch_seconds,
            num_workers=self._how.num_workers,
            max_seconds=self._how.max_seconds,
            show_progress=self._how.show_progress,
            condition=condition,
            cache=self._cache,
            description=description,
            processes=self._how.processes,
        )
        return dict(zip(system.names, matrices, strict=True))

    def _cohort_means(self, system: NetworkSystem | TableSystem, cohort: Cohort) -> _Matrices:
        if cohort.matrix is not None:
            return {system.name: speaker_means(cohort.matrix, cohort.speakers)[0]}
        assert isinstance(system, NetworkSystem)  # checked with the arguments
        names = [str(path) for path in cohort.paths]
        found = self._embed_whole(system, names, cohort.paths, None, f"{system.name}, cohort")
        return {name: speaker_means(matrix, cohort.speakers)[0] for name, matrix in found.items()}

    def _note(self, trials: TrialList, condition: Condition) -> str:
        if not isinstance(condition, Cut) or self._root is None:
            return ""
        tests = [trials.utterances[index] for index in np.unique(trials.test)]
        short = sum(audio_info(self._root / name).seconds < condition.seconds for name in tests)
        return f"{short:,} of {len(tests):,} test recordings are shorter and whole" if short else ""
