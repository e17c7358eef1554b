"""Evaluation of whatever a user names (models, files of embeddings, several of them) on one or several trial lists."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mrl.embeddings import Encoder, Extraction, as_embedder
from mrl.embeddings.formats import holds_embeddings
from mrl.errors import DataError, InputError
from mrl.evaluation.calibrating import calibration_of, require_held_out, with_calibration, with_held_out_calibration
from mrl.evaluation.embedding import EmbeddedLineup
from mrl.evaluation.measure import SystemEmbeddings, SystemScores, evaluate_systems
from mrl.evaluation.protocol import Cohort, Protocol, open_cohort
from mrl.evaluation.result import EvaluationResult, ProtocolFacts
from mrl.evaluation.settings import EmbeddingSettings, EvaluationSettings
from mrl.evaluation.strata import Stratum, figures_of_strata, read_column, strata_of_column
from mrl.evaluation.systems import (
    BASELINE,
    TRAINED_BACKBONE,
    UNMODIFIED_BACKBONE,
    Lineup,
    NetworkSystem,
    System,
    TableSystem,
    open_lineup,
)
from mrl.hardware import hardware_line
from mrl.scoring.bootstrap import Resampling
from mrl.scoring.calibration import Calibration
from mrl.scoring.cosine import check_dims
from mrl.settings import changed
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials


def evaluate_specs(
    specs: Sequence[str],
    lists: Sequence[TrialList],
    root: str | os.PathLike[str] | None,
    settings: EvaluationSettings | None = None,
    **changes: Any,
) -> list[EvaluationResult]:
    """Evaluate systems side by side on one or several trial lists.

    Every recording is embedded once by each network, whatever the number of lists, and once more under each condition where it
    is on the test side of a trial.

    Args:
        specs: model folders, official checkpoints, exported files, released names, or embedding files.
        lists: the trial lists.
        root: the data root; needed for models, refused where there are only embedding files and no strata.
        settings: everything else.
        changes: settings of :class:`EvaluationSettings` by keyword, such as ``dims=(16, 64)``.

    Returns:
        One result for each list; none in a process that only helps to embed (see :class:`EmbeddingSettings`).

    Raises:
        InputError: arguments that do not go together, otherwise as :func:`mrl.evaluation.systems.open_lineup`.
        DataError: missing or unreadable recordings (all counted), unusable lists, or as :func:`evaluate_systems`.
    """
    how = changed(settings or EvaluationSettings(), changes)
    protocol = how.protocol
    if not lists:
        raise InputError("there is no trial list")
    _check_inputs(specs, root, how)
    cohort = None if protocol.cohort is None else open_cohort(protocol.cohort, speakers=how.speakers)
    if cohort is not None:
        cohort.require_speakers(protocol.as_norm_top)
    lineup = open_lineup(specs, how)
    _check_cohort(cohort, lineup)
    calibrations, warnings = _calibrations(lineup, how)
    for trials in lists:  # what is wrong with a list should show before hours of work
        trials.require_both_classes()
        if how.calibrate_on == "held-out":
            require_held_out(trials, how.speakers)
        how.draw(trials)
        if lineup.networks and root is not None:
            recordings = protocol.recordings(trials)
            trials.require_files(root, recordings)
            if cohort is not None:
                cohort.require_others([Path(root) / name for name in recordings])
    strata = _strata(lists, root, how)
    with how.processes.together():
        embedded = EmbeddedLineup(lineup, lists, root, how, cohort)
    if not how.processes.is_first:
        return []  # the first process alone scores
    provenance = _provenance(specs, lineup, root, how)
    results = []
    for trials, parts in zip(lists, strata, strict=True):
        result = evaluate_systems(
            [_calibrated(scores, calibrations.get(scores.name), trials, embedded, how) for scores in embedded.scores(trials)],
            trials,
            how,
            reference=lineup.reference,
            provenance=provenance,
            protocol=_protocol_facts(protocol, cohort, trials, how.speakers, warnings),
        )
        figures = [figure for condition in how.conditions for figure in embedded.figures(result, trials, condition)]
        figures += figures_of_strata(result, trials, parts, speakers=how.speakers)
        results.append(replace(result, strata=tuple(figures)))
    return results


def evaluate_model(
    model: Encoder,
    trials: TrialList,
    root: str | os.PathLike[str],
    extraction: Extraction | None = None,
    resampling: Resampling | None = None,
    *,
    dims: Iterable[int] | None = None,
    baseline: Encoder | Literal["own"] | None = "own",
    name: str | None = None,
    baseline_name: str = BASELINE,
    provenance: Mapping[str, Any] | None = None,
    **changes: Any,
) -> EvaluationResult:
    """Embed every utterance of a list once and measure a network at every prefix length, beside a backbone.

    A Matryoshka model is measured at its ``mrl_dims``, a plain backbone at prefixes of its raw embedding, both by default.

    Args:
        model: a ``ReDimNetMRL``, a ``ReDimNet`` or an :class:`mrl.embeddings.Embedder`.
        trials: the list; its utterances are paths below ``root``.
        root: the data root.
        extraction: how recordings become embeddings.
        resampling: how intervals are made.
        dims: prefix lengths.
        baseline: "own" measures the backbone inside a Matryoshka model beside it, from the same forward pass (its name says
            whether it was trained further); a network measures that one in a pass of its own; None measures the model alone.
            The baseline's whole embedding is what differences refer to.
        name: of the model in tables and plots.
        baseline_name: of a network given as ``baseline``, likewise.
        provenance: what reports should say about where this came from.
        changes: settings of :class:`mrl.embeddings.Extraction` and :class:`mrl.scoring.Resampling` by keyword, such as
            ``max_seconds=20.0`` or ``bootstrap=0``.

    Raises:
        DataError: missing or unreadable files (all of them counted), or as :func:`evaluate_systems`.
        InputError: unusable arguments.
    """
    of_extraction = {field.name for field in dataclasses.fields(Extraction)}
    how = changed(extraction or Extraction(), {key: value for key, value in changes.items() if key in of_extraction})
    intervals = changed(resampling or Resampling(), {key: value for key, value in changes.items() if key not in of_extraction})
    embedder = as_embedder(model)
    chosen = check_dims(embedder.default_dims if dims is None else dims, embedder.embed_dim)
    trials.require_both_classes()
    intervals.draw(trials)  # unknown speakers should show before hours of work
    trials.require_files(root)
    embed, names, paths = EmbeddingSettings(how).embed, trials.utterances, trials.paths(root)
    own = baseline == "own" and embedder.backbone is not None
    matrices = embed(embedder, names, paths, outputs=("raw", "backbone") if own else ("embedding",))
    systems = [SystemEmbeddings(name or ("matryoshka" if embedder.mrl_dims else "backbone"), matrices[0], chosen)]
    if own:
        own_name = UNMODIFIED_BACKBONE if embedder.backbone_is_unmodified else TRAINED_BACKBONE
        systems.append(SystemEmbeddings(own_name, matrices[1], _with_whole(chosen, matrices[1].shape[1])))
    elif baseline is not None and not isinstance(baseline, str):
        matrix = embed(as_embedder(baseline), names, paths)[0]
        systems.append(SystemEmbeddings(baseline_name, matrix, _with_whole(chosen, matrix.shape[1])))
    return evaluate_systems(
        systems,
        trials,
        intervals,
        reference=(systems[1].name, systems[1].dims[-1]) if len(systems) > 1 else None,
        provenance={"data_root": str(root), "max_seconds": how.max_seconds, **(provenance or {})},
    )


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


def _check_inputs(specs: Sequence[str], root: str | os.PathLike[str] | None, how: EvaluationSettings) -> None:
    files = [spec for spec in specs if holds_embeddings(spec)]
    if files and how.conditions:
        raise InputError(f"{files[0]} holds embeddings; conditions on the test side need recordings and models")
    if files and how.protocol.num_crops is not None:
        raise InputError(f"{files[0]} holds embeddings of whole recordings; crops (--crops) need recordings and models")
    if len(files) == len(specs):
        how.refuse_for_table(files[0], root=None if how.strata else root)
    elif root is None:
        raise InputError("a data root is needed: the folder below which the paths of the trial list lie (--root)")


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
                f"the cohort {cohort.source} has {cohort.matrix.shape[1]} dimensions per embedding and {first.name} has {width}; "
                "they must be of one network"
            )
    elif len(lineup.networks) < len(lineup.systems):
        file = next(system.spec for system in lineup.systems if isinstance(system, TableSystem))
        raise InputError(f"{file} holds embeddings, so its cohort must be a file of embeddings of the same network, too")


def _calibrations(lineup: Lineup, how: EvaluationSettings) -> tuple[dict[str, Calibration], tuple[str, ...]]:
    """The calibrations of models by system, and what a reader should know about those left out."""
    calibrations: dict[str, Calibration] = {}
    warnings = []
    for system in lineup.networks if how.calibrate_on == "model" else ():
        calibration, warning = calibration_of(system, plain=how.protocol.is_plain)
        if calibration is not None:
            calibrations[system.name] = calibration
        if warning:
            warnings.append(warning)
    return calibrations, tuple(warnings)


def _calibrated(
    scores: SystemScores,
    calibration: Calibration | None,
    trials: TrialList,
    embedded: EmbeddedLineup,
    how: EvaluationSettings,
) -> SystemScores:
    if how.calibrate_on == "held-out":
        return with_held_out_calibration(scores, trials, how.speakers)
    if calibration is None:
        return scores
    return with_calibration(scores, calibration, trials, lambda: embedded.seconds(trials))


def _strata(lists: Sequence[TrialList], root: str | os.PathLike[str] | None, how: EvaluationSettings) -> list[list[Stratum]]:
    """The parts of each list, by the columns of the manifest."""
    if how.manifest is None:
        return [[] for _ in lists]
    names = list(dict.fromkeys(name for trials in lists for name in trials.utterances))
    base = root if root is not None else Path(how.manifest).parent
    columns = {column: read_column(how.manifest, column, names, base) for column in how.strata}
    return [[part for column, values in columns.items() for part in strata_of_column(trials, column, values)] for trials in lists]


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


def _provenance(
    specs: Sequence[str], lineup: Lineup, root: str | os.PathLike[str] | None, how: EvaluationSettings
) -> dict[str, Any]:
    first = lineup.systems[0]
    facts: dict[str, Any] = {"command": list(how.command), "model": specs[0], "hardware": hardware_line(how.device)}
    if isinstance(first, TableSystem):
        facts |= {"embeddings_sha256": first.sha256, "embeddings_metadata": first.table.metadata}
    else:
        facts["model_sha256"] = first.sha256
        cut = first.model.cut
        if cut is not None:
            facts |= {"depth": f"{cut['depth']} of {cut['stages']} stages", "whole_model_sha256": cut["whole_sha256"]}
    if how.baseline is not None:
        facts |= {"baseline": how.baseline, "baseline_sha256": lineup.systems[-1].sha256}
    facts["systems"] = [_system_facts(system) for system in lineup.systems]
    if lineup.networks:
        facts |= {"data_root": str(root), "max_seconds": how.extraction.max_seconds}
    return facts


def _system_facts(system: System) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": system.name, "given_as": system.spec, "sha256": system.sha256}
    if isinstance(system, NetworkSystem) and system.depth is not None:
        facts["depth"] = system.depth
    return facts


def _with_whole(dims: Sequence[int], width: int) -> tuple[int, ...]:
    """The whole embedding, and its prefixes at these dims: what cutting without a Matryoshka head gives."""
    return (*(dim for dim in dims if dim < width), width)
