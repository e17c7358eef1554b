"""What an evaluation found, and everything that is needed to repeat it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.bounded import read_json_object, said
from mrl.errors import DataError, InputError
from mrl.evaluation.figures import DimFigures, bounds
from mrl.pretrained import ReleaseRate, ReleaseResult
from mrl.scoring.bootstrap import Interval


@dataclass(frozen=True)
class ProtocolFacts:
    """How the trials were scored.

    Attributes:
        name: in words, for tables.
        score: what one score is: "cosine", "mean cosine", "centred cosine" or "AS-Norm score".
        settings: values and files, as JSON values.
        notes: what a reader should know besides.
    """

    name: str = "whole recordings, raw cosine"
    score: str = "cosine"
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SystemResult:
    """One system: its name and its figures in ascending order of dim."""

    name: str
    figures: tuple[DimFigures, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """The prefix lengths measured."""
        return tuple(figures.dim for figures in self.figures)

    def at(self, dim: int) -> DimFigures:
        """Return the figures at one prefix length.

        Raises:
            InputError: this length was not measured.
        """
        for figures in self.figures:
            if figures.dim == dim:
                return figures
        raise InputError(f"{self.name} was not measured at dim {dim}, only at {list(self.dims)}")


@dataclass(frozen=True)
class StratumFigures:
    """One system's figures at one prefix length on a part of the list, or on the whole of it under another condition.

    Attributes:
        group: what the list was divided by, or what was done to the test side.
        name: the part or condition, such as "f–f" or "SNR 10 dB".
        system, dim: whose figures these are.
        targets, nontargets: trials in it.
        equal_error_rate: None where one kind of trial is absent.
        equal_error_rate_interval: None where not asked for or where too few speakers are in it.
        false_accept_rate: at the threshold of the whole, unchanged list's equal error rate; None without different-speaker
            trials. This is what a single threshold for everything gives.
        false_reject_rate: likewise; None without same-speaker trials.
        note: what a reader should know, such as how many recordings were shorter than a cut.
    """

    group: str
    name: str
    system: str
    dim: int
    targets: int
    nontargets: int
    equal_error_rate: float | None
    equal_error_rate_interval: Interval | None
    false_accept_rate: float | None
    false_reject_rate: float | None
    note: str = ""


@dataclass(frozen=True)
class ListFacts:
    """The trial list that was used.

    Attributes:
        source: its file.
        sha256: of its uncompressed bytes.
        trials, targets, nontargets, utterances: how many.
        speakers: number of speakers, None where they were not needed.
    """

    source: str
    sha256: str
    trials: int
    targets: int
    nontargets: int
    utterances: int
    speakers: int | None


@dataclass(frozen=True)
class EvaluationResult:
    """All figures of one evaluation.

    Attributes:
        systems: the system under test first, then what it is compared with.
        trial_list: the list.
        reference: (system, dim) that ``versus_reference`` compares with; None without one.
        seed: of the resamples.
        resamples: number of resamples of the speakers behind each interval; 0 for none.
        provenance: command, model, model hash, data root, version and the like, for reports.
        scores: (system, dim) -> (trials,) float32 scores, for curves and further comparisons; not part of reports.
        labels: (trials,) bool, true for same-speaker trials, in the order of the scores; not part of reports.
        strata: figures on parts of the list and under other conditions.
        protocol: how the trials were scored.
    """

    systems: tuple[SystemResult, ...]
    trial_list: ListFacts
    reference: tuple[str, int] | None
    seed: int
    resamples: int
    provenance: dict[str, Any]
    scores: Mapping[tuple[str, int], npt.NDArray[np.float32]] = field(repr=False, compare=False)
    labels: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_), repr=False, compare=False)
    strata: tuple[StratumFigures, ...] = ()
    protocol: ProtocolFacts = field(default_factory=ProtocolFacts)

    def system(self, name: str | None = None) -> SystemResult:
        """Return one system by name, the first one by default.

        Raises:
            InputError: there is none of this name.
        """
        for system in self.systems:
            if name is None or system.name == name:
                return system
        raise InputError(f"no system {name!r} in this result, only {[system.name for system in self.systems]}")

    def equal_error_rates(self, name: str | None = None) -> dict[int, float]:
        """Return ``{dim: equal error rate in 0..1}`` of one system, the first one by default."""
        return {figures.dim: figures.equal_error_rate for figures in self.system(name).figures}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the scores as values that JSON can hold; rates in 0..1."""
        facts = self.trial_list
        return {
            "provenance": self.provenance,
            "trial_list": {
                "source": facts.source,
                "sha256": facts.sha256,
                "trials": facts.trials,
                "same_speaker_trials": facts.targets,
                "different_speaker_trials": facts.nontargets,
                "utterances": facts.utterances,
                "speakers": facts.speakers,
            },
            "protocol": {
                "name": self.protocol.name,
                "score": self.protocol.score,
                "settings": dict(self.protocol.settings),
                "notes": list(self.protocol.notes),
            },
            "intervals": {"level": 0.95, "method": "bootstrap over speakers", "resamples": self.resamples, "seed": self.seed},
            "reference": None if self.reference is None else {"system": self.reference[0], "dim": self.reference[1]},
            "systems": [
                {"name": system.name, "dims": [figures.to_dict() for figures in system.figures]} for system in self.systems
            ],
            "strata": [_stratum_dict(stratum) for stratum in self.strata],
        }


def _stratum_dict(stratum: StratumFigures) -> dict[str, Any]:
    return {
        "group": stratum.group,
        "name": stratum.name,
        "system": stratum.system,
        "dim": stratum.dim,
        "same_speaker_trials": stratum.targets,
        "different_speaker_trials": stratum.nontargets,
        "eer": stratum.equal_error_rate,
        "eer_interval": bounds(stratum.equal_error_rate_interval),
        "false_accept_rate_at_overall_threshold": stratum.false_accept_rate,
        "false_reject_rate_at_overall_threshold": stratum.false_reject_rate,
        "note": stratum.note,
    }


def reported_rates(path: str | os.PathLike[str]) -> ReleaseResult:
    """Return the error rates of the first system in a ``report.json``, for a model card.

    Raises:
        DataError: the file is no such report, or was measured without intervals.
    """
    report = read_json_object(path, error=DataError, advice="give a report.json of mrl evaluate")
    try:
        facts, (system, *_) = report["trial_list"], report["systems"]
        rates = tuple(
            ReleaseRate(str(system["name"]), int(row["dim"]), float(row["eer"]), *map(float, row["eer_interval"]))
            for row in system["dims"]
        )
        name = Path(str(facts["source"])).name or "trials"
        return ReleaseResult(name, "", int(facts["speakers"]), int(facts["trials"]), rates, ())
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{os.fspath(path)} is no report of mrl evaluate with intervals ({said(error)}); give --output and --bootstrap to it"
        ) from error
