"""The models that come with the package: no download, no network."""

from __future__ import annotations

import importlib.resources
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from mrl.bounded import read_json_object
from mrl.errors import CheckpointError, InputError
from mrl.files import atomic_path
from mrl.pretrained.hub import fetch_model_folder, is_hub_name, split_hub_name
from mrl.pretrained.release import Release

_CONFIG = "config.json"


@dataclass(frozen=True)
class BundledModel:
    """One model of the package.

    Attributes:
        name: ``ReDimNetMRL.from_pretrained(name)`` loads it, and ``--model name`` of the command line.
        folder: the model folder; belongs to the package, so nothing is written there.
        embed_dim: length of the full embedding.
        mrl_dims: the prefix lengths that it was trained for.
        release: data, licence, measured error rates, what it is for.
    """

    name: str
    folder: Path
    embed_dim: int
    mrl_dims: tuple[int, ...]
    release: Release


def bundled_models() -> tuple[BundledModel, ...]:
    """Return the models that come with the package, by name.

    Raises:
        CheckpointError: the package is damaged.
    """
    return tuple(_read(folder) for folder in _folders())


def find_bundled(name: str | os.PathLike[str]) -> BundledModel | None:
    """Return the model of the package that has this name, or None."""
    return next((_read(folder) for folder in _folders() if folder.name == os.fspath(name)), None)


def bundled_names() -> tuple[str, ...]:
    """Return the names of the models that come with the package."""
    return tuple(folder.name for folder in _folders())


def model_folder(name_or_folder: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder that is meant: a folder that exists, or else the model of the package that has this name.

    A local folder wins over a model of the package with the same name. A name ``org/name`` that is neither is looked up on the
    Hub (:func:`mrl.pretrained.fetch_model_folder`). Anything else is returned unchanged.

    Args:
        name_or_folder: as said; ``org/name@revision`` names a revision, too.
        revision: of a repository on the Hub.
        token: of the Hub.

    Raises:
        InputError: a revision of what is no repository.
        DownloadError, CheckpointError, MissingDependencyError: as for :func:`mrl.pretrained.fetch_model_folder`.
    """
    path, name = Path(name_or_folder), os.fspath(name_or_folder)
    own = path if path.is_dir() else next((folder for folder in _folders() if folder.name == name), None)
    if own is None and is_hub_name(name):
        repository, given = split_hub_name(name)
        return fetch_model_folder(repository, revision=revision or given, token=token)
    if revision is not None:
        raise InputError(f"{name} is no repository of the Hub (org/name), so it has no revision {revision!r}")
    return path if own is None else own


def copy_bundled(name: str, folder: str | os.PathLike[str]) -> Path:
    """Copy a model of the package into a local folder, where it may be calibrated, and return the folder.

    Raises:
        InputError: there is no such model, or the folder has something in it.
        OSError: it cannot be written.
    """
    bundled = find_bundled(name)
    if bundled is None:
        raise InputError(f"no model of the package is called {name!r}; there is {', '.join(bundled_names()) or 'none'}")
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already; give a new or empty folder")
    # The configuration goes last: a folder without it is no model folder.
    for file in sorted(bundled.folder.iterdir(), key=lambda path: path.name == _CONFIG):
        with atomic_path(target / file.name) as temporary:
            shutil.copyfile(file, temporary)
    return target


def _folders() -> list[Path]:
    # A package that is run from an archive has no folders that weights could be mapped from; it then has no such models.
    assets = Path(str(importlib.resources.files("mrl"))) / "assets"
    return sorted(path.parent for path in assets.glob(f"*/{_CONFIG}")) if assets.is_dir() else []


def _read(folder: Path) -> BundledModel:
    try:
        config = read_json_object(folder / _CONFIG, error=CheckpointError)
        release = Release.from_dict(config["release"])
        return BundledModel(folder.name, folder, int(config["embed_dim"]), tuple(config["mrl_dims"]), release)
    except (OSError, ValueError, KeyError, TypeError, CheckpointError) as error:
        raise CheckpointError(f"{folder} of the package is damaged ({error}); install the package again") from error
