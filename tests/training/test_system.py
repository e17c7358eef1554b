"""The system owns everything that is trained, and the optimizer has all of it."""

from __future__ import annotations

import logging

import pytest
import torch

from mrl.errors import TrainingError
from mrl.matryoshka import MatryoshkaLoss, ReDimNetMRL, SimilarityPreservationLoss
from mrl.training.system import TrainingSystem, check_optimised


def _system(model: ReDimNetMRL, **more: object) -> TrainingSystem:
    return TrainingSystem(model, MatryoshkaLoss(model.mrl_dims, 5), **more)  # type: ignore[arg-type]


def test_an_optimizer_without_the_class_matrices_is_refused(tiny_model: ReDimNetMRL, caplog: pytest.LogCaptureFixture) -> None:
    tiny_model.freeze_backbone()
    system = _system(tiny_model)
    with pytest.raises(TrainingError, match=r"trainable but not in the optimizer: loss\.class_matrices\.0"):
        check_optimised(system, torch.optim.SGD(system.encoder.projection.parameters(), lr=0.1))
    everything = [parameter for parameter in system.parameters() if parameter.requires_grad]
    with caplog.at_level(logging.INFO, logger="mrl"):
        count = check_optimised(system, torch.optim.SGD(everything, lr=0.1))
    assert count == 32 * 96 + 32 + 5 * (4 + 16 + 32)
    assert f"Trainable parameters: {count} in 5 tensors; in the optimizer: {count} in 5 tensors" in caplog.text


def test_frozen_or_foreign_parameters_in_the_optimizer_are_refused(tiny_model: ReDimNetMRL) -> None:
    tiny_model.freeze_backbone()
    system = _system(tiny_model)
    with pytest.raises(TrainingError, match=r"in the optimizer but frozen or foreign: encoder\.backbone"):
        check_optimised(system, torch.optim.SGD(system.parameters(), lr=0.1))
    foreign = [parameter for parameter in system.parameters() if parameter.requires_grad]
    foreign.append(torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(TrainingError, match="a parameter of another module"):
        check_optimised(system, torch.optim.SGD(foreign, lr=0.1))
    system.requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing to train"):
        check_optimised(system, torch.optim.SGD(foreign, lr=0.1))


def test_parts_of_the_loss(tiny_model: ReDimNetMRL) -> None:
    system = _system(tiny_model, similarity=SimilarityPreservationLoss((4, 32)), similarity_weight=2.0, teacher_pull=3.0)
    raw, labels = torch.randn(6, 32), torch.tensor([0, 1, 2, 3, 4, 0])
    with pytest.raises(TrainingError, match="follow a teacher need its embeddings"):
        system(raw, labels)
    teacher = torch.randn(6, 32)
    loss = system(raw, labels, teacher)
    assert list(loss.parts) and set(loss.parts) == set(system.part_names)
    plain = _system(tiny_model)
    plain.loss.load_state_dict(system.loss.state_dict())
    assert not plain.needs_teacher
    pull = 1 - torch.nn.functional.cosine_similarity(raw, teacher).mean()
    expected = plain(raw, labels).total + 2.0 * system.similarity(raw, teacher) + 3.0 * pull  # type: ignore[misc]
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.parts["teacher_pull"].item() == pytest.approx(pull.item(), rel=1e-5)
    # at the start model itself nothing pulls
    assert system(raw, labels, raw).parts["teacher_pull"].item() == pytest.approx(0.0, abs=1e-6)
    one = system(raw[:1], labels[:1], teacher[:1])
    assert one.parts["similarity"].item() == 0.0 and set(one.parts) == set(system.part_names)
