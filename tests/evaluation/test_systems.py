"""What is compared, under which names, and with what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.embeddings import save_embeddings
from mrl.errors import InputError
from mrl.evaluation.settings import SystemSettings
from mrl.evaluation.systems import Lineup, NetworkSystem, open_lineup, short_names
from mrl.matryoshka import ReDimNetMRL
from tests.embeddings.tiny import write_models


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a model on it, a second model on it, a model with a trained backbone, and embeddings."""
    folder = tmp_path_factory.mktemp("lineup")
    write_models(folder)
    model = ReDimNetMRL.from_pretrained(folder / "tiny-mrl")
    with torch.no_grad():
        model.projection.weight.mul_(0.5)
    model.save_pretrained(folder / "other-mrl")
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(0.5)
    model.backbone_is_unmodified = False
    model.save_pretrained(folder / "tuned")
    save_embeddings(folder / "foreign.npz", ["s/a", "s/b"], np.random.default_rng(0).standard_normal((2, 100)))
    return folder


def _open(place: Path, *names: str, **settings: object) -> Lineup:
    return open_lineup([str(place / name) for name in names], SystemSettings(**settings))  # type: ignore[arg-type]


def test_names_are_short_and_distinct() -> None:
    assert short_names(["b2"]) == ("b2",)
    assert short_names(["runs/a/best", "runs/b/best", "x.pt"]) == ("a/best", "b/best", "x")
    assert short_names(["e.npz", "e.ark", "/far/away/other.npz"]) == ("e.npz", "e.ark", "other")
    assert short_names(["./m", "/m", "../m"]) == ("./m", "/m", "../m")
    assert short_names(["model.v2", "model.v3"]) == ("model.v2", "model.v3")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab/.", min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
def test_names_are_always_distinct(specs: list[str]) -> None:
    names = short_names(specs)
    assert len(set(names)) == len(specs) and all(names)


def test_several_models_share_one_unmodified_backbone(place: Path) -> None:
    lineup = _open(place, "tiny-mrl", "other-mrl")
    assert [system.name for system in lineup.systems] == ["tiny-mrl", "other-mrl"]
    assert [system.own_name for system in lineup.networks] == ["unmodified backbone", None]
    assert lineup.reference == ("unmodified backbone", 192)
    assert lineup.networks[0].own_dims == (16, 32, 64, 128, 192)


def test_a_checkpoint_that_is_the_backbone_stands_for_it(place: Path) -> None:
    lineup = _open(place, "tiny-mrl", "tiny.pt")
    assert [system.own_name for system in lineup.networks] == [None, None]
    assert lineup.reference == ("tiny", 192)
    assert lineup.systems[1].dims == (16, 32, 64, 128, 192)  # those of the Matryoshka model, and all of its own


def test_a_trained_backbone_is_called_so_and_the_unmodified_one_is_the_reference(place: Path) -> None:
    lineup = _open(place, "tuned", "tiny-mrl")
    assert [system.own_name for system in lineup.networks] == ["own backbone (trained)", "unmodified backbone"]
    assert lineup.reference == ("unmodified backbone", 192)
    assert _open(place, "tuned").reference == ("own backbone (trained)", 192)
    assert _open(place, "tuned").systems[0].name == "matryoshka"


def test_without_backbones_and_with_a_baseline(place: Path) -> None:
    alone = _open(place, "tiny-mrl", own_backbone=False)
    assert alone.reference is None and alone.networks[0].names == ("matryoshka",)
    assert _open(place, "tiny-mrl", "other-mrl", own_backbone=False).reference == ("tiny-mrl", 256)
    based = _open(place, "tiny-mrl", "foreign.npz", baseline=str(place / "tiny.pt"))
    assert based.reference == ("baseline", 192) and based.networks[0].own_name is None
    last = based.systems[-1]
    assert isinstance(last, NetworkSystem) and last.dims == (16, 32, 64, 128, 192)


def test_files_beside_models_are_cut_to_the_same_dims_and_shorter_ones_taken_whole(place: Path) -> None:
    lineup = _open(place, "foreign.npz", "tiny-mrl", dims=(16, 192))
    assert [system.dims for system in lineup.systems] == [(16, 100), (16, 192)]
    assert lineup.reference == ("unmodified backbone", 192)
    assert _open(place, "foreign.npz").reference is None


def test_what_cannot_be_compared(place: Path) -> None:
    with pytest.raises(InputError, match="named twice"):
        _open(place, "tiny-mrl", "tiny-mrl")
    with pytest.raises(InputError, match=r"1\.\.256"):
        _open(place, "tiny.pt", "tiny-mrl", dims=(16, 257))
    with pytest.raises(InputError, match=r"1\.\.192"):
        _open(place, "tiny.pt", dims=(16, 193))
    with pytest.raises(InputError, match="baseline does not go with"):
        _open(place, "foreign.npz", baseline="b2")
    with pytest.raises(InputError, match="no system"):
        open_lineup([])
