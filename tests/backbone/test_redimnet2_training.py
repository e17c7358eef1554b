"""The second generation in training: one graph, several processes, recomputation, bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mrl.training.feeds import recomputed_stages
from tests.backbone.networks import filled_network2, noise, relative_difference, small_model_config2

KINDS: list[dict[str, Any]] = [{}, {"dual_agg": True, "agg_gnorm": 8}]


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


# PyTorch remarks that gradients of 1x1 kernels in channels-last memory have other strides along axes of length one: same numbers.
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")
def test_distributed_data_parallel(one_process_group: None) -> None:
    network = filled_network2(small_model_config2(dual_agg=True)).train()
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


@pytest.mark.parametrize("changes", KINDS)
def test_compiles_into_one_graph(changes: dict[str, Any]) -> None:
    torch.compiler.reset()
    network = filled_network2(small_model_config2(**changes))
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    batch, lengths = noise(2, 3000), torch.tensor([3000, 2000])
    with torch.no_grad():
        assert relative_difference(compiled(batch), network(batch)) < 1e-6
        assert relative_difference(compiled(batch, lengths=lengths), network(batch, lengths=lengths)) < 1e-4
    torch.compiler.reset()


@pytest.mark.parametrize("changes", KINDS)
def test_recomputed_stages_give_the_same_gradients(changes: dict[str, Any]) -> None:
    network = filled_network2(small_model_config2(**changes)).train()
    batch = noise(3, 4000)
    start = copy.deepcopy(network.state_dict())
    network(batch).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    network.zero_grad()
    network.load_state_dict(start)
    with recomputed_stages(network):
        loss = network(batch).square().sum()
    loss.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and len(found) > 60
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], rtol=1e-4, atol=1e-5), name
    assert all(torch.equal(statistics[name], value) for name, value in network.named_buffers())


def test_bfloat16_autocast_is_near_and_half_keeps_the_front_end() -> None:
    network = filled_network2(small_model_config2())
    batch = noise(2, 6000)
    with torch.no_grad():
        expected = network(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(batch).float()
        cosine = nn.functional.cosine_similarity(found, expected).min()
        assert 0.99 < float(cosine) < 1.0
        kernels = network.front_end.real_kernels.clone()
        assert torch.equal(network.bfloat16().front_end.real_kernels, kernels)
        assert torch.isfinite(network(batch)).all()
