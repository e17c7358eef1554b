"""Matryoshka speaker embeddings from pretrained ReDimNet models: one network, every prefix a good speaker embedding.

    from mrl import create_mrl_from_pretrained

    model = create_mrl_from_pretrained("b2", embed_dim=256)
    embedding = model("speaker.wav", target_dim=64)

The public names below are imported when first used: ``import mrl`` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mrl.version import __version__

if TYPE_CHECKING:
    from mrl.audio import load_audio
    from mrl.backbone import ReDimNet, ReDimNetConfig
    from mrl.matryoshka import (
        MatryoshkaLoss,
        MatryoshkaProjection,
        ReDimNetMRL,
        SimilarityPreservationLoss,
        create_mrl,
        create_mrl_from_pretrained,
        fit_projection,
        freeze_backbone,
        get_model_info,
        unfreeze_backbone,
    )
    from mrl.pretrained import bundled_models, list_pretrained, load_pretrained_redimnet
    from mrl.runtime import OnnxEmbedder
    from mrl.training import fit_exits, train_full_model, train_projection_head

_ROOMS = {
    "load_audio": "mrl.audio",
    "OnnxEmbedder": "mrl.runtime",
    "ReDimNet": "mrl.backbone",
    "ReDimNetConfig": "mrl.backbone",
    "bundled_models": "mrl.pretrained",
    "list_pretrained": "mrl.pretrained",
    "load_pretrained_redimnet": "mrl.pretrained",
    "MatryoshkaLoss": "mrl.matryoshka",
    "MatryoshkaProjection": "mrl.matryoshka",
    "ReDimNetMRL": "mrl.matryoshka",
    "SimilarityPreservationLoss": "mrl.matryoshka",
    "create_mrl": "mrl.matryoshka",
    "create_mrl_from_pretrained": "mrl.matryoshka",
    "fit_projection": "mrl.matryoshka",
    "freeze_backbone": "mrl.matryoshka",
    "get_model_info": "mrl.matryoshka",
    "unfreeze_backbone": "mrl.matryoshka",
    "fit_exits": "mrl.training",
    "train_full_model": "mrl.training",
    "train_projection_head": "mrl.training",
}

__all__ = [
    "__version__",
    "load_audio",
    "OnnxEmbedder",
    "ReDimNet",
    "ReDimNetConfig",
    "bundled_models",
    "list_pretrained",
    "load_pretrained_redimnet",
    "MatryoshkaLoss",
    "MatryoshkaProjection",
    "ReDimNetMRL",
    "SimilarityPreservationLoss",
    "create_mrl",
    "create_mrl_from_pretrained",
    "fit_exits",
    "fit_projection",
    "freeze_backbone",
    "get_model_info",
    "unfreeze_backbone",
    "train_full_model",
    "train_projection_head",
]


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module 'mrl' has no attribute {name!r}")
    return getattr(importlib.import_module(room), name)


def __dir__() -> list[str]:
    return sorted(__all__)
