"""Parameter groups and the learning rate."""

from __future__ import annotations

import pytest
import torch

from mrl.matryoshka import MatryoshkaLoss, ReDimNetMRL
from mrl.training.system import TrainingSystem
from mrl.training.updates import (
    MarginSchedule,
    build_optimizer,
    learning_rate_factor,
    margin_factor,
    parameter_groups,
    set_learning_rate,
    warmup_steps,
)


def _factors(schedule: str, total: int = 10, warmup: int = 4) -> list[float]:
    return [
        learning_rate_factor(step, total_steps=total, warmup_steps=warmup, schedule=schedule, final_ratio=0.1)  # type: ignore[arg-type]
        for step in range(total)
    ]


def test_schedules() -> None:
    assert _factors("constant") == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1])
    assert _factors("exponential")[4:] == pytest.approx([0.1 ** (i / 5) for i in range(6)])
    cosine = _factors("cosine")
    assert cosine[4] == 1.0 and cosine[-1] == pytest.approx(0.1)
    assert cosine[6] + cosine[7] == pytest.approx(1.1)  # symmetric about the middle
    assert learning_rate_factor(50, total_steps=10, warmup_steps=0, schedule="cosine", final_ratio=0.1) == pytest.approx(0.1)
    assert learning_rate_factor(0, total_steps=1, warmup_steps=0, schedule="cosine", final_ratio=0.1) == 1.0


def test_a_warm_up_has_at_least_one_step_or_none() -> None:
    assert [warmup_steps(0.5, per_epoch) for per_epoch in (1, 2, 7, 100)] == [1, 1, 4, 50]
    assert warmup_steps(0.001, 10) == 1 and warmup_steps(0.0, 10) == 0


def test_margins() -> None:
    """The authors' recipe of the second generation: 0 for 19 epochs, full after 39."""

    def factors(schedule: MarginSchedule, rise: float = 20) -> list[float]:
        return [margin_factor(epochs, delay=19, rise=rise, schedule=schedule) for epochs in (0, 18.99, 19, 24, 29, 39, 90)]

    assert factors("linear") == pytest.approx([0, 0, 0, 0.25, 0.5, 1, 1])
    assert factors("exponential") == pytest.approx([0, 0, 0, 1 - 0.001**0.25, 1 - 0.001**0.5, 1, 1])
    assert factors("linear", rise=0) == [0, 0, 1, 1, 1, 1, 1]
    assert margin_factor(0, delay=0, rise=0, schedule="linear") == 1.0


def test_groups(tiny_model: ReDimNetMRL) -> None:
    tiny_model.unfreeze_backbone()
    system = TrainingSystem(tiny_model, MatryoshkaLoss(tiny_model.mrl_dims, 5))
    groups = parameter_groups(system, learning_rate=1.0, backbone_ratio=0.1, weight_decay=0.5)
    head = {id(parameter) for parameter in (*tiny_model.projection.parameters(), *system.loss.parameters())}
    seen = 0
    for group in groups:
        for parameter in group["params"]:
            seen += 1
            assert group["peak"] == (1.0 if id(parameter) in head else 0.1)
            assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0.0)
    assert seen == sum(parameter.requires_grad for parameter in system.parameters())
    apart = parameter_groups(system, learning_rate=1.0, backbone_ratio=0.1, weight_decay=0.5, class_decay_ratio=4.0)
    vectors = {id(parameter) for parameter in system.loss.parameters() if parameter.ndim > 1}
    assert {id(parameter) for group in apart if group["weight_decay"] == 2.0 for parameter in group["params"]} == vectors
    assert len(apart) == len(groups) + 1 and sum(len(group["params"]) for group in apart) == seen
    optimizer = build_optimizer(groups, "sgd")
    set_learning_rate(optimizer, 0.5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.05, 0.5]
    assert isinstance(
        build_optimizer(parameter_groups(system, learning_rate=1, backbone_ratio=1, weight_decay=0), "adamw"), torch.optim.AdamW
    )
