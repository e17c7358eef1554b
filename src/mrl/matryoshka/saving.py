"""Model folders: ``model.safetensors`` + ``config.json`` + a model card. No pickle anywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mrl.backbone import ReDimNet, ReDimNetConfig
from mrl.errors import CheckpointError, MRLError
from mrl.files import atomic_path, sha256_of, write_json, write_text
from mrl.version import __version__

if TYPE_CHECKING:
    from mrl.matryoshka.model import ReDimNetMRL

FORMAT = "redimnet-mrl/1"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"


def save_model(model: ReDimNetMRL, folder: str | os.PathLike[str], *, training: dict[str, Any] | None = None) -> None:
    """Write the model folder; the configuration goes last and names the weights' hash, so a half-written pair is noticed."""
    from mrl.matryoshka.model_card import model_card

    target = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(target / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT})
    config = {
        "format": FORMAT,
        "version": __version__,
        "embed_dim": model.embed_dim,
        "mrl_dims": list(model.mrl_dims),
        "sample_rate": model.sample_rate,
        "backbone_is_unmodified": model.backbone_is_unmodified,
        "pretrained_source": _shareable(model.backbone.pretrained_source),
        "model_config": model.backbone.config.to_model_config(),
        "weights_sha256": sha256_of(target / WEIGHTS),
        "training": training,
    }
    write_text(target / CARD, model_card(config))
    write_json(target / CONFIG, config)


def _shareable(source: dict[str, Any] | None) -> dict[str, Any] | None:
    """Keep the file's name, not where it lay on the machine that saved the model."""
    return {**source, "file": Path(source["file"]).name} if source and source.get("file") else source


def load_model(folder: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> ReDimNetMRL:
    """Load a model folder in eval mode; see :meth:`ReDimNetMRL.from_pretrained`."""
    from mrl.matryoshka.model import ReDimNetMRL

    source = Path(folder)
    config = read_model_config(source)
    weights = source / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{source} has no {WEIGHTS}; copy the whole model folder again")
    if sha256_of(weights) != config["weights_sha256"]:
        raise CheckpointError(
            f"{weights} is not the file that {CONFIG} beside it describes (SHA-256 differs); copy the whole folder again"
        )
    try:
        tensors = load_file(weights)
        network = ReDimNetConfig.from_model_config(config["model_config"])
        model = ReDimNetMRL(ReDimNet(network), config["embed_dim"], config["mrl_dims"])
        model.load_state_dict(tensors, strict=True)
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is damaged ({error}); copy the whole model folder again") from error
    except (RuntimeError, MRLError) as error:
        detail = " ".join(str(error).split())
        raise CheckpointError(f"{source} does not hold the model that its {CONFIG} describes: {detail}") from error
    model.backbone.pretrained_source = config["pretrained_source"]
    model.backbone_is_unmodified = bool(config["backbone_is_unmodified"])
    return model.to(device).eval()


def read_model_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check ``config.json`` of a model folder.

    Raises:
        CheckpointError: absent, not JSON, of another format or lacking a key.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        what = "is not a folder" if not Path(folder).is_dir() else f"has no {CONFIG}"
        raise CheckpointError(f"{folder} {what}; expected a model folder as save_pretrained writes it")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); copy the model folder again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{path} has the format {found!r}; this version reads {FORMAT!r}")
    needed = ("embed_dim", "mrl_dims", "backbone_is_unmodified", "pretrained_source", "model_config", "weights_sha256")
    missing = [key for key in needed if key not in config]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; copy the model folder again")
    return config
