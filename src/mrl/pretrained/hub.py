"""Model folders and checkpoints on the Hugging Face Hub: fetched into its cache, shared with others (extra ``hub``)."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from mrl.bounded import said
from mrl.errors import CheckpointError, DownloadError, InputError, MissingDependencyError
from mrl.version import __version__

MODEL_FILES = ("config.json", "model.safetensors", "calibration.json", "README.md")
"""What a model folder holds, and nothing else is fetched or shared with it."""

CHECKPOINT_PATTERNS = ("*.pt", "*.pth")

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def is_hub_name(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is ``org/name`` or ``org/name@revision`` of a repository, rather than a path.

    It is a path where something lies there, or where its first part is a folder.
    """
    text, _ = split_hub_name(os.fspath(name))
    return _NAME.fullmatch(text) is not None and not Path(text).exists() and not Path(text).parent.is_dir()


def split_hub_name(name: str) -> tuple[str, str | None]:
    """Return repository and revision of ``org/name@revision``; the revision is None where none is given."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def fetch_model_folder(repository: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder in the Hub's cache that holds a shared model, fetched where it is not there yet.

    With ``HF_HUB_OFFLINE=1``, or where the Hub cannot be reached, what is in the cache is used. The hash of the weights is
    checked when the folder is read.

    Args:
        repository: ``org/name``.
        revision: a branch, tag or commit; a commit never changes. The newest of ``main`` by default.
        token: of the Hub; by default the one that ``hf auth login`` or ``HF_TOKEN`` gave.

    Raises:
        DownloadError: there is no such repository, revision or cached copy, it may not be read, or the Hub cannot be reached.
        CheckpointError: the repository holds no model of this package.
        MissingDependencyError: ``huggingface_hub`` is not installed.
    """
    folder = _snapshot(repository, revision, token, MODEL_FILES)
    missing = [name for name in MODEL_FILES[:2] if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{repository} on the Hub has no {' and no '.join(missing)}; expected a folder of save_pretrained")
    return folder


def fetch_hub_checkpoint(repository: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Return the only official checkpoint (``.pt``) of a repository, as :func:`fetch_model_folder` does.

    Raises:
        CheckpointError: the repository holds none, or several.
        DownloadError, MissingDependencyError: as for :func:`fetch_model_folder`.
    """
    folder = _snapshot(repository, revision, token, CHECKPOINT_PATTERNS)
    found = sorted(path for pattern in CHECKPOINT_PATTERNS for path in folder.rglob(pattern))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:5]) or "none"
        raise CheckpointError(f"{repository} on the Hub should hold one official checkpoint (.pt); found {names}")
    return found[0]


def push_model_folder(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    card: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a model folder: weights, configuration, card, and the calibration where there is one. Return the commit's address.

    Args:
        folder: as ``save_pretrained`` writes it.
        repository: ``org/name``; made if absent.
        card: text of ``README.md`` instead of the folder's.
        private: of a new repository.
        revision: branch to commit to, made if absent; ``main`` by default.
        message: of the commit.
        token: as for :func:`fetch_model_folder`.

    Raises:
        InputError: ``repository`` is not of the form ``org/name``.
        DownloadError: the Hub refuses (a token that was revoked or may not write) or cannot be reached.
        MissingDependencyError: ``huggingface_hub`` is not installed.
    """
    if _NAME.fullmatch(repository) is None:
        raise InputError(f"{repository!r} is no repository of the Hub; expected org/name")
    hub = _library()
    source = Path(folder)
    with _errors_of(hub, repository, revision):
        api = hub.HfApi(endpoint=_endpoint(), token=token, library_name="redimnet-mrl", library_version=__version__)
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        files = {name: source / name for name in MODEL_FILES if (source / name).is_file()}
        contents = {name: path if name != "README.md" or card is None else card.encode() for name, path in files.items()}
        commit = api.create_commit(
            repository,
            [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()],
            commit_message=message or f"Model folder of redimnet-mrl {__version__}",
            revision=revision,
        )
    return str(commit.commit_url)


def _snapshot(repository: str, revision: str | None, token: str | None, patterns: tuple[str, ...]) -> Path:
    hub = _library()
    with _errors_of(hub, repository, revision):
        return Path(
            hub.snapshot_download(
                repository,
                revision=revision,
                token=token,
                allow_patterns=list(patterns),
                endpoint=_endpoint(),
                library_name="redimnet-mrl",
                library_version=__version__,
            )
        )


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _library() -> ModuleType:
    try:
        importlib.import_module("huggingface_hub.errors")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingDependencyError(
            'models of the Hugging Face Hub need huggingface_hub: pip install "redimnet-mrl[hub]"; a model folder or file that '
            "should be here does not exist"
        ) from error


@contextlib.contextmanager
def _errors_of(hub: ModuleType, repository: str, revision: str | None) -> Iterator[None]:
    """Turn what the library raises into one line."""
    errors = hub.errors
    at = "" if revision is None else f" at revision {revision}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(f"{repository} is gated: accept its conditions on its page, then log in (hf auth login)") from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{repository} on the Hub has no revision {revision!r}; give a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{repository} is neither here nor on the Hub, or it is private and your token may not read it (hf auth login)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise DownloadError(
            f"{repository}{at} is not in the Hub's cache, and the Hub cannot be reached; check HF_HUB_OFFLINE and the network"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise DownloadError(
                f"the Hub refuses your token for {repository} ({status}): revoked, or without the right; log in (hf auth login)"
            ) from error
        raise DownloadError(f"{repository}{at} on the Hub: {said(error, most=300)}") from error
