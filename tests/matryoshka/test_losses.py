"""The Matryoshka loss over any objective: the properties that training relies on. The objectives have tests of their own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka import MatryoshkaLoss
from mrl.matryoshka.class_objectives import MarginSoftmax, ObjectiveValue


def test_class_matrices_learn() -> None:
    torch.manual_seed(0)
    centers = torch.randn(8, 16)
    labels = torch.arange(8).repeat(20)
    raw = centers[labels] + 0.3 * torch.randn(160, 16)
    loss = MatryoshkaLoss([4, 16], 8, scale=15.0)
    assert len(list(loss.parameters())) == 2
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    start = loss(raw, labels).total.item()
    for _ in range(100):
        optimizer.zero_grad()
        loss(raw, labels).total.backward()
        optimizer.step()
    output = loss(raw, labels)
    assert output.total.item() < 0.35 * start
    assert output.accuracy[16].item() > 0.95


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("loss_type", ["aam", "subcenter_aam"])
def test_class_means_are_a_good_start(loss_type: str, shared: bool) -> None:
    torch.manual_seed(0)
    labels = torch.arange(6).repeat(10)
    raw = torch.randn(7, 16)[labels] + 0.2 * torch.randn(60, 16)
    loss = MatryoshkaLoss([8, 16], 7, loss_type=loss_type, shared_classes=shared)  # type: ignore[arg-type]
    untouched = loss.class_matrices[-1].detach().clone()
    loss.initialise_from_class_means(raw, labels)
    output = loss(raw, labels)
    assert output.accuracy[16].item() == 1.0
    assert output.total.item() < 0.5 * loss.chance_level()
    per_class = loss.num_subcenters
    assert torch.equal(loss.class_matrices[-1][6 * per_class :], untouched[6 * per_class :])  # class 6 has no utterance
    mean = functional.normalize(functional.normalize(raw[labels == 2], dim=1).mean(dim=0), dim=0)
    torch.testing.assert_close(loss.class_matrices[-1][2 * per_class].detach(), mean)


@pytest.mark.parametrize("shared", [True, False])
def test_zero_rows_of_the_head_can_learn(shared: bool) -> None:
    torch.manual_seed(0)
    labels = torch.arange(6).repeat(10)
    features = torch.randn(6, 12)[labels] + 0.5 * torch.randn(60, 12)
    head = nn.Linear(12, 12, bias=False)
    with torch.no_grad():
        head.weight[8:] = 0.0
    loss = MatryoshkaLoss([8, 12], 6, shared_classes=shared)
    loss.initialise_from_class_means(head(features), labels)
    before = loss(head(features), labels)
    assert before.per_dim[12].item() == pytest.approx(before.per_dim[8].item(), rel=0.05)
    before.total.backward()
    assert head.weight.grad is not None and head.weight.grad[8:].abs().max() > 1e-4


def test_weights_and_margins_per_dim() -> None:
    loss = MatryoshkaLoss([64, 16], 4, dim_weights=[1.0, 3.0], margins={16: 0.1})
    assert loss.dim_weights == {16: 0.75, 64: 0.25}
    assert loss.margins == {64: 0.2, 16: 0.1}
    loss.set_margin(0.4)  # a schedule keeps their ratio
    assert loss.margins == pytest.approx({64: 0.4, 16: 0.2})
    loss.set_margin(0.0)
    assert loss.margins == {64: 0.0, 16: 0.0}
    with pytest.raises(InputError, match="margin=1.6"):
        MatryoshkaLoss([64, 16], 4, margin=0.1, margins={16: 0.8}).set_margin(0.2)
    with pytest.raises(InputError, match="margin above 0"):
        MatryoshkaLoss([64, 16], 4, margin=0.0, margins={16: 0.1})


def test_margins_act_at_their_dim() -> None:
    torch.manual_seed(0)
    plain, wide = MatryoshkaLoss([4, 8], 5), MatryoshkaLoss([4, 8], 5, margins={4: 0.4})
    wide.load_state_dict(plain.state_dict())
    raw, labels = torch.randn(6, 8), torch.arange(6) % 5
    before, after = plain(raw, labels).per_dim, wide(raw, labels).per_dim
    assert after[4] > before[4] and after[8] == before[8]


def test_zero_weight_dims_get_no_gradient() -> None:
    loss = MatryoshkaLoss([2, 4], 3, dim_weights={2: 0.0})
    loss(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).total.backward()
    assert not loss.class_matrices[0].grad.any()
    assert loss.class_matrices[1].grad.any()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dims": []}, "dims="),
        ({"dims": [4, 4]}, "dims="),
        ({"num_classes": 1}, "at least 2"),
        ({"loss_type": "softmax"}, "expected 'aam', 'subcenter_aam'"),
        ({"dim_dropout": 1.0}, "from 0 to below 1"),
        ({"margin": -0.1}, "0 to 1.5"),
        ({"margin": math.nan}, "0 to 1.5"),
        ({"scale": 0.0}, "positive"),
        ({"dim_weights": [1.0]}, "1 values for 2 dims"),
        ({"dim_weights": {8: 1.0}}, "not among"),
        ({"dim_weights": [-1.0, 2.0]}, "none is negative"),
        ({"loss_type": "subcenter_aam", "num_subcenters": 0}, "positive"),
    ],
)
def test_unusable_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    settings_: dict[str, object] = {"dims": [2, 4], "num_classes": 3, **arguments}
    with pytest.raises(InputError, match=message):
        MatryoshkaLoss(**settings_)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_refused() -> None:
    loss = MatryoshkaLoss([2, 4], 3)
    with pytest.raises(InputError, match="do not fit"):
        loss(torch.randn(5, 3), torch.zeros(5, dtype=torch.long))
    with pytest.raises(InputError, match="do not fit"):
        loss(torch.randn(5, 4), torch.zeros(4, dtype=torch.long))


def test_half_precision_input_is_computed_in_full() -> None:
    torch.manual_seed(0)
    loss = MatryoshkaLoss([8], 4)
    raw = torch.randn(6, 8)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(raw, labels).total.item() == loss(raw, labels).total.item()
        half = loss(raw.bfloat16(), labels).total
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(raw, labels).total.item(), rel=0.05)


def test_dropout_keeps_the_longest_and_the_expected_gradient() -> None:
    torch.manual_seed(0)
    dropping = MatryoshkaLoss([2, 4, 8], 5, dim_dropout=0.4, shared_classes=True, dim_weights=[1.0, 2.0, 1.0], seed=3)
    plain = MatryoshkaLoss([2, 4, 8], 5, shared_classes=True, dim_weights=[1.0, 2.0, 1.0])
    plain.load_state_dict(dropping.state_dict())
    raw, labels = torch.randn(6, 8, requires_grad=True), torch.arange(6) % 5
    expected = torch.autograd.grad(plain(raw, labels).total, raw)[0]
    steps, taken, mean = 4000, {2: 0, 4: 0, 8: 0}, torch.zeros(6, 8)
    gradients: dict[tuple[int, ...], torch.Tensor] = {}
    for step in range(steps):
        dropping.start_step(step)
        dims = dropping.active_dims
        if dims not in gradients:
            output = dropping(raw, labels)
            assert tuple(output.per_dim) == tuple(output.accuracy) == dims
            gradients[dims] = torch.autograd.grad(output.total, raw)[0]
        mean += gradients[dims] / steps
        taken = {dim: count + (dim in dims) for dim, count in taken.items()}
    assert len(gradients) == 4
    assert taken[8] == steps
    assert [taken[dim] / steps for dim in (2, 4)] == pytest.approx([0.6, 0.6], abs=0.03)
    assert (mean - expected).norm() < 0.03 * expected.norm()
    dropping.eval()
    assert dropping(raw, labels).total.item() == pytest.approx(plain(raw, labels).total.item(), rel=1e-6)


def test_dropout_depends_on_seed_and_step_alone() -> None:
    first, second, other = (MatryoshkaLoss([2, 4, 6, 8], 5, dim_dropout=0.5, seed=seed) for seed in (1, 1, 2))
    with pytest.raises(InputError, match="start_step"):
        first(torch.randn(2, 8), torch.tensor([0, 1]))
    drawn = []
    for loss in (first, second, other):
        torch.rand(3)  # the global generator has no part in it
        for step in range(20) if loss is not second else reversed(range(20)):
            loss.start_step(step)
            drawn.append((step, loss.active_dims))
    assert sorted(drawn[:20]) == sorted(drawn[20:40]) != sorted(drawn[40:])


@pytest.mark.parametrize("loss_type", ["aam", "sphereface2", "angular_prototypical"])
def test_dims_that_sit_out_have_gradients_of_zeros(loss_type: str) -> None:
    # with none, an optimizer would treat them otherwise than in several processes, whose sum is zeros
    loss = MatryoshkaLoss([2, 4], 3, loss_type=loss_type, dim_dropout=0.99)  # type: ignore[arg-type]
    loss.start_step(0)
    assert loss.active_dims == (4,)
    loss(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])).total.backward()
    for value in loss.parameters():
        assert value.grad is not None
    for value in loss.class_matrices[:1]:
        assert value.grad is not None and not value.grad.any()
    for rows in (loss.biases, loss.scales):
        assert rows is None or (rows.grad is not None and rows.grad[0] == 0 and rows.grad[1] != 0)


def test_any_type_survives_autocast_and_a_scaled_backward() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    for loss_type in ("aam", "subcenter_aam", "sphereface2", "angular_prototypical", "supervised_contrastive"):
        torch.manual_seed(0)
        loss = MatryoshkaLoss([4, 8], 3, loss_type=loss_type, shared_classes=True)
        raw = torch.randn(6, 8).bfloat16().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total = loss(raw, labels).total
        (65536.0 * total).backward()
        exact = raw.detach().float().requires_grad_()
        loss(exact, labels).total.backward()
        assert raw.grad is not None and raw.grad.dtype == torch.bfloat16 and exact.grad is not None
        torch.testing.assert_close(raw.grad.float() / 65536.0, exact.grad, rtol=0.01, atol=1e-4)


class _Halves:
    """An objective of somebody else: the mean of ``(1 - cosine to the own class) / 2``, with nothing but the two methods."""

    def evaluate(self, cosines: torch.Tensor, labels: torch.Tensor, margin: float, bias: torch.Tensor | None) -> ObjectiveValue:
        index = labels.unsqueeze(1)
        own = cosines.gather(1, index)
        gradient = torch.zeros_like(cosines).scatter_(1, index, -0.5)
        return ObjectiveValue(((1 - own) / 2).mean(), own.mean(), gradient, torch.full_like(own, 1 / len(labels)))

    def uninformed_loss(self, num_classes: int, margin: float) -> float:
        return 0.5


def test_any_object_with_two_methods_is_an_objective() -> None:
    torch.manual_seed(0)
    loss = MatryoshkaLoss([2, 4], 3, _Halves())
    raw = torch.randn(6, 4, requires_grad=True)
    labels = torch.arange(6) % 3
    output = loss(raw, labels)
    expected = sum(
        (1 - functional.cosine_similarity(raw[:, :dim], matrix[labels])).mean() / 4
        for dim, matrix in zip((2, 4), loss.class_matrices, strict=True)
    )
    assert output.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.chance_level() == 0.5 and loss.biases is None
    (gradient,) = torch.autograd.grad(output.total, raw)
    (by_autograd,) = torch.autograd.grad(expected, raw)
    assert torch.allclose(gradient, by_autograd, atol=1e-6)
    with pytest.raises(InputError, match="scale belong to objectives given by name"):
        MatryoshkaLoss([2], 3, _Halves(), scale=3.0)
    assert MatryoshkaLoss([2], 3, MarginSoftmax(margin=0.3, scale=20.0)).margins == {2: 0.3}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("loss_type", ["sphereface2", "aam", "subcenter_aam"])
def test_sampled_classes_equal_all_classes_in_expectation(loss_type: str, shared: bool) -> None:
    """SphereFace2 sums over classes, so that a sample with weights is without bias; a softmax is so in its denominator."""
    torch.manual_seed(0)
    arguments = {"loss_type": loss_type, "shared_classes": shared, "scale": 4.0, "margin": 0.1}
    full = MatryoshkaLoss([4, 6], 40, **arguments)  # type: ignore[arg-type]
    sampled = MatryoshkaLoss([4, 6], 40, **arguments, sampled_classes=0.5, seed=3)  # type: ignore[arg-type]
    sampled.load_state_dict(full.state_dict())
    raw, labels = torch.randn(5, 6, requires_grad=True), torch.tensor([3, 9, 9, 20, 39])
    with pytest.raises(InputError, match="sampled_classes needs start_step"):
        sampled(raw, labels)
    total = full(raw, labels).total
    parameters = [raw, *full.class_matrices]
    expected = torch.autograd.grad(total, parameters)
    mean, gradients, times = 0.0, [torch.zeros_like(one) for one in parameters], 400
    for step in range(times):
        sampled.start_step(step)
        value = sampled(raw, labels).total
        mean += value.item() / times
        found = torch.autograd.grad(value, [raw, *sampled.class_matrices])
        assert (found[1].abs().sum(dim=1) > 0).float().mean() < 0.75  # a step looks at a part of the classes
        for gradient, part in zip(gradients, found, strict=True):
            gradient += part / times
    tolerance = 0.03 if loss_type == "sphereface2" else 0.05
    assert mean == pytest.approx(total.item(), rel=tolerance)
    for gradient, whole in zip(gradients, expected, strict=True):
        assert (gradient - whole).norm() < 4 * tolerance * whole.norm()
    sampled.start_step(7)
    assert sampled(raw, labels).total == sampled(raw, labels).total  # the step's number decides
    sampled.eval()
    assert sampled(raw, labels).total.item() == pytest.approx(total.item(), rel=1e-6)
