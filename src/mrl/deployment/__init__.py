"""Models leave the house: ONNX, OpenVINO and torch.export files that are held against the network before they count as done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrl.lazy import lazy_attributes

if TYPE_CHECKING:
    from mrl.deployment.comparison import Variant
    from mrl.deployment.exporting import ExportReport, export_model
    from mrl.deployment.formats import FORMATS
    from mrl.deployment.precision import MINIMUM_COSINE, PRECISIONS
    from mrl.deployment.runners import open_runner
    from mrl.deployment.self_test import CheckedFile, check_export

_LATER = {
    "export_model": "exporting",
    "ExportReport": "exporting",
    "check_export": "self_test",
    "CheckedFile": "self_test",
    "open_runner": "runners",
    "Variant": "comparison",
    "FORMATS": "formats",
    "PRECISIONS": "precision",
    "MINIMUM_COSINE": "precision",
}

__all__ = [
    "export_model",
    "ExportReport",
    "check_export",
    "CheckedFile",
    "open_runner",
    "Variant",
    "FORMATS",
    "PRECISIONS",
    "MINIMUM_COSINE",
]

__getattr__ = lazy_attributes(__name__, _LATER)
