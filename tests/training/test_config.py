"""Reading configurations: defaults, overlays, overrides, old spellings, and errors that help."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import mrl.training
from mrl.errors import ConfigError
from mrl.training import TrainConfig, load_config, save_config
from mrl.training.config_loading import PATH_KEYS

ROOT = Path(__file__).resolve().parents[2]


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def leaves(model: type[BaseModel], place: str = "") -> dict[str, Any]:
    """Dotted names of all keys, with their fields."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= leaves(inner, f"{place}{name}.")
        else:
            found[f"{place}{name}"] = field
    return found


def test_files_and_overrides_in_order(tmp_path: Path) -> None:
    first = _write(tmp_path / "a.yaml", "training: {batch_size: 8, num_epochs: 30}\nloss: {margin: 0.1}\n")
    second = _write(tmp_path / "b.yaml", "training: {batch_size: 16}\n")
    config = load_config([first, second], ["training.learning_rate=1e-4", "model.mrl_dims=[8, 256]", "loss.type=subcenter_aam"])
    assert (config.training.batch_size, config.training.num_epochs, config.loss.margin) == (16, 30, 0.1)
    assert config.training.learning_rate == 1e-4  # YAML alone would take 1e-4 for text
    assert config.model.dims == (8, 256)
    assert config.loss.type == "subcenter_aam"


def test_paths_start_from_their_file_and_overrides_from_the_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _write(
        tmp_path / "configs" / "a.yaml",
        "data:\n  train: {manifest: ../lists/train.csv, root: /speech}\n  augmentation: {noise_folders: [noise, ~/n]}\n"
        "training: {output_dir: ../runs/x}\nadvanced: {weights: 'https://example.org/b0.pt'}\n",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config([Path("configs/a.yaml")], ["data.validation.trials=lists/t.txt"])
    assert config.data.train.manifest == str(tmp_path / "lists/train.csv")
    assert config.data.train.root == "/speech"
    assert config.data.augmentation.noise_folders == [str(tmp_path / "configs/noise"), "/home/someone/n"]
    assert config.training.output_dir == str(tmp_path / "runs/x")
    assert config.data.validation.trials == str(tmp_path / "lists/t.txt")
    assert config.advanced.weights == "https://example.org/b0.pt"
    assert file.exists()


def test_old_spellings(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.yaml", "data: {train_dataset: speech/train, val_dataset: lists/trials.txt.gz}\n")
    config = load_config([file])
    assert config.data.train.folder == str(tmp_path / "speech/train")
    assert config.data.validation.trials == str(tmp_path / "lists/trials.txt.gz")
    config = load_config([file], ["data.train_dataset=/x/list.tsv", "data.val_dataset=/x/speakers"])
    assert (config.data.train.manifest, config.data.train.folder) == ("/x/list.tsv", None)
    assert (config.data.validation.folder, config.data.validation.trials) == ("/x/speakers", None)
    with pytest.raises(ConfigError, match=r"give data\.train or the older data\.train_dataset"):
        load_config([_write(tmp_path / "b.yaml", "data: {train_dataset: x, train: {folder: y}}\n")])
    with pytest.raises(ConfigError, match=r"data\.val_dataset must be a path"):
        load_config([_write(tmp_path / "b.yaml", "data: {val_dataset: {folder: y}}\n")])


def test_a_later_source_replaces_the_earlier_one(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.yaml", "data: {train: {manifest: /a.csv, root: /r, where: {part: train, x: 1}}}\n")
    assert load_config([file], ["data.train.folder=/f"]).data.train.model_dump() == {
        "folder": "/f",
        "manifest": None,
        "shards": None,
        "root": None,
        "where": {},
        "exclude": None,
        "unlabelled": False,
    }
    assert load_config([file], ["data.train.where={part: dev}"]).data.train.where == {"part": "dev"}
    assert load_config([file], ["data.train.where.part=dev"]).data.train.where == {"part": "dev"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {batchsize: 3}", r"a\.yaml: unknown key training\.batchsize; did you mean training\.batch_size\?"),
        ("trainig: {}", r"a\.yaml: unknown key trainig; did you mean training\?"),
        ("training: {embed_dim: 3}", r"unknown key training\.embed_dim; did you mean model\.embed_dim\?"),
        ("data: {augmentation: {snr: 3}}", r"unknown key data\.augmentation\.snr"),
        ("loss: {zzz: 1}", r"unknown key loss\.zzz; known here: type, margin"),
        ("training: {batch_size: many}", r"a\.yaml: training\.batch_size: .*valid integer.*\(found 'many'\)"),
        ("training: {batch_size: 0}", r"training\.batch_size: .*greater than or equal to 1.*\(found 0\)"),
        ("training: {precision: fp8}", r"training\.precision: .*'fp32', 'bf16' or 'fp16' \(found 'fp8'\)"),
        ("training: {learning_rate: .nan}", r"training\.learning_rate"),
        ("training: 3", r"training is 3, expected keys such as num_epochs"),
        ("training:", r"training is empty"),
        ("- 1", r"holds a list, expected sections"),
        ("training: {a: [}", r"is not YAML"),
        ("loss: {margin: 1}\nloss: {scale: 2}", r"key 'loss' stands twice"),
        ("model: {mrl_dims: [64, 512]}", r"mrl_dims must be distinct and lie in 1\.\.embed_dim=256"),
        ("model: {mrl_dims: [64, 256], mrl_weights: [1]}", r"one weight for each"),
        ("model: {mrl_dims: [64], mrl_weights: [1]}", r"embed_dim=256 among them"),
        ("model: {mrl_dims: [64, 256], mrl_weights: [0, 0]}", r"not all 0"),
        ("data: {train: {folder: a, manifest: b}}", r"give folder or manifest"),
        ("data: {train: {folder: a, where: {x: 1}}}", r"a folder is taken whole"),
        ("data: {validation: {folder: a, trials: b}}", r"give trials or folder"),
        ("data: {validation: {root: a}}", r"root belongs to trials"),
        ("data: {augmentation: {noise_snr_db: [20, 0]}}", r"noise_snr_db must be \[lowest, highest\]"),
        ("advanced: {use_pretrained: false, teacher_pull: 1}", r"need a pretrained start"),
        ("loss: {type: softmax}", r"loss\.type: .*'sphereface2'.*\(found 'softmax'\)"),
        ("advanced: {teacher_init: pca}", r"teacher_init has no use without loss\.similarity_weight"),
        (
            "{loss: {similarity_weight: 1}, advanced: {teacher_init: pca, teacher_pull: 1}}",
            r"another advanced\.teacher_init rotates; choose one",
        ),
        ("loss: {type: none}", r"type: none leaves nothing to minimise; set loss\.similarity_weight"),
        ("loss: {type: none, similarity_weight: 1, dim_dropout: 0.5}", r"no meaning with type: none"),
        ("loss: {type: sphereface2, topk_penalty: 0.06}", r"topk_penalty belongs to aam and subcenter_aam"),
        ("loss: {type: angular_prototypical}", r"set data\.crops_per_speaker to 2 or more \(found 1\)"),
        ("loss: {type: supervised_contrastive}", r"set data\.crops_per_speaker to 2 or more \(found 1\)"),
        ("loss: {mrl_margins: [0.1, 0.2]}", r"mrl_margins needs model\.mrl_dims, and one margin for each"),
        ("loss: {mrl_margins: [0.1], margin: 0}", r"need a margin above 0"),
        ("loss: {mrl_margins: [0.1, 1.0], finetune_margin: 0.4}", r"below 1\.5, in stage 2 too"),
        ("loss: {mrl_margins: [-0.1, 1.0]}", r"mrl_margins must stay from 0"),
        ("data: {train: {unlabelled: true}}", r"data\.train\.unlabelled needs loss\.type: none"),
        (
            "{data: {train: {unlabelled: true}}, loss: {type: none, similarity_weight: 1}, advanced: {projection_init: lda}}",
            r"cannot use advanced\.projection_init: lda",
        ),
        (
            "{data: {train: {unlabelled: true}}, loss: {type: none, similarity_weight: 1}, advanced: {teacher_init: lda}}",
            r"cannot use advanced\.teacher_init: lda",
        ),
        ("advanced: {freeze_backbone_epochs: 21}", r"more than training\.num_epochs"),
    ],
)
def test_errors_name_key_and_file_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config([_write(tmp_path / "a.yaml", text + "\n")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["training.batch_size", "batch_size=3", "=3", "training.=3", "training.batch_size=[3"])
def test_bad_overrides(override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        load_config([], [override])


def test_errors_in_overrides_are_said_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^command line: training\.seed"):
        load_config([_write(tmp_path / "a.yaml", "training: {seed: 1}")], ["training.seed=-1"])
    with pytest.raises(ConfigError, match="does not exist"):
        load_config([tmp_path / "none.yaml"])


def test_saved_is_read_back(tmp_path: Path) -> None:
    config = load_config([], ["data.train.manifest=x.csv", "data.train.where={part: [a, b]}", "model.embed_dim=128"])
    save_config(config, tmp_path / "deep" / "config.yaml")
    assert load_config([tmp_path / "deep" / "config.yaml"]) == config


def test_dims_follow_embed_dim() -> None:
    assert load_config([]).model.dims == (16, 32, 64, 128, 192, 256)
    assert load_config([], ["model.embed_dim=100"]).model.dims == (16, 32, 64, 100)


def test_the_root_config_names_every_key_at_its_default() -> None:
    tree = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))

    def flat(values: dict[str, Any], place: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            if isinstance(value, dict) and f"{place}{key}" not in leaves(TrainConfig):
                found |= flat(value, f"{place}{key}.")
            else:
                found[f"{place}{key}"] = value
        return found

    written = flat(tree)
    defaults = {key: field.get_default(call_default_factory=True) for key, field in leaves(TrainConfig).items()}
    assert set(written) == set(defaults)
    own = {"data.train.folder", "data.validation.folder"}  # a place for the user's own data
    different = {key for key in defaults if key not in own and written[key] != _plain(defaults[key])}
    assert different == set()
    load_config([ROOT / "config.yaml"])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_configs_load_alone_and_over_the_root(path: Path) -> None:
    load_config([path])
    load_config([ROOT / "config.yaml", path])


def test_every_key_has_a_description_and_is_read_by_code() -> None:
    folder = Path(mrl.training.__file__).parent
    code = "\n".join(path.read_text() for path in folder.glob("*.py") if not path.name.startswith("config"))
    code += "\n".join(path.read_text() for path in (folder.parent / "matryoshka").glob("*.py"))  # by their names
    code += (folder / "config.py").read_text().split("class TrainConfig", 1)[1]
    for key, field in leaves(TrainConfig).items():
        assert field.description, key
        name = key.rsplit(".", 1)[1]
        assert re.search(rf"[.\"]{name}\b", code), f"{key} is never read"


def test_path_keys_exist() -> None:
    assert set(PATH_KEYS) <= set(leaves(TrainConfig))
    for key in leaves(TrainConfig):
        if re.search(r"folder|dir$|root$|manifest$|trials$", key.rsplit(".", 1)[1]):
            assert key in PATH_KEYS, key


def test_names_that_were_not_given_say_nothing_about_a_file_of_weights(tmp_path: Path) -> None:
    config = load_config([], ["advanced.weights=mine.pt"])
    assert config.advanced.model_name == "b2" and "model_name" not in config.advanced.model_fields_set
    save_config(config, tmp_path / "saved.yaml")
    again = load_config([tmp_path / "saved.yaml"])
    assert again.to_dict() == config.to_dict() and "model_name" not in again.advanced.model_fields_set
    named = load_config([], ["advanced.weights=mine.pt", "advanced.model_name=b2"])
    save_config(named, tmp_path / "named.yaml")
    assert "model_name" in load_config([tmp_path / "named.yaml"]).advanced.model_fields_set
