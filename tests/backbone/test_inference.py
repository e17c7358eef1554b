"""The inference copy: the same embeddings from folded and packed weights, and nothing that could be trained or saved."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone import ReDimNet
from mrl.backbone.folding import Affine, InferenceConv, Kernel, affine_of, can_pack
from mrl.backbone.inference import InferenceResidual
from mrl.backbone.layers import ResidualBlock
from mrl.errors import InputError, TrainingError
from mrl.matryoshka import ReDimNetMRL
from tests.backbone.networks import filled_network, small_model_config

SAMPLES = 6000
packed_or_plain = pytest.mark.parametrize("pack", [True, False])
needs_bfloat16 = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this processor has no bfloat16 arithmetic")


def network(**changes: Any) -> ReDimNet:
    return filled_network(small_model_config(**changes))


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def angle(first: Tensor, second: Tensor) -> float:
    """One minus the lowest cosine between the rows of both."""
    return float(1 - functional.cosine_similarity(first.double(), second.double(), dim=-1).min())


def deviation(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


VARIANTS = {
    "excitation": {},
    "depthwise": {"block_2d_type": "basic_resnet", "group_divisor": 1},
    "no groups": {"block_2d_type": "basic_resnet", "group_divisor": None},
    "no groups, excitation": {"group_divisor": None},
    "convnext": {"block_2d_type": "convnext_like", "group_divisor": 4},
    "convnext, relu, attention": {"block_2d_type": "convnext_like_relu", "block_1d_type": "att"},
    "three kernels": {"block_1d_type": "conv"},
    "feed-forward": {"block_1d_type": "fc"},
    "frame projection": {"out_channels": 20, "emb_bn": True},
    "no context in pooling": {"global_context_att": False},
    "temporal statistics": {"pooling_func": "TSTP"},
    "classes": {"num_classes": 5},
}


@packed_or_plain
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_same_output_as_the_network(changes: dict[str, Any], pack: bool) -> None:
    original = network(**changes)
    fast = original.optimize_for_inference(pack=pack)
    audio = noise(2, SAMPLES)
    with torch.no_grad():
        assert deviation(fast(audio), original(audio)) < 2e-6


@packed_or_plain
@pytest.mark.parametrize("changes", [{}, VARIANTS["no groups"], VARIANTS["convnext"], VARIANTS["three kernels"]])
def test_padding_changes_nothing(changes: dict[str, Any], pack: bool) -> None:
    fast = network(**changes).optimize_for_inference(pack=pack)
    items = [noise(SAMPLES), noise(SAMPLES)[:3500], noise(SAMPLES)[:300]]
    with torch.no_grad():
        together = fast(items)
        alone = torch.stack([fast(item) for item in items])
    assert deviation(together, alone) < 2e-6


def test_scale_of_zero_and_negative_scales_are_exact() -> None:
    original = network()
    for module in original.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[0] = 0.0
                module.weight[1] = -1.3
    fast = original.optimize_for_inference()
    items = [noise(SAMPLES), noise(SAMPLES)[:3000]]
    with torch.no_grad():
        assert deviation(fast(items), original(items)) < 2e-6


def test_all_outputs_are_those_of_the_network() -> None:
    original = network(return_all_outputs=True)
    audio = noise(2, SAMPLES)
    with torch.no_grad():
        (_, expected), (_, found) = original(audio), original.optimize_for_inference()(audio)
    assert len(found) == len(expected)
    assert max(deviation(*pair) for pair in zip(found, expected, strict=True)) < 2e-6


def test_original_stays_untouched() -> None:
    original = network()
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    fast = original.optimize_for_inference()
    with torch.no_grad():
        fast(noise(2, SAMPLES))
    after = original.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(parameter.requires_grad for parameter in original.parameters())
    original.train()
    assert not original.inference_only


def test_input_is_not_overwritten() -> None:
    fast = network().optimize_for_inference()
    audio = noise(2, SAMPLES)
    with torch.no_grad():
        features = fast.front_end(audio)
        kept = audio.clone(), features.clone()
        fast(audio)
        fast.frame_features(features)
    assert torch.equal(audio, kept[0])
    assert torch.equal(features, kept[1])


@needs_bfloat16
@pytest.mark.parametrize("changes", [{}, {"C": 20}], ids=["narrow", "wide"])
def test_bfloat16_is_near(changes: dict[str, Any]) -> None:
    original = network(**changes)
    audio = noise(3, SAMPLES)
    with torch.no_grad():
        expected, found = original(audio), original.optimize_for_inference(dtype=torch.bfloat16)(audio)
    assert found.dtype == torch.float32
    assert 0 < angle(found, expected) < 1e-3


@needs_bfloat16
def test_what_stays_in_float32() -> None:
    for channels, first in ((4, torch.float32), (20, torch.bfloat16)):
        encoder = network(C=channels).optimize_for_inference(dtype=torch.bfloat16, pack=False).encoder
        types = {name: buffer.dtype for name, buffer in encoder.named_buffers()}
        assert types["stem.weight"] == torch.float32
        assert types["stages.0.blocks.0.conv1.weight"] == first
        assert types["stages.1.blocks.0.conv1.weight"] == torch.bfloat16


def test_every_shape_gets_its_own_layout() -> None:
    original = network()
    fast = original.optimize_for_inference()
    with torch.no_grad():
        for batch, samples in ((1, 300), (1, 20000), (5, 4000), (1, 300), (2, 7000)):
            audio = noise(batch, samples)
            assert deviation(fast(audio), original(audio)) < 2e-6


@packed_or_plain
def test_a_copy_can_be_copied_pickled_and_moved(pack: bool) -> None:
    fast = network().optimize_for_inference(pack=pack)
    audio = noise(1, SAMPLES)
    with torch.no_grad():
        expected = fast(audio)
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), fast.to("cpu")):
            assert other.inference_only
            assert torch.equal(other(audio), expected)
        widened = fast.double()
        assert deviation(widened(audio), expected) < 1e-5


def test_refuses_what_needs_the_trainable_network() -> None:
    fast = network().optimize_for_inference()
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    for attempt in (fast.train, fast.requires_grad_, fast.to_official, fast.optimize_for_inference):
        with pytest.raises(TrainingError, match="an inference copy cannot be"):
            attempt()
    assert not fast.training
    fast.eval()


def test_refuses_other_types() -> None:
    with pytest.raises(InputError, match="float32 or torch.bfloat16"):
        network().optimize_for_inference(dtype=torch.float16)


def test_refuses_bfloat16_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl.backbone.base.can_pack", lambda dtype: dtype == torch.float32)
    with pytest.raises(InputError, match="no bfloat16"):
        network().optimize_for_inference(dtype=torch.bfloat16)


def test_unpacked_copy_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl.backbone.base.can_pack", lambda dtype: False)
    original = network()
    fast = original.optimize_for_inference()
    assert all(module._layouts is None for module in fast.modules() if isinstance(module, InferenceConv))
    audio = noise(1, SAMPLES)
    with torch.no_grad():
        assert deviation(fast(audio), original(audio)) < 2e-6


class TestMatryoshka:
    def model(self) -> ReDimNetMRL:
        torch.manual_seed(0)
        return ReDimNetMRL(network(), embed_dim=24, mrl_dims=(4, 8, 24)).eval()

    def test_every_length_is_the_same(self) -> None:
        original = self.model()
        fast = original.optimize_for_inference()
        items = [noise(SAMPLES), noise(SAMPLES)[:4000]]
        with torch.no_grad():
            expected, found = original(items, return_all_dims=True), fast(items, return_all_dims=True)
            pooled = original.pooled_statistics(items)
            assert deviation(fast.pooled_statistics(items), pooled) < 2e-6
            assert deviation(fast.backbone.embed_pooled(pooled), original.backbone.embed_pooled(pooled)) < 2e-6
        assert found.keys() == {4, 8, 24}
        assert max(angle(found[dim], expected[dim]) for dim in expected) < 1e-9

    def test_refuses_training_and_saving(self, tmp_path: Any) -> None:
        fast = self.model().optimize_for_inference()
        assert not fast.training
        assert not any(parameter.requires_grad for parameter in fast.parameters())
        attempts = (
            fast.train,
            fast.unfreeze_backbone,
            fast.to_backbone,
            fast.optimize_for_inference,
            lambda: fast.save_pretrained(tmp_path / "model"),
            lambda: fast.fit_projection(torch.randn(8, fast.pooled_dim)),
        )
        for attempt in attempts:
            with pytest.raises(TrainingError, match="an inference copy cannot be"):
                attempt()
        assert not (tmp_path / "model").exists()


class TestFolding:
    @settings(max_examples=25, deadline=None)
    @given(
        divisor=st.sampled_from([None, 1, 2, 3]),
        scales=st.lists(st.floats(-2, 2), min_size=6, max_size=6),
        frames=st.integers(1, 4),
        bands=st.integers(1, 4),
        seed=st.integers(0, 2**16),
    )
    def test_norm_between_padded_convolutions(
        self, divisor: int | None, scales: list[float], frames: int, bands: int, seed: int
    ) -> None:
        torch.manual_seed(seed)
        block = ResidualBlock(6, bands, divisor, band_excitation=False).double().eval()
        with torch.no_grad():
            block.norm1.weight.copy_(torch.tensor(scales))
            for tensor in (block.norm1.bias, block.norm1.running_mean, block.norm2.weight):
                assert tensor is not None
                tensor.copy_(torch.randn(6))
            maps = torch.randn(2, 6, frames, bands, dtype=torch.float64)
            expected = block(maps)
            found = InferenceResidual(block, bands)(maps.clone())
        assert torch.allclose(found, expected, atol=1e-11)

    def test_norm_before_a_convolution(self) -> None:
        torch.manual_seed(0)
        kernel = Kernel(torch.randn(6, 2, 3, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64), 3)
        norm = Affine(torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64))
        maps = torch.randn(2, 6, 5, 4, dtype=torch.float64)
        normalised = maps * norm.scale[:, None, None] + norm.shift[:, None, None]
        expected = functional.conv2d(normalised, kernel.weight, kernel.bias, groups=3)
        folded = kernel.after(norm)
        assert torch.allclose(functional.conv2d(maps, folded.weight, folded.bias, groups=3), expected, atol=1e-12)

    @pytest.mark.parametrize(
        ("groups", "inputs", "most", "left"),
        [(24, 4, 8, 12), (6, 1, 8, 6), (6, 2, 8, 2), (5, 3, 8, 5), (3, 4, 16, 1), (2, 16, 8, 2)],
    )
    def test_merged_groups_compute_the_same(self, groups: int, inputs: int, most: int, left: int) -> None:
        torch.manual_seed(0)
        kernel = Kernel(torch.randn(groups * 2, inputs, 3, 3), torch.randn(groups * 2), groups)
        merged = kernel.merged(most)
        assert merged.groups == left
        maps = torch.randn(1, groups * inputs, 4, 5)
        expected = functional.conv2d(maps, kernel.weight, kernel.bias, padding=1, groups=groups)
        found = functional.conv2d(maps, merged.weight, merged.bias, padding=1, groups=merged.groups)
        assert torch.allclose(found, expected, atol=1e-5)

    def test_norm_after_a_convolution(self) -> None:
        torch.manual_seed(0)
        conv, norm = nn.Conv2d(4, 6, 3, groups=2).double(), nn.BatchNorm2d(6).double().eval()
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            nn.init.uniform_(tensor, 0.5, 2.0)
        kernel = Kernel.of(conv).then(affine_of(norm))
        maps = torch.randn(1, 4, 5, 5, dtype=torch.float64)
        assert torch.allclose(functional.conv2d(maps, kernel.weight, kernel.bias, groups=2), norm(conv(maps)), atol=1e-12)
