"""How models are trained: configuration, stages, checkpoints, and two functions for those who bring their own loader.

Names are imported when first used, so that reading a configuration does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrl.lazy import lazy_attributes

if TYPE_CHECKING:
    from mrl.training.config import TrainConfig
    from mrl.training.config_loading import load_config, save_config
    from mrl.training.exits import fit_exits
    from mrl.training.interruption import EXIT_INTERRUPTED
    from mrl.training.plan import RunPlan, plan_run
    from mrl.training.simple import History, train_full_model, train_projection_head
    from mrl.training.trainer import TrainingResult, run_training

_LATER = {
    "TrainConfig": "config",
    "load_config": "config_loading",
    "save_config": "config_loading",
    "fit_exits": "exits",
    "EXIT_INTERRUPTED": "interruption",
    "RunPlan": "plan",
    "plan_run": "plan",
    "TrainingResult": "trainer",
    "run_training": "trainer",
    "History": "simple",
    "train_projection_head": "simple",
    "train_full_model": "simple",
}

__all__ = [
    "TrainConfig",
    "load_config",
    "save_config",
    "run_training",
    "TrainingResult",
    "plan_run",
    "RunPlan",
    "EXIT_INTERRUPTED",
    "train_projection_head",
    "train_full_model",
    "fit_exits",
    "History",
]

__getattr__ = lazy_attributes(__name__, _LATER)
