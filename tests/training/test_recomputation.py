"""Gradient checkpointing and compilation: the same numbers, less memory, the same names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mrl.backbone import scratch_backbone
from mrl.errors import ConfigError
from mrl.matryoshka import ReDimNetMRL
from mrl.training import feeds as compilation
from mrl.training import run_training
from mrl.training.checkpoints import CheckpointFolder
from mrl.training.feeds import check_compiler, embed_waveforms, recomputed_stages
from mrl.training.logs import MetricsFile
from mrl.training.plan import PeakMemory
from tests.training.conftest import ConfigFactory

Statistics = Any
STAGE_2 = {"training.num_epochs": 2, "advanced.freeze_backbone_epochs": 0}


def _pass(
    model: ReDimNetMRL, *, recompute: bool, pool: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Loss, gradients and buffers of one pass from the same state."""
    audio = torch.randn(4, 4800, generator=torch.Generator().manual_seed(0)) * 0.1
    start = {name: value.clone() for name, value in model.state_dict().items()}
    loss = embed_waveforms(model, audio, pool=pool, recompute=recompute).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    model.zero_grad(set_to_none=True)
    model.load_state_dict(start)
    return loss.item(), gradients, buffers


@pytest.mark.parametrize("statistics", ["frozen", "update"])
def test_recomputed_stages_give_the_same_loss_gradients_and_statistics(tiny_model: ReDimNetMRL, statistics: Statistics) -> None:
    tiny_model.unfreeze_backbone(statistics)
    tiny_model.train()
    tiny_model.backbone.encoder.stage_dropout = 0.2  # the same features must be dropped again
    results = []
    for recompute in (False, True):
        torch.manual_seed(5)
        results.append(_pass(tiny_model, recompute=recompute))
    (loss, gradients, buffers), (same_loss, same_gradients, same_buffers) = results
    assert same_loss == pytest.approx(loss, rel=1e-6)
    assert len(gradients) > 50 and gradients.keys() == same_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(same_gradients[name], gradient, rtol=1e-6, atol=1e-6), name
    assert all(torch.equal(same_buffers[name], value) for name, value in buffers.items())
    moved = [name for name, value in buffers.items() if not torch.equal(value, tiny_model.get_buffer(name))]
    assert bool(moved) is (statistics == "update")  # once, not never


def test_recomputed_stages_keep_less_and_leave_no_trace() -> None:
    # of the tiny network most is the front end, which keeps nothing anyway
    network = ReDimNetMRL(scratch_backbone("b0"))
    network.train()
    names = list(network.state_dict())
    peaks = []
    for recompute in (False, True):
        with PeakMemory() as peak:
            embed_waveforms(network, torch.zeros(2, 8_000), recompute=recompute).sum().backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)
        peaks.append(peak.bytes)
    assert peaks[1] < 0.6 * peaks[0]
    stages = network.backbone.encoder.stages
    with recomputed_stages(network.backbone):
        assert all("forward" in vars(stage) for stage in stages)
    assert not any("forward" in vars(stage) for stage in stages)
    assert list(network.state_dict()) == names


def test_peak_memory_counts_what_lives_at_one_time() -> None:
    with PeakMemory() as peak:
        for _ in range(3):
            kept = torch.zeros(1000)  # 4 kB, each before the last one is let go
            view = kept[:10]
        view.add_(1.0)
    assert peak.bytes == 8000


def test_a_run_with_recomputation_equals_one_without(make_config: ConfigFactory) -> None:
    tensors = []
    for value in (False, True):
        config = make_config(**STAGE_2, **{"training.gradient_checkpointing": value, "training.output_dir": f"run-{value}"})
        folder = run_training(config).run_folder
        latest = CheckpointFolder(folder / "checkpoints", 1).latest()
        assert latest is not None
        tensors.append(load_file(latest / "state.safetensors"))
    assert all(torch.allclose(tensors[1][name].float(), value.float(), atol=1e-6) for name, value in tensors[0].items())


def _without_code_generation(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trace and run graphs as torch.compile does, but without the minutes of a C++ compiler; return what was compiled."""
    compile_function, seen = torch.compile, []

    def light(function: Any, **options: Any) -> Any:
        seen.append(options)
        return compile_function(function, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", light)
    return seen


@pytest.mark.slow
def test_a_compiled_run_equals_a_plain_one_and_resumes_exactly(
    make_config: ConfigFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    seen = _without_code_generation(monkeypatch)
    config = {**STAGE_2, "training.num_epochs": 1, "training.batch_size": 5, "data.validation": {}}
    config |= {"training.checkpoint_every_steps": 1, "training.keep_checkpoints": 9}
    config |= {"data.augmentation": {"spec_augment": {"frequency_masks": 1, "time_masks": 1}}}  # other masks in every step
    plain = run_training(make_config(**config, **{"training.output_dir": "plain"})).run_folder
    assert not seen
    compiled = run_training(make_config(**config, **{"training.compile": True, "training.output_dir": "compiled"})).run_folder
    assert len(seen) == 2 and all(options == {"dynamic": False} for options in seen)  # the check, and the network
    records = [MetricsFile(folder / "metrics.jsonl").read() for folder in (plain, compiled)]
    losses = [[record["loss"] for record in some if record["kind"] == "step"] for some in records]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 4
    names = [set(load_file(folder / "best" / "model.safetensors")) for folder in (plain, compiled)]
    assert names[0] == names[1]
    again = make_config(**config, **{"training.compile": True, "training.output_dir": "compiled"})
    middle = compiled / "checkpoints" / "step-00000002"
    torch._dynamo.reset()  # as in a new process
    assert run_training(again, resume=str(middle)).run_folder == compiled
    assert MetricsFile(compiled / "metrics.jsonl").read() == records[1]


def test_compiled_gradients_with_recomputation(tiny_model: ReDimNetMRL, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    _without_code_generation(monkeypatch)
    tiny_model.unfreeze_backbone("update")
    tiny_model.train()
    loss, gradients, buffers = _pass(tiny_model, recompute=False)
    pool = compilation.compiled(tiny_model.pooled_statistics)
    same_loss, same_gradients, same_buffers = _pass(tiny_model, recompute=True, pool=pool)
    assert same_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in gradients.items():
        assert torch.allclose(same_gradients[name], gradient, rtol=1e-4, atol=1e-6), name
    assert all(torch.allclose(same_buffers[name], value, atol=1e-6) for name, value in buffers.items())


def test_no_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **_: Any) -> Any:
        def fail(*_: Any) -> None:
            raise RuntimeError("Failed to find C++ compiler. Please specify via CXX environment variable.\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"does not work here \(Failed to find C\+\+ compiler.*g\+\+.*training\.compile: false"):
        check_compiler(torch.device("cpu"))
