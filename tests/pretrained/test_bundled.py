"""The models of the package: what is there, what is stated about it, how a name is understood."""

from __future__ import annotations

import errno
import importlib.resources
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrl.errors import CheckpointError, InputError
from mrl.files import sha256_of
from mrl.matryoshka import ReDimNetMRL, get_model_info
from mrl.matryoshka.saving import model_card
from mrl.pretrained import BundledModel, bundled_models, bundled_names, copy_bundled, find_bundled, model_folder
from mrl.scoring import equal_error_rate, score_prefixes
from mrl.trials import read_trials
from mrl.trials.lists import TrialList

ROOT = Path(__file__).resolve().parents[2]
NAME = "mrl-b0-demo"
# Printed by benchmarks/build_demo_model.py, which is the only thing that may change it.
WEIGHTS_SHA256 = "a187e6c9418708ec2152bac4b049f7879d6e8d07682e75e4f1b10d65150f5e0b"


@pytest.fixture
def demo() -> BundledModel:
    found = find_bundled(NAME)
    assert found is not None
    return found


def test_the_files_are_those_that_were_built(demo: BundledModel) -> None:
    assert sorted(path.name for path in demo.folder.iterdir()) == [
        "README.md",
        "calibration.json",
        "config.json",
        "model.safetensors",
    ]
    assert sha256_of(demo.folder / "model.safetensors") == WEIGHTS_SHA256
    config = json.loads((demo.folder / "config.json").read_text(encoding="utf-8"))
    assert (config["weights_sha256"], config["weights_dtype"]) == (WEIGHTS_SHA256, "float16")
    assert (demo.folder / "model.safetensors").stat().st_size < 3_000_000


def test_they_go_into_wheel_and_source_archive() -> None:
    """hatchling takes every file of the package's folder that git does not ignore."""
    assert find_bundled(NAME).folder == Path(str(importlib.resources.files("mrl"))) / "assets" / NAME  # type: ignore[union-attr]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert (
        'packages = ["src/mrl"]' in project
        and 'include = ["src", ' in project
        and "exclude = " not in project.split("[tool.ruff]")[0]
    )
    try:
        asked = ["git", "check-ignore", "--no-index", "--verbose", f"src/mrl/assets/{NAME}/model.safetensors"]
        ignored = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not here")
    assert ignored.stdout == ""


def test_the_card_is_written_from_the_configuration_and_says_what_it_must(demo: BundledModel) -> None:
    card = (demo.folder / "README.md").read_text(encoding="utf-8")
    assert card == model_card(json.loads((demo.folder / "config.json").read_text(encoding="utf-8")))
    assert card.startswith("---\n") and "license: cc-by-4.0\n" in card and f"\n# {NAME}\n" in card
    release = demo.release
    assert "demonstration model" in release.notice and "not for any real decision" in release.notice
    assert f"{release.training_speakers} speakers" in release.notice and f"**{release.notice}**" in card
    for sentence in (*release.intended_use, *release.limits):
        assert sentence in card
    assert any("starter calibration" in limit for limit in release.limits)
    spoken = [corpus for corpus in release.corpora if corpus.speakers is not None]
    assert [corpus.licence for corpus in spoken] == ["CC-BY-4.0", "CC-BY-4.0"]
    assert sum(corpus.speakers or 0 for corpus in spoken) == release.training_speakers == 376
    assert "speechocean762" in card and "LibriSpeech" in card and "OpenSLR 101" in card and "OpenSLR 12" in card
    assert {"seed", "hardware", "commit", "command"} <= set(release.making)


def test_error_rates_at_every_length_with_intervals(demo: BundledModel) -> None:
    card = (demo.folder / "README.md").read_text(encoding="utf-8")
    assert {result.trial_list for result in demo.release.results} == {"so762-adult", "libri-test-other", "so762-child"}
    for result in demo.release.results:
        assert tuple(rate.dim for rate in result.model) == demo.mrl_dims == (16, 32, 64, 128, 192, 256)
        assert result.baseline[-1].dim == 192
        for rate in (*result.model, *result.baseline):
            assert 0 <= rate.equal_error_rate < 0.6 and 0 <= rate.low <= rate.high < 0.6
            assert f"{100 * rate.equal_error_rate:.2f} ({100 * rate.low:.1f}–{100 * rate.high:.1f})" in card
    with pytest.raises(CheckpointError, match="'so762-adult' at dim 7"):
        demo.release.rate("so762-adult", 7)


def test_loading_by_name(demo: BundledModel) -> None:
    model = ReDimNetMRL.from_pretrained(NAME)
    assert not model.training and (model.embed_dim, model.mrl_dims) == (demo.embed_dim, demo.mrl_dims)
    state = model.state_dict()
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    # A channel that never fires has none; the norm adds its epsilon.
    assert all(float(tensor.min()) >= 0 for name, tensor in state.items() if name.endswith("running_var"))
    info = get_model_info(model)
    assert info["parameters"] == demo.release.num_parameters
    assert info["pretrained_source"]["licence"] == demo.release.licence == "CC-BY-4.0"
    assert model.backbone_is_unmodified and model.backbone.embed_dim == 192


@pytest.mark.shared
def test_it_tells_speakers_apart(shared: Path) -> None:
    """A small part of so762-adult; the card has the figures of the whole."""
    corpora = shared / "corpora"
    whole = read_trials(corpora / "trials" / "so762-adult.txt.gz")
    by_speaker: dict[str, list[str]] = {}
    for name in whole.utterances:
        by_speaker.setdefault(Path(name).parent.name, []).append(name)
    chosen = [(speaker, name) for speaker in sorted(by_speaker)[:12] for name in by_speaker[speaker][:3]]
    trials = TrialList.from_pairs(
        ((one[0] == two[0], one[1], two[1]) for place, one in enumerate(chosen) for two in chosen[:place]), source="a part"
    )
    model = ReDimNetMRL.from_pretrained(NAME)
    with torch.inference_mode():
        embeddings = torch.stack([model(corpora / name) for name in trials.utterances])
    scores = score_prefixes(embeddings.numpy(), trials, (64, 256))
    assert {dim: equal_error_rate(values, trials.labels) < 0.2 for dim, values in scores.items()} == {64: True, 256: True}


def test_a_folder_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: BundledModel) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_folder(NAME) == demo.folder
    Path(NAME).mkdir()
    assert model_folder(NAME) == Path(NAME)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        ReDimNetMRL.from_pretrained(NAME)


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(CheckpointError, match=rf"mrl-b1-demo is not a folder and no model of the package \({NAME}\)") as caught:
        ReDimNetMRL.from_pretrained("mrl-b1-demo")
    assert "config.json and model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_listing_needs_no_torch() -> None:
    program = (
        "import sys, mrl; names = [one.name for one in mrl.bundled_models()]; sys.exit('torch' in sys.modules or names == [])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_copying(tmp_path: Path, demo: BundledModel) -> None:
    copied = copy_bundled(NAME, tmp_path / "mine")
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == {
        path.name: path.read_bytes() for path in demo.folder.iterdir()
    }
    with pytest.raises(InputError, match="is there already"):
        copy_bundled(NAME, copied)
    with pytest.raises(InputError, match=rf"'b2'; there is {NAME}"):
        copy_bundled("b2", tmp_path / "other")


def test_a_copy_onto_a_full_disk_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        if source.name == "model.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr("mrl.pretrained.bundled.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        copy_bundled(NAME, tmp_path / "mine")
    assert not (tmp_path / "mine" / "config.json").exists() and not list((tmp_path / "mine").glob(".*tmp*"))


@pytest.mark.parametrize("damage", ["{", '{"embed_dim": 256}', '{"embed_dim": 256, "mrl_dims": [256], "release": {"name": "x"}}'])
def test_a_damaged_package_is_one_line(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl.pretrained.bundled.importlib.resources.files", lambda _: tmp_path)
    assert bundled_models() == () and bundled_names() == ()
    (tmp_path / "assets" / "broken").mkdir(parents=True)
    (tmp_path / "assets" / "broken" / "config.json").write_text(damage)
    with pytest.raises(CheckpointError, match="broken of the package is damaged .*install the package again") as caught:
        bundled_models()
    assert "\n" not in str(caught.value)
