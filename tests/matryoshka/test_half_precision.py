"""Weights in float16: half the file, the same embeddings, and nothing that float16 cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mrl.backbone import ReDimNet
from mrl.errors import InputError
from mrl.matryoshka import ReDimNetMRL, create_mrl, create_mrl_from_pretrained
from mrl.matryoshka.saving import in_half_precision
from mrl.trials import read_trials


def test_what_stays_in_full_precision() -> None:
    large = torch.tensor([1.0, 70_000.0])
    tensors = {
        "weight": torch.tensor([0.5, -1.25, 3.0]),
        "zeros": torch.zeros(3),
        "buffer": torch.tensor([0.5]),
        "beyond the range": large,
        "too small": torch.full((4,), 3e-8),
        "not a number": torch.tensor([float("nan"), 1.0]),
        "count": torch.tensor(7),
    }
    stored = in_half_precision(tensors, {"buffer"})
    assert {name for name, tensor in stored.items() if tensor.dtype == torch.float16} == {"weight", "zeros"}
    assert torch.equal(stored["beyond the range"], large) and stored["count"].dtype == torch.int64
    assert torch.equal(stored["weight"].float(), tensors["weight"])


@settings(max_examples=50, deadline=None)
@given(exponent=st.integers(-30, 30), seed=st.integers(0, 1000))
def test_no_tensor_loses_more_than_rounding(exponent: int, seed: int) -> None:
    tensor = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    stored = in_half_precision({"weight": tensor}, ())["weight"].float()
    assert torch.linalg.vector_norm(stored - tensor) <= 2.0**-10 * torch.linalg.vector_norm(tensor)


def test_saving_and_loading(backbone: ReDimNet, waveforms: torch.Tensor, tmp_path: Path) -> None:
    norm = backbone.pooled_norm
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_var[0] = 1e6  # float16 ends at 65,504
    model = create_mrl(backbone)
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")}
    assert sizes["half"] < 0.6 * sizes["full"]
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert stored["projection.weight"].dtype == torch.float16
    assert stored["backbone.pooled_norm.running_var"].dtype == torch.float32
    again = ReDimNetMRL.from_pretrained(tmp_path / "half")
    assert {tensor.dtype for tensor in again.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    loaded = again.backbone.pooled_norm.running_var
    assert loaded is not None and torch.equal(loaded, norm.running_var)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in again.state_dict().values())
    with torch.inference_mode():
        for dim in (1, 8, 64, 256):
            cosines = (model(waveforms, target_dim=dim) * again(waveforms, target_dim=dim)).sum(dim=-1)
            assert cosines.min() >= 0.9999
    again.save_pretrained(tmp_path / "again", dtype=torch.float16)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "half" / "model.safetensors").read_bytes()


def test_other_types_are_refused(backbone: ReDimNet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"torch\.bfloat16 cannot be saved"):
        create_mrl(backbone).save_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert not (tmp_path / "model").exists()


@pytest.mark.shared
def test_real_speech_keeps_its_embeddings(shared: Path, tmp_path: Path) -> None:
    corpora = shared / "corpora"
    model = create_mrl_from_pretrained(weights=corpora / "checkpoints" / "b0-standin.pt")
    model.save_pretrained(tmp_path, dtype=torch.float16)
    again = ReDimNetMRL.from_pretrained(tmp_path)
    names = read_trials(corpora / "trials" / "so762-adult.txt.gz").utterances[:200:20]
    with torch.inference_mode():
        for name in names:
            full, half = (one(corpora / name, return_all_dims=True) for one in (model, again))
            assert min(float(full[dim] @ half[dim]) for dim in full) >= 0.9999
