"""What this project adds to ReDimNet: a head whose every prefix is an embedding, its closed-form start, and its losses."""

from mrl.matryoshka.affine import AffineMap, pretrained_map
from mrl.matryoshka.closed_form import data_free_rotation, fit_projection
from mrl.matryoshka.creation import (
    create_mrl,
    create_mrl_from_pretrained,
    freeze_backbone,
    get_model_info,
    unfreeze_backbone,
)
from mrl.matryoshka.losses import MatryoshkaLoss, MatryoshkaLossOutput
from mrl.matryoshka.model import ReDimNetMRL
from mrl.matryoshka.no_class_loss import NoClassLoss
from mrl.matryoshka.projection import MatryoshkaProjection
from mrl.matryoshka.similarity_preservation import SimilarityPreservationLoss

__all__ = [
    "AffineMap",
    "MatryoshkaLoss",
    "MatryoshkaLossOutput",
    "MatryoshkaProjection",
    "NoClassLoss",
    "ReDimNetMRL",
    "SimilarityPreservationLoss",
    "create_mrl",
    "create_mrl_from_pretrained",
    "data_free_rotation",
    "fit_projection",
    "freeze_backbone",
    "get_model_info",
    "pretrained_map",
    "unfreeze_backbone",
]
