"""The embeddings of all systems of an evaluation, each made once, and the scores that a protocol gives them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mrl.audio import audio_info
from mrl.embeddings import Crops
from mrl.evaluation.conditions import Condition, Shortened
from mrl.evaluation.measure import SystemScores
from mrl.evaluation.protocol import Cohort, score_by_protocol
from mrl.evaluation.result import EvaluationResult, StratumFigures
from mrl.evaluation.settings import EvaluationSettings
from mrl.evaluation.strata import figures_of_condition_scores
from mrl.evaluation.systems import Lineup, NetworkSystem, TableSystem
from mrl.scoring.normalisation import speaker_means
from mrl.trials.lists import TrialList

_Matrices = dict[str, npt.NDArray[np.float32]]  # system -> (recordings, dim)


class EmbeddedLineup:
    """The embeddings of every recording as it is, of the test sides under every condition, and of a cohort, by system.

    Making one embeds everything.

    Args:
        lineup: the systems.
        lists: the trial lists.
        root: the data root; None where all systems are files of embeddings.
        settings: of the evaluation.
        cohort: the cohort, where the protocol needs one.
    """

    def __init__(
        self,
        lineup: Lineup,
        lists: Sequence[TrialList],
        root: str | os.PathLike[str] | None,
        settings: EvaluationSettings,
        cohort: Cohort | None,
    ) -> None:
        self._lineup, self._settings, self._protocol = lineup, settings, settings.protocol
        self._names = list(dict.fromkeys(name for trials in lists for name in self._protocol.recordings(trials)))
        self._row = {name: row for row, name in enumerate(self._names)}
        self._root = None if root is None else Path(root)
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
        if settings.conditions:
            on_test = sorted({self._row[trials.utterances[index]] for trials in lists for index in np.unique(trials.test)})
        for condition in settings.conditions:
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

    def figures(self, result: EvaluationResult, trials: TrialList, condition: Condition) -> tuple[StratumFigures, ...]:
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
        return figures_of_condition_scores(
            result, trials, condition.group, condition.name, scores, speakers=self._settings.speakers, note=note
        )

    def seconds(self, trials: TrialList) -> npt.NDArray[np.float64]:
        """Return the seconds (utterances,) of each recording that are used."""
        assert self._root is not None  # only networks have calibrations
        used = self._settings.extraction.used_seconds
        return np.array([used(audio_info(self._root / name).seconds) for name in trials.utterances])

    def _scores_of(self, name: str, rows: list[int], trials: TrialList, dims: Sequence[int]) -> SystemScores:
        cohort = self._cohort.get(name)
        return SystemScores(name, score_by_protocol(self._protocol, self._clean[name][rows], trials, dims, cohort=cohort))

    def _filled(self, name: str, condition: Condition, trials: TrialList, rows: list[int]) -> npt.NDArray[np.float32]:
        """The recordings under a condition; those on no test side as they are, merely to be finite."""
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
        crops = Crops(self._protocol.num_crops, self._protocol.crop_seconds)
        networks = [system.model]
        if system.own_name is not None and system.model.backbone is not None:
            networks.append(system.model.backbone)
        parts = (self._settings.embed(network, names, paths, crops=crops)[0] for network in networks)
        return dict(zip(system.names, parts, strict=True))

    def _embed_whole(
        self, system: NetworkSystem, names: Sequence[str], paths: Sequence[Path], condition: Condition | None, description: str
    ) -> _Matrices:
        matrices = self._settings.embed(
            system.model, names, paths, outputs=system.outputs, change=condition, description=description
        )
        return dict(zip(system.names, matrices, strict=True))

    def _cohort_means(self, system: NetworkSystem | TableSystem, cohort: Cohort) -> _Matrices:
        if cohort.matrix is not None:
            return {system.name: speaker_means(cohort.matrix, cohort.speakers)[0]}
        assert isinstance(system, NetworkSystem)  # checked with the arguments
        names = [str(path) for path in cohort.paths]
        matrices = self._embed_whole(system, names, cohort.paths, None, f"{system.name}, cohort")
        return {name: speaker_means(matrix, cohort.speakers)[0] for name, matrix in matrices.items()}

    def _note(self, trials: TrialList, condition: Condition) -> str:
        if not isinstance(condition, Shortened) or self._root is None:
            return ""
        tests = [trials.utterances[index] for index in np.unique(trials.test)]
        short = sum(audio_info(self._root / name).seconds < condition.seconds for name in tests)
        return f"{short:,} of {len(tests):,} test recordings are shorter and whole" if short else ""
