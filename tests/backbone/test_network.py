"""The network as a PyTorch module: outputs, gradients, low precision, copies, processes, compilation."""

from __future__ import annotations

import copy
import io
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mrl.backbone import ReDimNet, ReDimNetConfig, scratch_config
from tests.backbone.networks import filled_network, noise, relative_difference, small_model_config, small_model_config2

KINDS: list[dict[str, Any]] = [
    small_model_config(),
    small_model_config(block_1d_type="att", block_2d_type="convnext_like"),
    small_model_config(block_1d_type="conv", block_2d_type="convnext_like_relu", out_channels=24, emb_bn=True),
    small_model_config(block_1d_type="fc", block_2d_type="basic_resnet", group_divisor=1, pooling_func="MQMHASTP"),
    small_model_config(group_divisor=None, spec_params={"spec_norm": "bn"}, pooling_func="TSTP"),
    small_model_config2(),
    small_model_config2(dual_agg=True, agg_gnorm=8),
]
ALL_KINDS = pytest.mark.parametrize("model_config", KINDS)


def test_parts_make_the_whole() -> None:
    network = filled_network(small_model_config(emb_bn=True))
    waveform = noise(2, 4000)
    with torch.no_grad():
        pooled = network.pooled_statistics(waveform)
        assert pooled.shape == (2, network.pooled_dim) == (2, 96)
        frames = network.frame_features(network.front_end(waveform))
        assert frames.shape == (2, 1 + 4000 // 240, 48)
        assert relative_difference(network.pooling(frames), pooled) < 1e-6
        normalised = network.normalise_pooled(pooled)
        norm = network.pooled_norm
        assert norm.running_mean is not None and norm.running_var is not None
        by_hand = (pooled - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
        assert relative_difference(normalised, by_hand) < 1e-6
        assert network.embedding_norm is not None
        assert torch.equal(network.embed_pooled(pooled), network.embedding_norm(network.embedding(normalised)))
        assert torch.equal(network(waveform), network.embed_pooled(pooled))
    assert (network.sample_rate, network.embed_dim, network.minimum_samples) == (16000, 16, 257)


def test_inference_equals_the_way_with_gradient() -> None:
    # Without gradient the batch is split into groups; with it, it is not.
    network = filled_network(small_model_config())
    waveform = noise(3, 5000)
    with torch.no_grad():
        fast = network(waveform)
    assert relative_difference(network(waveform).detach(), fast) < 1e-6


def test_return_all_outputs() -> None:
    model_config = small_model_config(return_all_outputs=True)
    network = filled_network(model_config)
    plain = filled_network(small_model_config())
    waveform = noise(2, 4000)
    with torch.no_grad():
        embedding, outputs = network(waveform)
        assert relative_difference(embedding, plain(waveform)) < 1e-6
        assert [tuple(output.shape) for output in outputs] == [(2, 48, 17)] * 4  # stem, two stages, final sum
        # The last output is the weighted sum of the others, features before frames as in the official network.
        weights = network.encoder.final_sum.logits.softmax(dim=0)
        total = sum(weight[:, None] * output for weight, output in zip(weights, outputs[:-1], strict=True))
        assert relative_difference(outputs[-1], total) < 1e-6
        features = network.front_end(waveform)
        stem = network.encoder.stem_norm(network.encoder.stem(features.unsqueeze(1)).permute(0, 2, 3, 1)).flatten(2)
        assert relative_difference(outputs[0], stem.transpose(1, 2)) < 1e-6
        assert relative_difference(outputs[-1].transpose(1, 2), network.frame_features(features)) < 1e-6
        single, single_outputs = network(waveform[0])
        assert single.shape == (16,) and single_outputs[0].shape == (1, 48, 17)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        (None, nn.Identity()),
        ("nn.Sigmoid()", nn.Sigmoid()),
        ("nn.Softmax(dim=1)", nn.Softmax(dim=1)),
        ("nn.LogSoftmax(dim=1)", nn.LogSoftmax(dim=1)),
        ("nn.ReLU()", nn.ReLU()),
        ("nn.GELU()", nn.GELU()),
        ("nn.Tanh()", nn.Tanh()),
        ("nn.Identity()", nn.Identity()),
    ],
)
def test_class_head(activation: str | None, function: nn.Module) -> None:
    network = filled_network(small_model_config(num_classes=5, head_activation=activation, class_dropout=0.5))
    waveform = noise(2, 3000)
    with torch.no_grad():
        embedding = network.embed_pooled(network.pooled_statistics(waveform))
        _, state_dict = network.to_official()
        logits = embedding.relu() @ state_dict["cls_head.2.weight"].T + state_dict["cls_head.2.bias"]
        assert relative_difference(network(waveform), function(logits)) < 1e-6


@ALL_KINDS
def test_gradient_reaches_every_trainable_parameter_and_no_other(model_config: dict[str, Any]) -> None:
    network = filled_network(model_config | {"num_classes": 3}).train()
    network(noise(4, 4000)).square().sum().backward()
    trainable = set(map(id, network.trainable_parameters()))
    assert trainable
    for name, parameter in network.named_parameters():
        if id(parameter) in trainable:
            assert parameter.requires_grad, name
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name


def test_trainable_parameters_without_head() -> None:
    network = filled_network(small_model_config(num_classes=3, emb_bn=True, spec_params={"spec_norm": "bn"})).train()
    network.normalise_pooled(network.pooled_statistics(noise(4, 4000))).square().sum().backward()
    reached = {id(parameter) for parameter in network.parameters() if parameter.grad is not None}
    assert {id(parameter) for parameter in network.trainable_parameters(head=False)} == reached
    names = {id(parameter): name.split(".")[0] for name, parameter in network.named_parameters()}
    assert {names[parameter] for parameter in reached} == {"encoder", "pooling", "pooled_norm"}
    assert {names[id(p)] for p in network.trainable_parameters()} == {
        "encoder",
        "pooling",
        "pooled_norm",
        "embedding",
        "embedding_norm",
        "classifier",
    }


@pytest.mark.parametrize("model_config", KINDS[:6])  # the last bends too much within a step that float32 statistics allow
def test_gradient_in_eval_mode(model_config: dict[str, Any]) -> None:
    # In float32 through the fast normalisation; in float64 through PyTorch's own; and the slope by finite differences.
    network = filled_network(model_config)
    features = network.front_end(noise(1, 2400))

    def response(network: ReDimNet, features: torch.Tensor) -> torch.Tensor:
        return network.embed_pooled(network.pooling(network.frame_features(features))).double().square().mean()

    gradients = {}
    for dtype in (torch.float32, torch.float64):
        twin = copy.deepcopy(network).to(dtype)
        shifted = features.to(dtype, copy=True).requires_grad_()
        response(twin, shifted).backward()
        assert shifted.grad is not None
        parts = [p.grad.flatten() for p in twin.trainable_parameters() if p.grad is not None]
        gradients[dtype] = torch.cat([shifted.grad.flatten(), *parts]).double()
    fast, exact = gradients[torch.float32], gradients[torch.float64]
    assert fast.shape == exact.shape
    assert (fast - exact).norm() < 1e-4 * exact.norm()
    with torch.no_grad():
        # The pooled statistics are computed in float32 even there, so the step cannot be small along a weak direction.
        twin, own = copy.deepcopy(network).double(), exact[: features.numel()].view(features.shape)
        step = 0.01 * own / own.norm()
        slope = (response(twin, features.double() + step) - response(twin, features.double() - step)) / 0.02
    assert float(slope) == pytest.approx(float(own.norm()), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@ALL_KINDS
def test_autocast(model_config: dict[str, Any], dtype: torch.dtype) -> None:
    network = filled_network(model_config)
    batch = [noise(6000), noise(4000, seed=1)]
    with torch.no_grad():
        exact = network(batch)
        with torch.autocast("cpu", dtype=dtype):
            rounded = network(batch)
    assert torch.cosine_similarity(exact, rounded.float()).min() > 0.999
    with torch.autocast("cpu", dtype=dtype):
        network.train()(noise(4, 3000)).float().square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.trainable_parameters())


def test_bfloat16_network() -> None:
    network = filled_network(small_model_config())
    batch = noise(2, 6000)
    with torch.no_grad():
        exact = network(batch)
        rounded = network.bfloat16()(batch)
    assert rounded.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact, rounded.float()).min() > 0.99


def test_copies_give_the_same_numbers(tmp_path: Path) -> None:
    network = filled_network(small_model_config())
    batch = noise(2, 3000)
    with torch.no_grad():
        expected = network(batch)
        assert torch.equal(copy.deepcopy(network)(batch), expected)
        assert torch.equal(pickle.loads(pickle.dumps(network))(batch), expected)
        reloaded = ReDimNet(network.config).eval()
        assert not torch.equal(reloaded(batch), expected)
        buffer = io.BytesIO()
        torch.save(network.state_dict(), buffer)
        buffer.seek(0)
        assert not reloaded.load_state_dict(torch.load(buffer, weights_only=True)).missing_keys
        assert torch.equal(reloaded(batch), expected)


def test_config_survives_json() -> None:
    config = scratch_config("tiny")
    assert ReDimNetConfig.from_model_config(json.loads(json.dumps(config.to_model_config()))) == config


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


# PyTorch remarks that gradients of 1x1 kernels in channels-last memory have other strides along axes of length one: same numbers.
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")
@pytest.mark.parametrize("model_config", [KINDS[4], KINDS[6]])
def test_distributed_data_parallel(one_process_group: None, model_config: dict[str, Any]) -> None:
    network = filled_network(model_config).train()
    alone = copy.deepcopy(network)
    wrapped = nn.parallel.DistributedDataParallel(network, find_unused_parameters=False)
    for seed in range(2):  # a parameter without gradient would stop the second step
        batch = noise(3, 3000, seed=seed)
        for module in (wrapped, alone):
            module.zero_grad()
            module(batch).square().sum().backward()
    for ours, theirs in zip(network.trainable_parameters(), alone.trainable_parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@ALL_KINDS
def test_compiles_into_one_graph(model_config: dict[str, Any], fresh_compiler: None) -> None:
    network = filled_network(model_config)
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    batch, lengths = noise(2, 3000), torch.tensor([3000, 2000])
    with torch.no_grad():
        if model_config in (KINDS[0], KINDS[5]):  # without masks the same is traced, less the masks
            assert relative_difference(compiled(batch), network(batch)) < 1e-6
        assert relative_difference(compiled(batch, lengths=lengths), network(batch, lengths=lengths)) < 1e-4


def test_compiles_for_training(fresh_compiler: None) -> None:
    network = filled_network(small_model_config()).train()
    alone = copy.deepcopy(network)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    batch = noise(3, 3000)
    for module in (compiled, alone):
        module(batch).square().sum().backward()
    for ours, theirs in zip(network.trainable_parameters(), alone.trainable_parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() < 1e-3 * theirs.grad.norm() + 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Torchinductor does not support code generation for complex operators"
)  # the Fourier transform
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="needs a C++ compiler")
def test_compiles_to_machine_code(fresh_compiler: None) -> None:
    network = filled_network(small_model_config())
    compiled = torch.compile(network, fullgraph=True, dynamic=False)
    batch = noise(2, 3000)
    with torch.no_grad():
        assert relative_difference(compiled(batch), network(batch)) < 1e-5
