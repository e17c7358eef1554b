"""How good embeddings are at every prefix length: trial lists, scores, error rates with intervals, tables and plots."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl.evaluation.bootstrap import (
        Interval,
        PairedDifference,
        Replicates,
        SpeakerResamples,
        bootstrap_metrics,
        interval_of,
        paired_difference,
    )
    from mrl.evaluation.evaluate import (
        UNMODIFIED_BACKBONE,
        SystemEmbeddings,
        evaluate_embeddings,
        evaluate_model,
        evaluate_systems,
    )
    from mrl.evaluation.metrics import (
        ErrorCurve,
        actual_dcf,
        cllr,
        convex_hull_equal_error_rate,
        equal_error_rate,
        error_curve,
        minimum_cllr,
        minimum_dcf,
        true_accept_rate,
    )
    from mrl.evaluation.plots import plot_eer_by_dim
    from mrl.evaluation.report import csv_table, markdown_table, rich_table, summary_table, write_report
    from mrl.evaluation.result import DimFigures, EvaluationResult, ListFacts, SystemResult
    from mrl.evaluation.scoring import score_prefixes
    from mrl.evaluation.speakers import read_speakers, speaker_of
    from mrl.evaluation.tasks import evaluate_spec
    from mrl.evaluation.trial_making import make_trials, write_trials
    from mrl.evaluation.trials import TrialList, read_trials

_LATER = {
    "TrialList": "trials",
    "read_trials": "trials",
    "make_trials": "trial_making",
    "write_trials": "trial_making",
    "speaker_of": "speakers",
    "read_speakers": "speakers",
    "score_prefixes": "scoring",
    "ErrorCurve": "metrics",
    "error_curve": "metrics",
    "equal_error_rate": "metrics",
    "convex_hull_equal_error_rate": "metrics",
    "minimum_dcf": "metrics",
    "actual_dcf": "metrics",
    "true_accept_rate": "metrics",
    "cllr": "metrics",
    "minimum_cllr": "metrics",
    "SpeakerResamples": "bootstrap",
    "Replicates": "bootstrap",
    "Interval": "bootstrap",
    "PairedDifference": "bootstrap",
    "bootstrap_metrics": "bootstrap",
    "interval_of": "bootstrap",
    "paired_difference": "bootstrap",
    "SystemEmbeddings": "evaluate",
    "UNMODIFIED_BACKBONE": "evaluate",
    "evaluate_model": "evaluate",
    "evaluate_embeddings": "evaluate",
    "evaluate_systems": "evaluate",
    "evaluate_spec": "tasks",
    "EvaluationResult": "result",
    "SystemResult": "result",
    "DimFigures": "result",
    "ListFacts": "result",
    "rich_table": "report",
    "summary_table": "report",
    "markdown_table": "report",
    "csv_table": "report",
    "write_report": "report",
    "plot_eer_by_dim": "plots",
}

__all__ = [
    "TrialList",
    "read_trials",
    "make_trials",
    "write_trials",
    "speaker_of",
    "read_speakers",
    "score_prefixes",
    "ErrorCurve",
    "error_curve",
    "equal_error_rate",
    "convex_hull_equal_error_rate",
    "minimum_dcf",
    "actual_dcf",
    "true_accept_rate",
    "cllr",
    "minimum_cllr",
    "SpeakerResamples",
    "Replicates",
    "Interval",
    "PairedDifference",
    "bootstrap_metrics",
    "interval_of",
    "paired_difference",
    "SystemEmbeddings",
    "UNMODIFIED_BACKBONE",
    "evaluate_model",
    "evaluate_embeddings",
    "evaluate_systems",
    "evaluate_spec",
    "EvaluationResult",
    "SystemResult",
    "DimFigures",
    "ListFacts",
    "rich_table",
    "summary_table",
    "markdown_table",
    "csv_table",
    "write_report",
    "plot_eer_by_dim",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
