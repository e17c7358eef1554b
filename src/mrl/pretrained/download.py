"""From a name, a path or an address to a verified checkpoint file on this machine.

Released files live in torch.hub's cache under their official names, so that files which the official code has fetched are found.
The release's tag is mutable: a file is checked against its known hash, or else against the hash recorded at its first use.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from mrl.errors import CheckpointError, DownloadError, InputError
from mrl.files import sha256_of
from mrl.pretrained.bundled import bundled_names
from mrl.pretrained.cache import CacheRecord, checkpoint_folder, read_record, record_path, write_record
from mrl.pretrained.registry import PretrainedCheckpoint, find_by_address, find_by_file_name, find_by_sha256
from mrl.transfer import TransferSettings as TransferSettings
from mrl.transfer import discard_partial, fetch_url, is_http_url

logger = logging.getLogger(__name__)

MIRROR_VARIABLE = "MRL_MIRROR"
"""Environment variable: a folder or base address that holds the released files under their official names."""

_LOCK_SECONDS = 3600.0
_LONGEST_NAME = 200  # file systems take 255 bytes, and names get endings here


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint file on this machine whose identity has been checked."""

    path: Path
    sha256: str
    checkpoint: PretrainedCheckpoint | None
    """Which released file it is; None for any other file."""


@dataclass(frozen=True)
class _Wanted:
    """A file for the cache, and where to get it."""

    file_name: str
    source: str
    """An http(s) address or the path of a file."""
    checkpoint: PretrainedCheckpoint | None

    @property
    def path(self) -> Path:
        return checkpoint_folder() / self.file_name

    @property
    def sha256(self) -> str | None:
        return None if self.checkpoint is None else self.checkpoint.sha256

    @property
    def num_bytes(self) -> int | None:
        return None if self.checkpoint is None else self.checkpoint.num_bytes


def fetch_checkpoint(
    checkpoint: PretrainedCheckpoint,
    *,
    force_reload: bool = False,
    progress: bool = True,
    settings: TransferSettings | None = None,
) -> LocalCheckpoint:
    """Return a released checkpoint from torch.hub's cache; download it first when it is not there.

    The environment variable ``MRL_MIRROR`` (a folder or a base address) replaces the official address. Two processes that want
    the same file at once download it once. The licence of non-commercial weights is logged as a warning, once per file and cache.

    Args:
        checkpoint: which one.
        force_reload: download even if the file is there; it is replaced only by a verified one.
        progress: show a progress bar (on a terminal only).
        settings: attempts, timeout, pauses.

    Raises:
        DownloadError: the file cannot be fetched, or is not the expected one; nothing broken stays under its name.
    """
    return _obtain(_Wanted(checkpoint.file_name, _official_source(checkpoint), checkpoint), force_reload, progress, settings)


def resolve_weights(
    weights: str | os.PathLike[str],
    checkpoint: PretrainedCheckpoint | None = None,
    *,
    force_reload: bool = False,
    progress: bool = True,
    settings: TransferSettings | None = None,
) -> LocalCheckpoint:
    """Return the checkpoint file that ``weights`` means.

    Args:
        weights: a local file (used where it is), the http(s) or file address of a file (http: kept in torch.hub's cache), or a
            mirror: a folder, or an address ending in ``/``, that holds the released files under their official names.
        checkpoint: which file of a mirror; needed for a mirror only.
        force_reload: download even if the file is in the cache.
        progress: show a progress bar (on a terminal only).
        settings: attempts, timeout, pauses.

    Raises:
        InputError: ``weights`` is neither, or is a mirror and ``checkpoint`` is None.
        DownloadError: the file cannot be fetched, or is not the expected one.
    """
    text = os.fspath(weights)
    if is_mirror(text):
        if checkpoint is None:
            raise InputError(f"weights={text!r} is a mirror; model_name, train_type and dataset must say which of its files")
        if is_http_url(text):
            wanted = _Wanted(checkpoint.file_name, text + urllib.parse.quote(checkpoint.released_name, safe="+"), checkpoint)
            return _obtain(wanted, force_reload, progress, settings)
        return _accept_in_folder(_local_path(text), checkpoint)
    if is_http_url(text):
        return _obtain(_wanted_from_address(text), force_reload, progress, settings)
    path = _local_path(text)
    if not path.exists():
        raise InputError(
            f"weights={text!r}: no such file or folder; give a checkpoint file, its address, or a folder of released files"
        )
    return _accept_own_file(path)


def is_mirror(weights: str | os.PathLike[str]) -> bool:
    """Whether ``weights`` is a folder, or an address ending in ``/``, of released files rather than one file.

    Raises:
        InputError: it is an address of a kind that cannot be read.
    """
    text = os.fspath(weights)
    return text.endswith("/") if is_http_url(text) else _local_path(text).is_dir()


def cached_checkpoint(checkpoint: PretrainedCheckpoint) -> LocalCheckpoint:
    """Return a released checkpoint that is in the cache already, checked; nothing is downloaded.

    Raises:
        DownloadError: it is not there, or is not the expected file.
    """
    wanted = _Wanted(checkpoint.file_name, _official_source(checkpoint), checkpoint)
    if not wanted.path.is_file():
        name = checkpoint.name
        raise DownloadError(f"{name} is not at {wanted.path}; download it first: mrl pretrained download {name}")
    return _accept_cached(wanted)


def _official_source(checkpoint: PretrainedCheckpoint) -> str:
    mirror = os.environ.get(MIRROR_VARIABLE, "").strip()
    if not mirror:
        return checkpoint.url
    if is_http_url(mirror):
        return mirror.rstrip("/") + "/" + urllib.parse.quote(checkpoint.released_name, safe="+")
    folder = _local_path(mirror)
    if not folder.is_dir():
        raise DownloadError(f"{MIRROR_VARIABLE}={mirror!r} is neither a folder nor an http(s) address; correct or unset it")
    return str(_in_folder(folder, checkpoint))


def _wanted_from_address(address: str) -> _Wanted:
    try:
        name = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    except ValueError as error:
        raise InputError(f"weights={address!r} is not a usable address: {error}") from error
    if not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
        raise InputError(f"weights={address!r} names no file that can be kept; fetch it by other means and pass its path")
    if not name:
        raise InputError(f"weights={address!r} names no file; end it with '/' if it is a mirror of the released files")
    checkpoint = find_by_address(address)
    if checkpoint is not None:
        return _Wanted(checkpoint.file_name, address, checkpoint)
    # Other files may share a name: the address makes it unique.
    path = Path(name)
    return _Wanted(f"{path.stem}-{hashlib.sha256(address.encode()).hexdigest()[:8]}{path.suffix}", address, None)


def _local_path(text: str) -> Path:
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError as error:
        raise InputError(f"{text!r} is not a usable address: {error}") from error
    if parts.scheme.lower() == "file":
        return Path(urllib.request.url2pathname(parts.path))
    if "://" in text:
        raise InputError(f"{text!r}: only http, https and file addresses can be read")
    return Path(text).expanduser()


def _obtain(wanted: _Wanted, force_reload: bool, progress: bool, settings: TransferSettings | None) -> LocalCheckpoint:
    if force_reload or not wanted.path.is_file():
        with _locked(wanted):
            # Another process may have fetched the file while this one waited.
            if force_reload or not wanted.path.is_file():
                _download(wanted, progress, settings)
    return _accept_cached(wanted)


def _download(wanted: _Wanted, progress: bool, settings: TransferSettings | None) -> None:
    """Bring the file into the cache; under its name only when verified."""
    partial = wanted.path.with_name(f".{wanted.file_name}.part")
    record = read_record(wanted.file_name)
    expected = wanted.sha256 or record.sha256
    try:
        joined = _transfer(wanted, partial, expected is not None, progress, settings)
        if joined and expected is not None and sha256_of(partial) != expected:
            logger.warning("%s: the parts of the resumed download do not fit together; beginning again", wanted.file_name)
            discard_partial(partial)
            _transfer(wanted, partial, True, progress, settings)
    except DownloadError as error:
        raise DownloadError(f"{error}. {_how_to_go_on(wanted)}") from error
    try:
        _verify(wanted, record, partial, shown_as=f"{wanted.file_name} from {wanted.source}")
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(wanted.path)
    except OSError as error:
        raise DownloadError(f"cannot write {wanted.path}: {error.strerror or error}") from error
    finally:
        discard_partial(partial)


def _transfer(wanted: _Wanted, partial: Path, will_be_verified: bool, progress: bool, settings: TransferSettings | None) -> bool:
    if is_http_url(wanted.source):
        return fetch_url(
            wanted.source,
            partial,
            expected_bytes=wanted.num_bytes,
            will_be_verified=will_be_verified,
            show_progress=progress,
            settings=settings,
        )
    source = Path(wanted.source)
    if not source.is_file():
        raise DownloadError(f"the mirror {source.parent} holds no {source.name}")
    try:
        shutil.copyfile(source, partial)
    except OSError as error:
        discard_partial(partial)
        raise DownloadError(f"cannot copy {source} to {partial.parent}: {error.strerror or error}") from error
    return False


def _how_to_go_on(wanted: _Wanted) -> str:
    if wanted.checkpoint is None:
        return f"Without a network: fetch {wanted.source} by other means and pass weights=FILE"
    return (
        f"Without a network: fetch {wanted.checkpoint.url} by other means and put it at {wanted.path}, "
        f"or pass weights=FILE, or set {MIRROR_VARIABLE} to a folder that holds {wanted.checkpoint.released_name}"
        f"{_what_needs_no_network()}"
    )


def _what_needs_no_network() -> str:
    names = bundled_names()
    return f". A small model to try things out comes with the package: {names[0]}" if names else ""


@contextlib.contextmanager
def _locked(wanted: _Wanted) -> Iterator[None]:
    """Hold the file's lock against other processes."""
    lock_path = wanted.path.with_name(f".{wanted.file_name}.lock")
    lock = FileLock(lock_path)
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1.0)
        except Timeout:
            logger.warning("another process is downloading %s; waiting for it", wanted.file_name)
            lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise DownloadError(f"another process has held {lock_path} for an hour; end it and try again") from error
    except OSError as error:
        problem = f"cannot write to the cache {lock_path.parent}: {error.strerror or error}"
        raise DownloadError(f"{problem}; set TORCH_HOME to a folder that you can write to") from error
    try:
        yield
    finally:
        lock.release()


def _accept_cached(wanted: _Wanted) -> LocalCheckpoint:
    record = read_record(wanted.file_name)
    sha256 = _verify(wanted, record, wanted.path, shown_as=str(wanted.path))
    _remember(wanted, record, sha256, wanted.path)
    return LocalCheckpoint(wanted.path, sha256, wanted.checkpoint)


def _accept_in_folder(folder: Path, checkpoint: PretrainedCheckpoint) -> LocalCheckpoint:
    path = _in_folder(folder, checkpoint)
    if not path.is_file():
        raise DownloadError(f"the mirror {folder} holds no {checkpoint.released_name}; put {checkpoint.url} there")
    wanted = _Wanted(checkpoint.file_name, str(path), checkpoint)
    record = read_record(wanted.file_name)
    sha256 = _verify(wanted, record, path, shown_as=str(path))
    _remember(wanted, record, sha256, path)
    return LocalCheckpoint(path, sha256, checkpoint)


def _in_folder(folder: Path, checkpoint: PretrainedCheckpoint) -> Path:
    """Return the path of a released file in a mirror folder: its name in the cache, or else its released name."""
    kept_apart = folder / checkpoint.file_name
    return kept_apart if kept_apart.is_file() else folder / checkpoint.released_name


def _accept_own_file(path: Path) -> LocalCheckpoint:
    """Accept any local file: who names it decides. Its name says which released file it is unless its hash disagrees."""
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    checkpoint = find_by_sha256(sha256)
    namesake = find_by_file_name(path.name)
    if checkpoint is None and namesake is not None:
        expected = namesake.sha256 or read_record(namesake.file_name).sha256
        if expected in (None, sha256):
            checkpoint = namesake
        else:
            logger.warning("%s has a released file's name but another SHA-256 (%s): used as a file of your own", path, sha256)
    if checkpoint is not None:
        _announce_licence(checkpoint)
    return LocalCheckpoint(path, sha256, checkpoint)


def _verify(wanted: _Wanted, record: CacheRecord, path: Path, *, shown_as: str) -> str:
    """Check a file against its known or recorded hash, or, when there is neither, that it is a checkpoint at all.

    Raises:
        DownloadError: it is another file than expected.
    """
    try:
        num_bytes = path.stat().st_size
        sha256 = sha256_of(path)
    except OSError as error:
        raise DownloadError(f"cannot read {shown_as}: {error.strerror or error}") from error
    if wanted.sha256 is not None and sha256 != wanted.sha256:
        raise DownloadError(
            f"{shown_as} has {num_bytes:,} bytes and SHA-256 {sha256}, but the released file has {wanted.sha256}: "
            f"it is damaged, or the release was replaced; {_replace_advice(wanted)}, or pass a file that you trust as weights="
        )
    if wanted.sha256 is None and record.sha256 is not None and sha256 != record.sha256:
        raise DownloadError(
            f"{shown_as} has {num_bytes:,} bytes and SHA-256 {sha256}, but at first use it had {record.sha256}: it is damaged, "
            f"or the release was replaced; {_replace_advice(wanted)}, "
            f"or delete {record_path(wanted.file_name)} to accept the file as it is now"
        )
    if wanted.sha256 is None and record.sha256 is None:
        from mrl.pretrained.checkpoint import read_contents  # torch is not needed before this point.

        try:
            read_contents(path, shown_as=shown_as)
        except CheckpointError as error:
            raise DownloadError(str(error)) from error
    return sha256


def _replace_advice(wanted: _Wanted) -> str:
    if wanted.checkpoint is None:
        return "download it again with force_reload=True"
    return f"download it again with force_reload=True (mrl pretrained download {wanted.checkpoint.name} --force-reload)"


def _remember(wanted: _Wanted, record: CacheRecord, sha256: str, path: Path) -> None:
    if record.sha256 is None and wanted.sha256 is None:
        if wanted.checkpoint is not None:
            logger.info("no published hash is known for %s; recording SHA-256 %s", wanted.file_name, sha256)
        _try_write_record(wanted.file_name, replace(record, sha256=sha256, num_bytes=path.stat().st_size, source=wanted.source))
    if wanted.checkpoint is not None:
        _announce_licence(wanted.checkpoint)


def _announce_licence(checkpoint: PretrainedCheckpoint) -> None:
    if not checkpoint.non_commercial:
        return
    record = read_record(checkpoint.file_name)
    if record.licence_shown:
        return
    logger.warning("Licence of the weights %s: %s (%s).", checkpoint.name, checkpoint.licence, checkpoint.licence_note)
    _try_write_record(checkpoint.file_name, replace(record, licence_shown=True))


def _try_write_record(file_name: str, record: CacheRecord) -> None:
    try:
        write_record(file_name, record)
    except OSError as error:
        # A cache that only others may write to is usable; what cannot be remembered is said.
        logger.warning("cannot record what was found about %s (%s); it will not be compared next time", file_name, error)
