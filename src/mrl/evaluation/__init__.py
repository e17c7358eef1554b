"""How good embeddings are at every prefix length: trial lists, scores, error rates with intervals, tables and plots."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl.evaluation.balanced_trials import make_balanced_trials
    from mrl.evaluation.bootstrap import (
        Interval,
        PairedDifference,
        Replicates,
        SpeakerResamples,
        bootstrap_metrics,
        interval_of,
        paired_difference,
    )
    from mrl.evaluation.calibration import Calibration, DimCalibration, FalseAcceptThreshold, bayes_threshold, fit_calibration
    from mrl.evaluation.calibration_files import calibrate_model, load_calibration
    from mrl.evaluation.calibration_report import calibration_table, threshold_table
    from mrl.evaluation.conditions import CHANNELS, Condition, make_conditions
    from mrl.evaluation.crop_protocol import EmbeddedCrops, embed_crops, score_crops
    from mrl.evaluation.embedding_cache import EmbeddingCache
    from mrl.evaluation.enrolment import EnrolledTrials, EnrolmentMap, read_enrolment_map, score_enrolled
    from mrl.evaluation.evaluate import (
        UNMODIFIED_BACKBONE,
        SystemEmbeddings,
        evaluate_embeddings,
        evaluate_model,
        evaluate_systems,
    )
    from mrl.evaluation.head_fitting import fit_head_file
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
    from mrl.evaluation.normalisation import (
        CohortStatistics,
        adaptive_symmetric_norm,
        centre,
        cohort_statistics,
        speaker_means,
        symmetric_norm,
    )
    from mrl.evaluation.page import html_report
    from mrl.evaluation.plots import plot_eer_by_dim
    from mrl.evaluation.report import (
        comparison_table,
        csv_table,
        markdown_report,
        markdown_table,
        rich_table,
        strata_tables,
        summary_table,
        write_report,
    )
    from mrl.evaluation.reproduction import ReproducedRow, reproduce_voxceleb, reproduction_table
    from mrl.evaluation.result import DimFigures, EvaluationResult, ListFacts, StratumFigures, SystemResult
    from mrl.evaluation.scoring import score_prefixes
    from mrl.evaluation.speakers import read_speakers, speaker_of
    from mrl.evaluation.strata import figures_of_strata, strata_of_column
    from mrl.evaluation.tasks import Extraction, evaluate_spec, evaluate_specs, report_folders
    from mrl.evaluation.trial_checking import Finding, TrialListCheck, check_trials
    from mrl.evaluation.trial_making import make_trials, write_trials
    from mrl.evaluation.trial_sources import make_trials_from
    from mrl.evaluation.trials import TrialList, read_trials
    from mrl.evaluation.verification import Verification, verify_files
    from mrl.evaluation.voxceleb_lists import OFFICIAL_LISTS, OfficialList, fetch_official_list, find_official_list

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
    "EnrolledTrials": "enrolment",
    "EnrolmentMap": "enrolment",
    "read_enrolment_map": "enrolment",
    "score_enrolled": "enrolment",
    "CohortStatistics": "normalisation",
    "adaptive_symmetric_norm": "normalisation",
    "centre": "normalisation",
    "cohort_statistics": "normalisation",
    "speaker_means": "normalisation",
    "symmetric_norm": "normalisation",
    "EmbeddedCrops": "crop_protocol",
    "embed_crops": "crop_protocol",
    "score_crops": "crop_protocol",
    "Calibration": "calibration",
    "DimCalibration": "calibration",
    "FalseAcceptThreshold": "calibration",
    "bayes_threshold": "calibration",
    "fit_calibration": "calibration",
    "calibrate_model": "calibration_files",
    "load_calibration": "calibration_files",
    "calibration_table": "calibration_report",
    "threshold_table": "calibration_report",
    "Verification": "verification",
    "verify_files": "verification",
    "OFFICIAL_LISTS": "voxceleb_lists",
    "OfficialList": "voxceleb_lists",
    "fetch_official_list": "voxceleb_lists",
    "find_official_list": "voxceleb_lists",
    "make_balanced_trials": "balanced_trials",
    "make_trials_from": "trial_sources",
    "Finding": "trial_checking",
    "TrialListCheck": "trial_checking",
    "check_trials": "trial_checking",
    "make_conditions": "conditions",
    "Condition": "conditions",
    "CHANNELS": "conditions",
    "EmbeddingCache": "embedding_cache",
    "fit_head_file": "head_fitting",
    "html_report": "page",
    "comparison_table": "report",
    "markdown_report": "report",
    "strata_tables": "report",
    "StratumFigures": "result",
    "strata_of_column": "strata",
    "figures_of_strata": "strata",
    "Extraction": "tasks",
    "evaluate_specs": "tasks",
    "report_folders": "tasks",
    "reproduce_voxceleb": "reproduction",
    "ReproducedRow": "reproduction",
    "reproduction_table": "reproduction",
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
    "EnrolledTrials",
    "EnrolmentMap",
    "read_enrolment_map",
    "score_enrolled",
    "CohortStatistics",
    "adaptive_symmetric_norm",
    "centre",
    "cohort_statistics",
    "speaker_means",
    "symmetric_norm",
    "EmbeddedCrops",
    "embed_crops",
    "score_crops",
    "Calibration",
    "DimCalibration",
    "FalseAcceptThreshold",
    "bayes_threshold",
    "fit_calibration",
    "calibrate_model",
    "load_calibration",
    "calibration_table",
    "threshold_table",
    "Verification",
    "verify_files",
    "OFFICIAL_LISTS",
    "OfficialList",
    "fetch_official_list",
    "find_official_list",
    "make_balanced_trials",
    "make_trials_from",
    "Finding",
    "TrialListCheck",
    "check_trials",
    "make_conditions",
    "Condition",
    "CHANNELS",
    "EmbeddingCache",
    "fit_head_file",
    "html_report",
    "comparison_table",
    "markdown_report",
    "strata_tables",
    "StratumFigures",
    "strata_of_column",
    "figures_of_strata",
    "Extraction",
    "evaluate_specs",
    "report_folders",
    "reproduce_voxceleb",
    "ReproducedRow",
    "reproduction_table",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
