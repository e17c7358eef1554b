"""Parameter groups, optimizer, and the learning rate as a plain function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from mrl.training.system import TrainingSystem

Schedule = Literal["cosine", "exponential", "constant"]


def parameter_groups(
    system: TrainingSystem, *, learning_rate: float, backbone_ratio: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the trainable parameters of the system in groups: backbone and the rest, each with and without weight decay.

    Every group carries its own peak rate as ``peak``; weight decay is for matrices and kernels, not for biases and norms.
    """
    backbone = {id(parameter) for parameter in system.encoder.backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in system.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in backbone, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": learning_rate * (backbone_ratio if of_backbone else 1.0),
            "lr": 0.0,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (of_backbone, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_optimizer(groups: Sequence[dict[str, Any]], kind: Literal["adamw", "sgd"]) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum 0.9; ``lr`` is set before each step by :func:`set_learning_rate`."""
    if kind == "adamw":
        return torch.optim.AdamW(list(groups), betas=(0.9, 0.98), eps=1e-8)
    return torch.optim.SGD(list(groups), momentum=0.9, nesterov=True)


def warmup_steps(epochs: float, steps_per_epoch: int) -> int:
    """Return how many steps a warm-up of so many epochs takes: at least one, unless it is switched off by 0."""
    return max(1, round(epochs * steps_per_epoch)) if epochs else 0


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule, final_ratio: float) -> float:
    """Return the share of the peak rate at ``step`` (from 0): linear warm-up, then the schedule down to ``final_ratio``."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps))
    if schedule == "exponential":
        return float(final_ratio**done)
    return final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to ``factor`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
