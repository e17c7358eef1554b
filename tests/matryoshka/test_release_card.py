"""What is stated about a released model: kept in config.json, told by the card, refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrl.backbone import ReDimNet
from mrl.errors import CheckpointError
from mrl.matryoshka import ReDimNetMRL, create_mrl
from mrl.pretrained import Release, ReleaseCorpus, ReleaseRate, ReleaseResult

RELEASE = Release(
    name="tiny-demo",
    notice="tiny-demo is for tests.",
    licence="CC-BY-4.0",
    num_parameters=12_345,
    training_speakers=3,
    corpora=(
        ReleaseCorpus("three voices", "training", 3, 1200, 1.26, "CC-BY-4.0", "a choir"),
        ReleaseCorpus("hum", "noise", None, 2, 0.5, "MIT", "a fridge"),
    ),
    results=(
        ReleaseResult(
            "easy",
            "chosen on it",
            4,
            5678,
            (ReleaseRate("this model", 16, 0.0712, 0.05, 0.091), ReleaseRate("this model", 256, 0.03, 0.02, 0.04)),
            (ReleaseRate("backbone alone", 192, 0.0456, 0.03, 0.06),),
        ),
    ),
    intended_use=("For testing.",),
    limits=("For nothing else.",),
    making={"seed": 7, "commit": "abc"},
)


def test_it_comes_back_the_same() -> None:
    assert Release.from_dict(json.loads(json.dumps(RELEASE.to_dict()))) == RELEASE
    assert RELEASE.rate("easy", 256).equal_error_rate == 0.03


@pytest.mark.parametrize("key", ["corpora", "notice", "results"])
def test_what_is_missing_is_named(key: str) -> None:
    values = {name: value for name, value in RELEASE.to_dict().items() if name != key}
    with pytest.raises(CheckpointError, match=key):
        Release.from_dict(values)


def test_card(backbone: ReDimNet, tmp_path: Path) -> None:
    create_mrl(backbone).save_pretrained(tmp_path, release=RELEASE)
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    for line in (
        "license: cc-by-4.0",
        "# tiny-demo",
        "**tiny-demo is for tests.**",
        'model = ReDimNetMRL.from_pretrained("tiny-demo")',
        "| licence | CC-BY-4.0 |",
        "| parameters | 12,345 |",
        "- For testing.",
        "- For nothing else.",
        "**easy** (5,678 trials of 4 speakers; chosen on it)",
        "| dimensions | 16 | 192 | 256 |",
        "| this model | 7.12 (5.0–9.1) | – | 3.00 (2.0–4.0) |",
        "| backbone alone | – | 4.56 (3.0–6.0) | – |",
        "| three voices | training | 3 | 1,200 | 1.3 | CC-BY-4.0 | a choir |",
        "| hum | noise | – | 2 | 0.5 | MIT | a fridge |",
        "| seed | 7 |",
    ):
        assert line in lines
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["release"] == json.loads(
        json.dumps(RELEASE.to_dict())
    )


def test_a_folder_without_a_statement_loads_and_has_a_plain_card(backbone: ReDimNet, tmp_path: Path) -> None:
    create_mrl(backbone).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for key in ("release", "weights_dtype"):  # as an earlier version wrote it
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert ReDimNetMRL.from_pretrained(tmp_path).embed_dim == 256
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Error rates" not in card and "license:" not in card and "THIS_FOLDER" in card
