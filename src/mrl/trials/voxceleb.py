"""The official VoxCeleb1 trial lists: where they are and how many trials each has.

Addresses: the metadata folder of the VoxCeleb site of the Visual Geometry Group, Oxford
(https://www.robots.ox.ac.uk/~vgg/data/voxceleb/, named so in torchaudio's documentation of ``VoxCeleb1Verification``), and the
same folder of the site of KAIST (https://mm.kaist.ac.kr/datasets/voxceleb/). Numbers of trials: J. S. Chung et al., "VoxCeleb2:
Deep speaker recognition", Interspeech 2018, for E and H; all six, with both kinds of trial, on the page of PaddleSpeech's
VoxCeleb example. No hashes are published: that of the first download is recorded beside the list and compared from then on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mrl.bounded import read_json, record
from mrl.errors import DataError, DownloadError, InputError
from mrl.files import write_json
from mrl.transfer import TransferSettings, discard_partial, fetch_url, is_http_url
from mrl.trials.lists import TrialList, read_trials

SOURCES = (
    "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/",
    "https://mm.kaist.ac.kr/datasets/voxceleb/meta/",
)
"""Where the lists are; each is tried in turn."""

_LOCK_SECONDS = 600.0


@dataclass(frozen=True)
class OfficialList:
    """A published trial list.

    Attributes:
        name: ``voxceleb1-o`` and so on; ``-cleaned`` are the lists after removal of wrong labels.
        file_name: its file at the source.
        trials: how many trials it has.
        targets: how many of them are same-speaker trials.
    """

    name: str
    file_name: str
    trials: int
    targets: int


OFFICIAL_LISTS = (
    OfficialList("voxceleb1-o", "veri_test.txt", 37_720, 18_860),
    OfficialList("voxceleb1-o-cleaned", "veri_test2.txt", 37_611, 18_802),
    OfficialList("voxceleb1-e", "list_test_all.txt", 581_480, 290_743),
    OfficialList("voxceleb1-e-cleaned", "list_test_all2.txt", 579_818, 289_921),
    OfficialList("voxceleb1-h", "list_test_hard.txt", 552_536, 276_270),
    OfficialList("voxceleb1-h-cleaned", "list_test_hard2.txt", 550_894, 275_488),
)


@dataclass(frozen=True)
class FetchRecord:
    """What the first download held, kept as ``NAME.json`` beside ``NAME.txt``."""

    source: str
    sha256: str
    trials: int
    targets: int


def find_official_list(name: str) -> OfficialList:
    """Return the list of this name (``voxceleb1-h-cleaned``, or short ``vox1-h-cleaned``).

    Raises:
        InputError: there is none.
    """
    wanted = name.lower()
    if wanted.startswith("vox1-"):
        wanted = "voxceleb1-" + wanted.removeprefix("vox1-")
    for known in OFFICIAL_LISTS:
        if known.name == wanted:
            return known
    raise InputError(f"no official list {name!r}; there are {', '.join(known.name for known in OFFICIAL_LISTS)}")


def fetch_official_list(
    name: str,
    folder: str | os.PathLike[str],
    *,
    source: str | None = None,
    force_reload: bool = False,
    show_progress: bool = True,
    settings: TransferSettings | None = None,
) -> Path:
    """Return ``folder/NAME.txt``, downloaded first where it is not there; its size and hash are checked either way.

    Args:
        name: of an official list.
        folder: where lists are kept; made if absent.
        source: a base address or a folder with the files under their official names, instead of :data:`SOURCES`.
        force_reload: download even if the list is there; it is replaced only by one that passes all checks.
        show_progress: draw a bar (on a terminal only).
        settings: attempts, timeout, pauses.

    Raises:
        InputError: no such list, or ``source`` is neither address nor folder.
        DownloadError: no source has the list, or what it has is not the expected list.
        DataError: the list that is there is not the official one.
    """
    wanted = find_official_list(name)
    target = Path(folder) / f"{wanted.name}.txt"
    sources = SOURCES if source is None else (source,)
    if source is not None and not is_http_url(source) and not Path(source).is_dir():
        raise InputError(f"source {source!r} is neither an http(s) address nor a folder of trial lists")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        if force_reload or not target.is_file():
            _download(wanted, target, sources, show_progress, settings)
        else:
            _accept(wanted, target, target, source=str(target))
    return target


def _download(
    wanted: OfficialList, target: Path, sources: Sequence[str], show_progress: bool, settings: TransferSettings | None
) -> None:
    partial = target.with_name(f".{target.name}.part")
    reasons = []
    for source in sources:
        address = f"{source.rstrip('/')}/{wanted.file_name}"
        try:
            if is_http_url(source):
                fetch_url(address, partial, show_progress=show_progress, settings=settings)
            else:
                _copy(Path(source) / wanted.file_name, partial)
            _accept(wanted, partial, target, source=address)
        except (DownloadError, DataError) as error:
            discard_partial(partial)
            reasons.append(str(error).replace(str(partial), address))
            continue
        partial.replace(target)
        return
    raise DownloadError(
        f"{wanted.name} cannot be fetched: {'; '.join(reasons)}. Without a network: fetch {SOURCES[0]}{wanted.file_name} by "
        "other means, put it into a folder and give that folder as the source"
    )


def _accept(wanted: OfficialList, file: Path, target: Path, *, source: str) -> TrialList:
    """Check a list's size and hash; record the hash at first use."""
    trials = read_trials(file)
    if (len(trials), trials.num_target) != (wanted.trials, wanted.targets):
        raise DataError(
            f"{file} has {len(trials):,} trials, {trials.num_target:,} of them of one speaker, but {wanted.name} has "
            f"{wanted.trials:,} and {wanted.targets:,}: it is incomplete or another list; delete it and fetch it again"
        )
    record_path = target.with_suffix(".json")
    record = _read_record(record_path)
    if record is None:
        write_json(record_path, asdict(FetchRecord(source, trials.sha256, len(trials), trials.num_target)))
    elif record.sha256 != trials.sha256:
        raise DataError(
            f"{file} has SHA-256 {trials.sha256}, but at first use it had {record.sha256} (from {record.source}): the list was "
            f"changed; fetch it again, or delete {record_path} to accept it as it is now"
        )
    return trials


def _read_record(path: Path) -> FetchRecord | None:
    if not path.is_file():
        return None
    advice = "it is not a record of a fetched list: delete it and fetch the list again"
    return record(FetchRecord, read_json(path, advice=advice), str(path), advice=advice)


def _copy(file: Path, partial: Path) -> None:
    if not file.is_file():
        raise DownloadError(f"the folder {file.parent} holds no {file.name}")
    try:
        shutil.copyfile(file, partial)
    except OSError as error:
        raise DownloadError(f"cannot copy {file} to {partial.parent}: {error.strerror or error}") from error


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise DownloadError(f"another process has held {lock.lock_file} for ten minutes; end it and try again") from error
    try:
        yield
    finally:
        lock.release()
