"""Model folders: ``model.safetensors`` + ``config.json`` + a model card. No pickle anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mrl.errors import CheckpointError
from mrl.files import atomic_path, sha256_of, write_json, write_text
from mrl.matryoshka.model_card import model_card
from mrl.pretrained import bundled_names
from mrl.version import __version__

FORMAT = "redimnet-mrl/1"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"


def write_model_folder(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights, model card and ``config.json``, each atomically.

    The configuration is the description with format, version and the hash of the weights. It goes last, so a half-written pair is
    noticed.

    Args:
        folder: made if absent.
        tensors: the model's state.
        description: what :func:`read_model_folder` needs to give back, as JSON-able values.
    """
    target = Path(folder)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(target / WEIGHTS) as temporary:
        save_file(contiguous, temporary, metadata={"format": FORMAT})
    config = {
        "format": FORMAT,
        "version": __version__,
        **description,
        "pretrained_source": _shareable(description["pretrained_source"]),
        "weights_sha256": sha256_of(target / WEIGHTS),
    }
    write_text(target / CARD, model_card(config))
    write_json(target / CONFIG, config)


def read_model_folder(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read ``config.json`` and the weights that it describes.

    Raises:
        CheckpointError: the folder or a file in it is absent, damaged or of another kind, or the two do not belong together.
    """
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
        return config, load_file(weights)
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is damaged ({error}); copy the whole model folder again") from error


def _shareable(source: dict[str, Any] | None) -> dict[str, Any] | None:
    """Keep the file's name, not where it lay on the machine that saved the model."""
    return {**source, "file": Path(source["file"]).name} if source and source.get("file") else source


def read_model_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check ``config.json`` of a model folder.

    Raises:
        CheckpointError: absent, not JSON, of another format or lacking a key.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        bundled = f" and no model of the package ({', '.join(bundled_names()) or 'there is none'})"
        what = f"is not a folder{bundled}" if not Path(folder).is_dir() else f"has no {CONFIG}"
        raise CheckpointError(f"{folder} {what}; expected a model folder as save_pretrained writes it ({CONFIG} and {WEIGHTS})")
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
