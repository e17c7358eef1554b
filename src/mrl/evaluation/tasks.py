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
from mrl.embeddings.formats import READABLE_SUFFIXES
from mrl.errors import DataError, InputError
from mrl.evaluation.bootstrap import SpeakerResamples
from mrl.evaluation.conditions import Condition, Cut
from mrl.evaluation.embedding import embed_recordings
from mrl.evaluation.embedding_cache import EmbeddingCache
from mrl.evaluation.evaluate import SystemEmbeddings, evaluate_systems
from mrl.evaluation.hardware import hardware_line
from mrl.evaluation.result import EvaluationResult
from mrl.evaluation.strata import figures_of_condition, figures_of_strata, read_column, strata_of_column
from mrl.evaluation.systems import Lineup, NetworkSystem, TableSystem, open_lineup
from mrl.evaluation.trials import TrialList

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
    """

    batch_seconds: float = 60.0
    max_seconds: float | None = None
    num_workers: int = 2
    device: str = "cpu"
    cache: str | os.PathLike[str] | None = None
    show_progress: bool = True


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
    own_backbone: bool = True,
    baseline: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    conditions: Sequence[Condition] = (),
    strata: Sequence[str] = (),
    manifest: str | os.PathLike[str] | None = None,
    extraction: Extraction | None = None,
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
        own_backbone: measure the unmodified backbone inside a Matryoshka model beside it, unless ``baseline`` is given.
        baseline: another network to compare with.
        bootstrap: resamples of the speakers for 95 % intervals and tests; 0 for none.
        seed: of the resamples.
        speakers: utterance -> speaker, where paths do not tell.
        conditions: what is done to the test side (see :func:`mrl.evaluation.make_conditions`); needs models, not files.
        strata: columns of ``manifest`` to divide each list by.
        manifest: its rows say what the recordings are.
        extraction: how recordings become embeddings.
        command: the command line, for the report.

    Returns:
        One result for each list.

    Raises:
        InputError: arguments that do not go together, otherwise as :func:`mrl.evaluation.systems.open_lineup`.
        DataError: missing or unreadable recordings (all counted), unusable lists, or as :func:`evaluate_systems`.
    """
    how = extraction or Extraction()
    _check_arguments(specs, lists, strata, manifest)
    _check_root(specs, root, conditions, strata, how)
    lineup = open_lineup(specs, weights=weights, dims=dims, own_backbone=own_backbone, baseline=baseline, device=how.device)
    for trials in lists:  # what is wrong with a list should show before hours of work
        trials.require_both_classes()
        if bootstrap:
            SpeakerResamples.draw(trials, bootstrap, seed=seed, speakers=speakers)
        if lineup.networks and root is not None:
            _require_files(trials, root)
    names = list(dict.fromkeys(name for trials in lists for name in trials.utterances))
    columns = {column: _column(manifest, column, names, root) for column in strata}
    parts = [
        [part for column, values in columns.items() for part in strata_of_column(trials, column, values)] for trials in lists
    ]
    gallery = _Gallery(lineup, lists, names, root, conditions, how)
    provenance = _provenance(specs, baseline, lineup, root, how, command)
    results = []
    for trials, strata_here in zip(lists, parts, strict=True):
        result = evaluate_systems(
            gallery.systems(trials),
            trials,
            bootstrap=bootstrap,
            seed=seed,
            speakers=speakers,
            reference=lineup.reference,
            provenance=provenance,
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


class _Gallery:
    """The embeddings of all systems: of every recording as it is, and of the test sides under every condition."""

    def __init__(
        self,
        lineup: Lineup,
        lists: Sequence[TrialList],
        names: list[str],
        root: str | os.PathLike[str] | None,
        conditions: Sequence[Condition],
        how: Extraction,
    ) -> None:
        self._lineup, self._how, self._names = lineup, how, names
        self._row = {name: row for row, name in enumerate(names)}
        self._root = None if root is None else Path(root)
        on_test = sorted({self._row[trials.utterances[index]] for trials in lists for index in np.unique(trials.test)})
        self._cache = None if how.cache is None else EmbeddingCache(how.cache)
        self._clean: _Matrices = {}
        self._changed: dict[Condition, _Matrices] = {}
        for system in lineup.systems:
            if isinstance(system, TableSystem):
                union = TrialList.from_pairs([(True, name, name) for name in names], source=lists[0].source)
                self._clean[system.name] = system.table.matrix[union.indices_into(system.table.ids)]
            else:
                self._clean |= self._embed(system, list(range(len(names))), None)
        for condition in conditions:
            matrices: _Matrices = {}
            for network in lineup.networks:
                for name, part in self._embed(network, on_test, condition).items():
                    matrices[name] = np.zeros((len(names), part.shape[1]), dtype=np.float32)
                    matrices[name][on_test] = part
            self._changed[condition] = matrices

    def systems(self, trials: TrialList) -> list[SystemEmbeddings]:
        rows = self._rows(trials)
        named: list[SystemEmbeddings] = []
        own: list[SystemEmbeddings] = []
        for system in self._lineup.systems:
            named.append(SystemEmbeddings(system.name, self._clean[system.name][rows], system.dims))
            if isinstance(system, NetworkSystem) and system.own_name is not None:
                own.append(SystemEmbeddings(system.own_name, self._clean[system.own_name][rows], system.own_dims))
        return [*named, *own]

    def figures(
        self, result: EvaluationResult, trials: TrialList, condition: Condition, speakers: Mapping[str, str] | None
    ) -> tuple[Any, ...]:
        rows = self._rows(trials)
        changed = self._changed[condition]
        matrices = {name: (self._clean[name][rows], changed[name][rows]) for name in changed}
        note = self._note(trials, condition)
        return figures_of_condition(result, trials, condition.group, condition.name, matrices, speakers=speakers, note=note)

    def _rows(self, trials: TrialList) -> list[int]:
        return [self._row[name] for name in trials.utterances]

    def _embed(self, system: NetworkSystem, rows: list[int], condition: Condition | None) -> _Matrices:
        assert self._root is not None  # _check_root
        names = [self._names[row] for row in rows]
        matrices = embed_recordings(
            system.model,
            names,
            [self._root / name for name in names],
            own_backbone=system.own_name is not None,
            batch_seconds=self._how.batch_seconds,
            num_workers=self._how.num_workers,
            max_seconds=self._how.max_seconds,
            show_progress=self._how.show_progress,
            condition=condition,
            cache=self._cache,
            description=system.name if condition is None else f"{system.name}, {condition.name}",
        )
        return dict(zip(system.names, matrices, strict=True))

    def _note(self, trials: TrialList, condition: Condition) -> str:
        if not isinstance(condition, Cut) or self._root is None:
            return ""
        tests = [trials.utterances[index] for index in np.unique(trials.test)]
        short = sum(audio_info(self._root / name).seconds < condition.seconds for name in tests)
        return f"{short:,} of {len(tests):,} test recordings are shorter and whole" if short else ""


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
    files = [spec for spec in specs if Path(spec).suffix.lower() in READABLE_SUFFIXES]
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
    if baseline is not None:
        facts |= {"baseline": baseline, "baseline_sha256": lineup.systems[-1].sha256}
    facts["systems"] = [{"name": system.name, "given_as": system.spec, "sha256": system.sha256} for system in lineup.systems]
    if lineup.networks:
        facts |= {"data_root": str(root), "max_seconds": how.max_seconds}
    return facts


def _require_files(trials: TrialList, root: str | os.PathLike[str]) -> None:
    missing = trials.missing_files(root)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(trials.utterances)} utterances of {trials.source} are not below {root}, "
            f"the first is {missing[0]!r}"
        )
