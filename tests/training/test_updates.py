"""One optimizer step: accumulation, clipping, averages, and losses that are not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pytest
import torch

from mrl.distribution import Processes
from mrl.errors import ConfigError, TrainingError
from mrl.matryoshka import MatryoshkaLoss, ReDimNetMRL
from mrl.training.gradients import GradientExchange, average_running_statistics
from mrl.training.system import StepLoss, TrainingSystem
from mrl.training.updates import Updater, WeightAverage, build_optimizer, check_precision, parameter_groups

CLASSES = 5


def _updater(model: ReDimNetMRL, *, kind: str = "sgd", rate: float = 0.1, **more: object) -> Updater:
    torch.manual_seed(1)
    system = TrainingSystem(model, MatryoshkaLoss(model.mrl_dims, CLASSES))
    groups = parameter_groups(system, learning_rate=rate, backbone_ratio=1.0, weight_decay=0.0)
    return Updater(system, build_optimizer(groups, kind), **more)  # type: ignore[arg-type]


def _data(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 96, generator=random), torch.arange(count) % CLASSES


def _losses(updater: Updater, pooled: torch.Tensor, labels: torch.Tensor, sizes: Sequence[int]) -> Iterator[tuple[StepLoss, int]]:
    for part, targets in zip(torch.split(pooled, list(sizes)), torch.split(labels, list(sizes)), strict=True):
        yield updater.system(updater.system.encoder.project(part), targets), len(targets)


@pytest.mark.parametrize("sizes", [[4, 4, 2], [1, 9], [5, 5]])
def test_accumulated_batches_equal_one_big_batch(tiny_model: ReDimNetMRL, sizes: list[int]) -> None:
    tiny_model.freeze_backbone()
    start = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    pooled, labels = _data(10)
    results = []
    for cut in ([10], sizes):
        tiny_model.load_state_dict(start)
        updater = _updater(tiny_model)
        report = updater.update(_losses(updater, pooled, labels, cut), total_crops=10, rate_factor=1.0)
        gradients = [parameter.grad for group in updater.optimizer.param_groups for parameter in group["params"]]
        results.append((report, [gradient.clone() for gradient in gradients if gradient is not None]))
    (whole, of_whole), (parts, of_parts) = results
    assert len(of_whole) == 5
    for one, other in zip(of_whole, of_parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)
    assert parts.parts == pytest.approx(whole.parts, rel=1e-4)
    assert parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)


def test_clipping_and_rate(tiny_model: ReDimNetMRL) -> None:
    tiny_model.freeze_backbone()
    updater = _updater(tiny_model, clip_norm=1e-3)
    trained = [parameter for group in updater.optimizer.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in trained]
    report = updater.update(_losses(updater, *_data(8), [8]), total_crops=8, rate_factor=0.5)
    moved = torch.cat([(new - old).flatten() for new, old in zip(trained, before, strict=True)]).norm().item()
    assert report.gradient_norm > 0.1
    assert moved == pytest.approx(0.1 * 0.5 * 1e-3 * 1.9, rel=1e-3)  # Nesterov's first step is 1 + momentum long


def test_the_loss_falls_far_below_chance(tiny_model: ReDimNetMRL) -> None:
    tiny_model.freeze_backbone()
    updater = _updater(tiny_model, kind="adamw", rate=0.01)
    random = torch.Generator().manual_seed(3)
    centers, labels = torch.randn(CLASSES, 96, generator=random), torch.arange(20) % CLASSES
    pooled = centers[labels] + 0.1 * torch.randn(20, 96, generator=random)
    losses = [
        updater.update(_losses(updater, pooled, labels, [20]), total_crops=20, rate_factor=1.0).parts["loss"] for _ in range(40)
    ]
    assert updater.system.loss.chance_level() > 6
    assert losses[0] > 3 and losses[-1] < 0.5


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_changes_nothing_and_is_counted(tiny_model: ReDimNetMRL, broken: str) -> None:
    tiny_model.freeze_backbone()
    average = WeightAverage(tiny_model, 0.9)
    updater = _updater(tiny_model, kind="adamw", max_nonfinite=2, average=average)
    good, labels = _data(4)
    updater.update(_losses(updater, good, labels, [4]), total_crops=4, rate_factor=1.0)
    before = {name: value.clone() for name, value in updater.system.state_dict().items()}

    def spoilt() -> Iterator[tuple[StepLoss, int]]:
        for number, (loss, count) in enumerate(_losses(updater, good, labels, [2, 2])):
            total = loss.total
            if number == 0 and broken == "loss":
                total = total * float("nan")
            if number == 0 and broken == "gradient":  # the square root's slope at zero is infinite
                total = total + (total - total.detach()).sqrt()
            yield StepLoss(total, loss.parts), count

    for count in (1, 2):
        report = updater.update(spoilt(), total_crops=4, rate_factor=1.0)
        assert report.skipped and updater.nonfinite_steps == count
    assert all(torch.equal(value, before[name]) for name, value in updater.system.state_dict().items())
    assert average.steps == 1
    assert not updater.update(_losses(updater, good, labels, [4]), total_crops=4, rate_factor=1.0).skipped
    with pytest.raises(TrainingError, match=r"3 steps gave no finite loss or gradient.*max_nonfinite_steps is 2"):
        updater.update(spoilt(), total_crops=4, rate_factor=1.0)


def test_running_statistics_forget_a_bad_batch(tiny_model: ReDimNetMRL) -> None:
    tiny_model.unfreeze_backbone(batch_norm_statistics="update")
    updater = _updater(tiny_model, update_buffers=True)
    updater.system.train()
    before = {name: value.clone() for name, value in tiny_model.named_buffers()}

    def spoilt() -> Iterator[tuple[StepLoss, int]]:
        raw = tiny_model.project(tiny_model.pooled_statistics(torch.full((4, 4000), float("nan"))))
        yield updater.system(raw, torch.arange(4)), 4

    assert updater.update(spoilt(), total_crops=4, rate_factor=1.0).skipped
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.named_buffers())


def test_bf16_trains_and_fp16_needs_a_gpu(tiny_model: ReDimNetMRL) -> None:
    tiny_model.freeze_backbone()
    updater = _updater(tiny_model, precision="bf16")
    pooled, labels = _data(8)
    with updater.autocast():
        raw = tiny_model.project(pooled)
        assert tiny_model.backbone.embedding(pooled).dtype == torch.bfloat16  # all but the head and the loss
    assert raw.dtype == torch.float32
    loss = updater.system(raw.float(), labels)
    assert not updater.update(iter([(loss, 8)]), total_crops=8, rate_factor=1.0).skipped
    with pytest.raises(ConfigError, match="fp16 needs a CUDA GPU"):
        check_precision("fp16", torch.device("cpu"))


def test_average_of_weights(tiny_model: ReDimNetMRL) -> None:
    tiny_model.freeze_backbone()
    average = WeightAverage(tiny_model, 0.5)
    start = tiny_model.projection.bias.detach().clone()
    with torch.no_grad():
        tiny_model.projection.bias += 1.0
    average.update(tiny_model)  # the decay of the first step is 2 / 11
    expected = start + 1.0 - 2 / 11
    own = tiny_model.projection.bias.detach().clone()
    with average.applied_to(tiny_model):
        assert torch.allclose(tiny_model.projection.bias, expected)
    assert torch.equal(tiny_model.projection.bias, own)
    for _ in range(20):
        average.update(tiny_model)
    assert torch.allclose(average.state["projection.bias"], own, atol=1e-5)
    backbone = dict(tiny_model.backbone.state_dict())
    assert all(
        torch.equal(average.state[f"backbone.{name}"], value) for name, value in backbone.items() if value.is_floating_point()
    )


@dataclasses.dataclass(frozen=True)
class _ThreeAlike(Processes):
    """Three processes with the same numbers, which count their exchanges."""

    world_size: int = 3
    sizes: list[int] = dataclasses.field(default_factory=list)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tensor.numel())
        return tensor.mul_(3.0)


def test_only_running_statistics_are_averaged_and_in_one_exchange(tiny_model: ReDimNetMRL) -> None:
    """Constants of the front end were averaged too, which changes them by rounding, in an exchange for each buffer."""
    processes = _ThreeAlike()
    before = {name: value.clone() for name, value in tiny_model.named_buffers()}
    moving = [name for name in before if "running_" in name]
    assert len(before) > len(moving) > 4
    thirds = sum(not torch.equal((value * 3.0) / 3.0, value) for value in before.values() if value.is_floating_point())
    assert thirds > 0  # so the test can fail
    average_running_statistics(processes, tiny_model)
    assert processes.sizes == [sum(before[name].numel() for name in moving)]
    for name, value in tiny_model.named_buffers():
        if name in moving:
            assert torch.allclose(value, before[name], rtol=1e-6)
        else:
            assert torch.equal(value, before[name]), name


def test_under_autocast_the_head_computes_in_float32(tiny_model: ReDimNetMRL) -> None:
    pooled, _ = _data(6)
    exact = tiny_model.project(pooled)
    for given in (pooled, pooled.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            found = tiny_model.project(given)
        assert found.dtype == torch.float32
        assert torch.equal(found, tiny_model.project(given.float()))
    assert torch.equal(tiny_model.project(pooled), exact)


def test_a_gpu_is_bound_before_the_processes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set_device", device)))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **more: calls.append((backend, more.get("device_id")))
    )
    device = torch.device("cuda", 1)
    Processes(1, 2, 1).connect(device)
    assert calls == [("set_device", device), ("nccl", device)]
    calls.clear()
    Processes(1, 2).connect(torch.device("cpu"))
    assert calls == [("gloo", None)]


def test_gradients_leave_during_the_backward_pass_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket of the last layers is on its way before the gradients of the first layers are there."""
    first, last = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)
    unused = torch.nn.Parameter(torch.ones(3))
    sent: list[tuple[int, bool]] = []

    class Done:
        def wait(self) -> None: ...

    def all_reduce(tensor: torch.Tensor, *, async_op: bool) -> Done:
        assert async_op
        sent.append((tensor.numel(), first.weight.grad is None))
        tensor.mul_(2.0)
        return Done()

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    exchange = GradientExchange(Processes(0, 2), [unused, first.weight, last.weight], bucket_bytes=1)
    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(last(first(inputs)).square().sum(), [first.weight, last.weight])
    for overlap in (True, False):
        first.weight.grad = last.weight.grad = unused.grad = None
        sent.clear()
        with exchange.overlapping(enabled=overlap):
            last(first(inputs)).square().sum().backward()
        assert [early for _, early in sent] == ([True, False] if overlap else [])
        exchange.finish()
        assert [size for size, _ in sent] == [64, 64, 3]
        assert torch.allclose(first.weight.grad, 2 * expected[0]) and torch.allclose(last.weight.grad, 2 * expected[1])
        assert torch.equal(unused.grad, torch.zeros(3))  # a process without a gradient counts as zero
