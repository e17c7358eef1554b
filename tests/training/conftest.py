"""A tiny network in the official format, tiny corpora of synthetic voices, and a configuration that trains one on the other."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mrl.audio import write_synthetic_corpus
from mrl.backbone import ReDimNet, ReDimNetConfig
from mrl.matryoshka import ReDimNetMRL, create_mrl
from mrl.pretrained import write_official_checkpoint
from mrl.training import TrainConfig, load_config
from mrl.training import run as selection
from mrl.training.logs import MetricsFile

TINY_NETWORK: dict[str, Any] = {
    "F": 12,
    "C": 4,
    "block_1d_type": "conv+att",
    "block_2d_type": "basic_resnet",
    "stages_setup": [[1, 1, 1, [[3, 3]], 6], [2, 1, 1, [[3, 3]], 6]],
    "group_divisor": 1,
    "out_channels": None,
    "embed_dim": 24,
    "hop_length": 240,
    "pooling_func": "ASTP",
    "global_context_att": False,
    "emb_bn": False,
}
ConfigFactory = Callable[..., TrainConfig]


@pytest.fixture
def drawn_curves() -> None:
    """For tests of a run's curves."""


@pytest.fixture(autouse=True)
def undrawn_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the tiny runs themselves; it is left to the tests that ask for ``drawn_curves``."""
    if "drawn_curves" not in request.fixturenames:
        monkeypatch.setattr(selection, "write_curves", lambda *_: None)


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train`` (5 voices x 4 utterances), ``validation`` (3 x 3) and ``tiny.pt``."""
    folder = tmp_path_factory.mktemp("voices")
    write_synthetic_corpus(folder / "train", num_speakers=5, utterances_per_speaker=4, seconds=(0.5, 0.8), seed=1)
    write_synthetic_corpus(folder / "validation", num_speakers=3, utterances_per_speaker=3, seconds=(0.5, 0.8), seed=99)
    write_official_checkpoint(folder / "tiny.pt", *tiny_network().to_official())
    return folder


def tiny_network() -> ReDimNet:
    """The network of ``tiny.pt``, with BatchNorm statistics as of real data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ReDimNet(ReDimNetConfig.from_model_config(TINY_NETWORK))
        network.train()
        for _ in range(3):
            network(torch.randn(8, 8000) * 0.1)
    return network.eval()


@pytest.fixture
def tiny_model() -> ReDimNetMRL:
    return create_mrl(tiny_network(), embed_dim=32, mrl_dims=(4, 16, 32))


@pytest.fixture
def make_config(voices: Path, tmp_path: Path) -> ConfigFactory:
    """``make_config(**{"training.num_epochs": 2})`` -> a configuration of a small, complete run below ``tmp_path``."""

    def make(**changes: Any) -> TrainConfig:
        return load_config([write_config(voices, tmp_path / "config.yaml", changes)])

    return make


def write_config(voices: Path, path: Path, changes: dict[str, Any]) -> Path:
    """Write the configuration of a small run as YAML; keys of ``changes`` are dotted."""
    tree: dict[str, Any] = copy.deepcopy(
        {
            "data": {
                "train": {"folder": str(voices / "train")},
                "validation": {"folder": str(voices / "validation")},
                "crop_seconds": 0.4,
            },
            "model": {"embed_dim": 32, "mrl_dims": [4, 16, 32]},
            "training": {"num_epochs": 3, "batch_size": 8, "output_dir": str(path.parent / "run"), "log_every_steps": 1},
            "advanced": {"weights": str(voices / "tiny.pt"), "freeze_backbone_epochs": 2, "cache_views": 2},
        }
    )
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = copy.deepcopy(value)
    path.write_text(yaml.safe_dump(tree))
    return path


@contextlib.contextmanager
def dying_after(records: int, *, may_live: bool = False) -> Iterator[None]:
    """Let the run within the block die when it has logged so many records: nothing of it survives but its files.

    Args:
        records: how many it may log.
        may_live: whether it may end before; otherwise it must die.
    """
    append, left = MetricsFile.append, [records]

    def dying(self: MetricsFile, record: dict[str, Any]) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        append(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsFile, "append", dying)
        with contextlib.suppress(KeyboardInterrupt) if may_live else pytest.raises(KeyboardInterrupt):
            yield
