"""Evaluation of whatever a user names: models, files of embeddings, several of them, on one or several lists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.audio import audio_info
from mrl.embeddings import EmbeddingCache, Processes
from mrl.embeddings.sharded import holds_embeddings
from mrl.errors import DataError, InputError
from mrl.evaluation.conditions import Condition, Cut
from mrl.evaluation.embedding import crops_of_recordings, embed_recordings
from mrl.evaluation.measure import (
    CalibrateOn,
    SystemScores,
    calibration_of,
    check_calibrate_on,
    evaluate_systems,
    require_held_out,
    with_calibration,
    with_held_out_calibration,
)
from mrl.evaluation.protocol import Cohort, Protocol, open_cohort, score_by_protocol
from mrl.evaluation.result import EvaluationResult, ProtocolFacts, StratumFigures
from mrl.evaluation.strata import figures_of_condition_scores, figures_of_strata, read_column, strata_of_column
from mrl.evaluation.systems import Lineup, NetworkSystem, System, TableSystem, open_lineup
from mrl.hardware import hardware_line
from mrl.scoring.bootstrap import SpeakerResamples
from mrl.scoring.calibration import Calibration
from mrl.scoring.normalisation import speaker_means
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials

# The embeddings of all systems of an evaluation, each made once, and the scores that a protocol gives them.


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
        if system.own_name is not None and system.model.backbone is not None:
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


__all__ = ["Extraction", "evaluate_spec", "evaluate_specs", "report_folders"]


def evaluate_spec(
    spec: str,
    trials: TrialList,
    root: str | os.PathLike[str] | None,
    *,
    weights: str | None = None,
    dims: Iterable[int] | None = None,
    own_backbone: bool = True,
    baseline: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    batch_seconds: float = 60.0,
    max_seconds: float | None = None,
    num_workers: int = 2,
    device: str = "cpu",
    command: Sequence[str] = (),
) -> EvaluationResult:
    """Evaluate one model or file of embeddings on one trial list; see :func:`evaluate_specs`."""
    return evaluate_specs(
        [spec],
        [trials],
        root,
        weights=weights,
        dims=None if dims is None else tuple(dims),
        own_backbone=own_backbone,
        baseline=baseline,
        bootstrap=bootstrap,
        seed=seed,
        speakers=speakers,
        extraction=Extraction(batch_seconds, max_seconds, num_workers, device),
        command=command,
    )[0]


def evaluate_specs(
    specs: Sequence[str],
    lists: Sequence[TrialList],
    root: str | os.PathLike[str] | None,
    *,
    weights: str | None = None,
    dims: Sequence[int] | None = None,
    depth: int | None = None,
    own_backbone: bool = True,
    baseline: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    conditions: Sequence[Condition] = (),
    strata: Sequence[str] = (),
    manifest: str | os.PathLike[str] | None = None,
    extraction: Extraction | None = None,
    protocol: Protocol | None = None,
    calibrate_on: CalibrateOn = "model",
    command: Sequence[str] = (),
) -> list[EvaluationResult]:
    """Evaluate systems side by side on one or several trial lists.

    Every recording is embedded once by each network, whatever the number of lists, and once more under each condition where it
    stands on the test side of a trial.

    Args:
        specs: model folders, official checkpoints, released names, or embedding files.
        lists: the trial lists.
        root: the data root; needed for models, refused where there are only embedding files and no strata.
        weights: for a released name, where its file is.
        dims: prefix lengths.
        depth: leave the networks of ``specs`` (model folders with exits) after so many stages; the baseline is a whole network.
        own_backbone: measure the unmodified backbone inside a Matryoshka model beside it, unless ``baseline`` is given.
        baseline: another network to compare with.
        bootstrap: resamples of the speakers for 95 % intervals and tests; 0 for none.
        seed: of the resamples.
        speakers: utterance -> speaker, where paths do not tell.
        conditions: what is done to the test side (see :func:`mrl.evaluation.make_conditions`); needs models, not files.
        strata: columns of ``manifest`` to divide each list by.
        manifest: its rows say what the recordings are.
        extraction: how recordings become embeddings.
        protocol: how trials are scored; the cosine of whole recordings by default.
        calibrate_on: where log-likelihood ratios come from: "model" uses a model folder's ``calibration.json`` at the dims that
            it covers (and with a plain protocol only), "held-out" fits on the list's other speakers, "none" leaves them out.
        command: the command line, for the report.

    Returns:
        One result for each list; none in a process that only helps to embed (see :class:`Extraction`).

    Raises:
        InputError: arguments that do not go together, otherwise as :func:`mrl.evaluation.systems.open_lineup`.
        DataError: missing or unreadable recordings (all counted), unusable lists, or as :func:`evaluate_systems`.
    """
    how, protocol = extraction or Extraction(), protocol or Protocol()
    _check_arguments(specs, lists, strata, manifest)
    check_calibrate_on(calibrate_on)
    _check_root(specs, root, conditions, strata, how)
    _check_protocol(protocol, specs, conditions, strata)
    cohort = None if protocol.cohort is None else open_cohort(protocol.cohort, speakers=speakers)
    if cohort is not None:
        cohort.require_speakers(protocol.as_norm_top)
    lineup = open_lineup(
        specs, weights=weights, dims=dims, depth=depth, own_backbone=own_backbone, baseline=baseline, device=how.device
    )
    _check_cohort(cohort, lineup)
    calibrations, warnings = _calibrations(lineup, protocol, calibrate_on, left_early=depth is not None)
    for trials in lists:  # what is wrong with a list should show before hours of work
        trials.require_both_classes()
        if calibrate_on == "held-out":
            require_held_out(trials, speakers)
        if bootstrap:
            SpeakerResamples.draw(trials, bootstrap, seed=seed, speakers=speakers)
        if lineup.networks and root is not None:
            trials.require_files(root, protocol.recordings(trials))
            if cohort is not None:
                cohort.require_others([Path(root) / name for name in protocol.recordings(trials)])
    names = list(dict.fromkeys(name for trials in lists for name in trials.utterances))
    columns = {column: _column(manifest, column, names, root) for column in strata}
    parts = [
        [part for column, values in columns.items() for part in strata_of_column(trials, column, values)] for trials in lists
    ]
    with how.processes.together():
        gallery = Gallery(lineup, lists, root, conditions, how, protocol, cohort)
    if not how.processes.is_first:
        return []  # the first process alone scores
    provenance = _provenance(specs, baseline, lineup, root, how, command)
    results = []
    for trials, strata_here in zip(lists, parts, strict=True):
        scored = [
            _calibrated(system, calibrations.get(system.name), calibrate_on, trials, gallery, speakers)
            for system in gallery.scores(trials)
        ]
        result = evaluate_systems(
            scored,
            trials,
            bootstrap=bootstrap,
            seed=seed,
            speakers=speakers,
            reference=lineup.reference,
            provenance=provenance,
            protocol=_protocol_facts(protocol, cohort, trials, speakers, warnings),
        )
        found = [figure for one in conditions for figure in gallery.figures(result, trials, one, speakers)]
        found += figures_of_strata(result, trials, strata_here, speakers=speakers)
        results.append(replace(result, strata=tuple(found)))
    return results


def report_folders(lists: Sequence[Path], output: Path | None) -> list[Path | None]:
    """Return the folder for each list's report: ``output`` itself for one list, a subfolder named like the list for several.

    Raises:
        InputError: two lists would share a folder.
    """
    if output is None or len(lists) == 1:
        return [output] * len(lists)
    names = [path.name.removesuffix(".gz").rpartition(".")[0] or path.name for path in lists]
    if len(set(names)) != len(names):
        raise InputError(f"trial lists need different names for their reports; found {', '.join(names)}")
    return [output / name for name in names]


def _check_arguments(
    specs: Sequence[str], lists: Sequence[TrialList], strata: Sequence[str], manifest: str | os.PathLike[str] | None
) -> None:
    if not lists:
        raise InputError("there is no trial list")
    if bool(strata) != (manifest is not None):
        raise InputError("strata need both columns (--strata) and the manifest that holds them (--manifest); found only one")


def _check_root(
    specs: Sequence[str],
    root: str | os.PathLike[str] | None,
    conditions: Sequence[Condition],
    strata: Sequence[str],
    how: Extraction,
) -> None:
    files = [spec for spec in specs if holds_embeddings(spec)]
    if files and conditions:
        raise InputError(f"{files[0]} holds embeddings; conditions on the test side need recordings and models")
    if len(files) < len(specs):
        if root is None:
            raise InputError("a data root is needed: the folder below which the paths of the trial list lie (--root)")
        return
    given = {"root": None if strata else root, "max_seconds": how.max_seconds, "cache": how.cache}
    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option} does not go with a file of embeddings ({files[0]}); leave it out")


def _check_protocol(protocol: Protocol, specs: Sequence[str], conditions: Sequence[Condition], strata: Sequence[str]) -> None:
    files = [spec for spec in specs if holds_embeddings(spec)]
    if protocol.num_crops is not None and files:
        raise InputError(f"{files[0]} holds embeddings of whole recordings; crops (--crops) need recordings and models")
    if protocol.num_crops is not None and conditions:
        raise InputError("crops (--crops) do not go with conditions on the test side; give one of the two")
    if protocol.enrolment is not None and (conditions or strata):
        kind = "conditions on the test side" if conditions else "strata"
        raise InputError(f"an enrolment map (--enrolment-map) does not go with {kind}; give one of the two")


def _check_cohort(cohort: Cohort | None, lineup: Lineup) -> None:
    if cohort is None:
        return
    measured = [
        name for system in lineup.systems for name in (system.names if isinstance(system, NetworkSystem) else [system.name])
    ]
    if cohort.matrix is not None and len(measured) > 1:
        raise InputError(
            f"the cohort {cohort.source} holds embeddings, which are of one network, but {len(measured)} systems are measured "
            f"({', '.join(measured)}); name recordings as the cohort, or measure one system (--no-backbone)"
        )
    if cohort.matrix is not None:
        first = lineup.systems[0]
        width = first.table.matrix.shape[1] if isinstance(first, TableSystem) else first.model.embed_dim
        if cohort.matrix.shape[1] != width:
            raise InputError(
                f"the cohort {cohort.source} has {cohort.matrix.shape[1]} numbers per embedding and {first.name} has {width}; "
                "they must be of one network"
            )
    elif len(lineup.networks) < len(lineup.systems):
        file = next(system.spec for system in lineup.systems if isinstance(system, TableSystem))
        raise InputError(f"{file} holds embeddings, so its cohort must be a file of embeddings of the same network, too")


def _calibrations(
    lineup: Lineup, protocol: Protocol, calibrate_on: CalibrateOn, *, left_early: bool
) -> tuple[dict[str, Calibration], tuple[str, ...]]:
    """The calibrations of model folders by system, and what a reader should know about those left out."""
    found: dict[str, Calibration] = {}
    warnings = []
    for system in lineup.networks if calibrate_on == "model" else ():
        calibration, warning = calibration_of(system.spec, plain=protocol.is_plain, depth=system.depth if left_early else None)
        if calibration is not None:
            found[system.name] = calibration
        if warning:
            warnings.append(warning)
    return found, tuple(warnings)


def _calibrated(
    system: SystemScores,
    calibration: Calibration | None,
    calibrate_on: CalibrateOn,
    trials: TrialList,
    gallery: Gallery,
    speakers: Mapping[str, str] | None,
) -> SystemScores:
    if calibrate_on == "held-out":
        return with_held_out_calibration(system, trials, speakers)
    if calibration is None:
        return system
    return with_calibration(system, calibration, trials, lambda: gallery.seconds(trials))


def _protocol_facts(
    protocol: Protocol,
    cohort: Cohort | None,
    trials: TrialList,
    speakers: Mapping[str, str] | None,
    warnings: Sequence[str],
) -> ProtocolFacts:
    if cohort is None:
        return replace(protocol.facts(), notes=tuple(warnings))
    notes = list(warnings)
    try:
        shared = cohort.speakers_in(speakers_of_trials(trials, speakers)[0])
    except DataError:  # without intervals nobody need know the speakers
        shared = ()
    if shared:
        notes.append(
            f"{len(shared):,} speakers of the cohort are named like speakers of the list, the first is {shared[0]!r}; if they "
            "are the same people, the figures are wrong."
        )
    return protocol.facts(cohort_speakers=cohort.num_speakers, cohort_recordings=len(cohort.speakers), notes=notes)


def _column(
    manifest: str | os.PathLike[str] | None, column: str, names: Sequence[str], root: str | os.PathLike[str] | None
) -> dict[str, str]:
    assert manifest is not None  # _check_arguments
    return read_column(manifest, column, names, root if root is not None else Path(manifest).parent)


def _provenance(
    specs: Sequence[str],
    baseline: str | None,
    lineup: Lineup,
    root: str | os.PathLike[str] | None,
    how: Extraction,
    command: Sequence[str],
) -> dict[str, Any]:
    first = lineup.systems[0]
    facts: dict[str, Any] = {"command": list(command), "model": specs[0], "hardware": hardware_line(how.device)}
    if isinstance(first, TableSystem):
        facts |= {"embeddings_sha256": first.sha256, "embeddings_metadata": first.table.metadata}
    else:
        facts["model_sha256"] = first.sha256
        cut = first.model.cut
        if cut is not None:
            facts |= {"depth": f"{cut['depth']} of {cut['stages']} stages", "whole_model_sha256": cut["whole_sha256"]}
    if baseline is not None:
        facts |= {"baseline": baseline, "baseline_sha256": lineup.systems[-1].sha256}
    facts["systems"] = [_system_facts(system) for system in lineup.systems]
    if lineup.networks:
        facts |= {"data_root": str(root), "max_seconds": how.max_seconds}
    return facts


def _system_facts(system: System) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": system.name, "given_as": system.spec, "sha256": system.sha256}
    if isinstance(system, NetworkSystem) and system.depth is not None:
        facts["depth"] = system.depth
    return facts
