"""Released ReDimNet checkpoints and the models of the package: what there is, fetching and verifying a file, loading it exactly.

The registry needs no torch; the other names are imported when first used, so that listing checkpoints stays instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrl.lazy import lazy_attributes
from mrl.pretrained.bundled import BundledModel, bundled_models, bundled_names, copy_bundled, find_bundled, model_folder
from mrl.pretrained.registry import PretrainedCheckpoint, VoxCeleb1EER, find_by_name, find_checkpoint, list_pretrained
from mrl.pretrained.release import Release, ReleaseCorpus, ReleaseRate, ReleaseResult

if TYPE_CHECKING:
    from mrl.pretrained.checkpoint import OfficialCheckpoint, read_official_checkpoint, write_official_checkpoint
    from mrl.pretrained.download import LocalCheckpoint, fetch_checkpoint, resolve_weights
    from mrl.pretrained.loading import CheckpointReport, load_pretrained_redimnet, verify_checkpoint
    from mrl.pretrained.transfer import TransferSettings

_LATER = {
    "OfficialCheckpoint": "checkpoint",
    "read_official_checkpoint": "checkpoint",
    "write_official_checkpoint": "checkpoint",
    "LocalCheckpoint": "download",
    "fetch_checkpoint": "download",
    "resolve_weights": "download",
    "TransferSettings": "transfer",
    "CheckpointReport": "loading",
    "load_pretrained_redimnet": "loading",
    "verify_checkpoint": "loading",
}

__all__ = [
    "PretrainedCheckpoint",
    "VoxCeleb1EER",
    "list_pretrained",
    "find_checkpoint",
    "find_by_name",
    "BundledModel",
    "bundled_models",
    "bundled_names",
    "copy_bundled",
    "find_bundled",
    "model_folder",
    "Release",
    "ReleaseCorpus",
    "ReleaseRate",
    "ReleaseResult",
    "load_pretrained_redimnet",
    "verify_checkpoint",
    "CheckpointReport",
    "fetch_checkpoint",
    "resolve_weights",
    "LocalCheckpoint",
    "TransferSettings",
    "OfficialCheckpoint",
    "read_official_checkpoint",
    "write_official_checkpoint",
]

__getattr__ = lazy_attributes(__name__, _LATER)
