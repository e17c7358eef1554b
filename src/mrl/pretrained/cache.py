"""The folder where torch.hub keeps checkpoints, and the small record that is kept beside each file in it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from mrl.bounded import read_json
from mrl.bounded import record as record_of
from mrl.errors import DownloadError
from mrl.files import write_json


@dataclass(frozen=True)
class CacheRecord:
    """What is remembered about one file. The default is what is known before its first use."""

    sha256: str | None = None
    """Hash at first use."""
    num_bytes: int | None = None
    source: str | None = None
    """Address or path where it came from at first use."""
    licence_shown: bool = False
    """Whether the user has been shown the licence of non-commercial weights."""


def checkpoint_folder() -> Path:
    """Return the folder that ``torch.hub.load_state_dict_from_url`` and hence the official code caches files in.

    ``torch.hub.set_dir(folder)`` or the environment variable ``TORCH_HOME`` moves it.
    """
    import torch.hub  # Slow to import, and listing checkpoints does not need it.

    return Path(os.path.join(torch.hub.get_dir(), "checkpoints"))  # noqa: PTH118 (as torch.hub itself joins it)


def record_path(file_name: str) -> Path:
    """Return the path of a file's record."""
    return checkpoint_folder() / f"{file_name}.mrl.json"


def read_record(file_name: str) -> CacheRecord:
    """Return what is remembered about a file.

    Raises:
        DownloadError: the record exists but cannot be read.
    """
    path = record_path(file_name)
    try:
        return record_of(CacheRecord, read_json(path, error=DownloadError), "it", error=DownloadError)
    except FileNotFoundError:
        return CacheRecord()
    except DownloadError as error:
        raise DownloadError(f"the record {path} is damaged ({error}); delete it, and the file is recorded again") from error


def write_record(file_name: str, record: CacheRecord) -> None:
    """Remember something about a file.

    Raises:
        OSError: the cache cannot be written to.
    """
    write_json(record_path(file_name), asdict(record))
