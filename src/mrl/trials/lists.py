"""Trial lists: which pairs of recordings are compared, and which of them share a speaker."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mrl.bounded import LIMITS, lines_of, open_regular, said
from mrl.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"


def text_lines(file: Path, what: str) -> Iterator[bytes]:
    """Yield the lines of ``file`` with their ends; gzip is recognised by content, not by name.

    Raises:
        DataError: the file is missing, unreadable or damaged; ``what`` (such as "trial list") says what it was to be.
    """
    try:
        with open_regular(file) as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if compressed:
                most = 10 * LIMITS.unpacked(os.fstat(raw.fileno()).st_size)
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield from lines_of(stream, f"{what} {file}", max_bytes=most)  # type: ignore[arg-type]
            else:
                yield from lines_of(raw, f"{what} {file}")
    except FileNotFoundError:
        raise DataError(f"{what} {file} does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{what} {file} cannot be read: {said(error)}") from error


class _Layout(NamedTuple):
    """Where in a line of three fields the label stands, and what it may be."""

    position: int
    labels: Mapping[bytes, bool]
    example: str


# In this order: a line that begins and ends with a number between 0 and 1 is taken to begin with its label.
_LAYOUTS = (
    _Layout(2, {b"target": True, b"nontarget": False}, "first second target|nontarget"),
    _Layout(2, {b"tgt": True, b"imp": False}, "model test tgt|imp"),
    _Layout(0, {b"1": True, b"0": False}, "1|0 first second"),
    _Layout(2, {b"1": True, b"0": False}, "model test 1|0"),
)


@dataclass(frozen=True, eq=False)
class TrialList:
    """Pairs of utterances with their labels; every utterance is named once.

    Attributes:
        utterances: unique names (paths relative to a data root) in order of first appearance in the list.
        enrol: (trials,) int32, index into ``utterances`` of the first recording of each trial.
        test: (trials,) int32, index into ``utterances`` of the second one.
        labels: (trials,) bool, true where both recordings are of the same speaker.
        source: where the list came from, for reports.
        sha256: hash of the list's uncompressed bytes (the same with and without gzip); empty for a list made in memory.
    """

    utterances: tuple[str, ...]
    enrol: npt.NDArray[np.int32]
    test: npt.NDArray[np.int32]
    labels: npt.NDArray[np.bool_]
    source: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if not (self.enrol.shape == self.test.shape == self.labels.shape == (len(self.labels),)):
            raise DataError(
                f"a trial list needs as many enrolment indices as test indices and labels: found {self.enrol.shape}, "
                f"{self.test.shape} and {self.labels.shape}"
            )
        for name, index in (("enrol", self.enrol), ("test", self.test)):
            if index.size and (int(index.min()) < 0 or int(index.max()) >= len(self.utterances)):
                raise DataError(f"{name} indices of a trial list must lie in 0..{len(self.utterances) - 1}")

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[bool, str, str]], *, source: str = "made in memory") -> TrialList:
        """Build a list from ``(same_speaker, first, second)`` triples, for instance a validation list drawn from a manifest."""
        builder = _Builder()
        for label, first, second in pairs:
            builder.add(bool(label), first, second)
        return builder.build(source=source, sha256="")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_target(self) -> int:
        """Number of same-speaker trials."""
        return int(np.count_nonzero(self.labels))

    @property
    def num_nontarget(self) -> int:
        """Number of different-speaker trials."""
        return len(self) - self.num_target

    def require_both_classes(self) -> None:
        """Raise :class:`DataError` unless both kinds of trial are there: no error rate exists otherwise."""
        if self.num_target == 0 or self.num_nontarget == 0:
            raise DataError(
                f"{self.source or 'the trial list'} holds {self.num_target} same-speaker and {self.num_nontarget} "
                "different-speaker trials; an error rate needs both kinds"
            )

    def paths(self, root: str | os.PathLike[str]) -> list[Path]:
        """Return the path below ``root`` of every utterance, in the order of ``utterances``."""
        folder = Path(root)
        return [folder / name for name in self.utterances]

    def missing_files(self, root: str | os.PathLike[str], recordings: Sequence[str] | None = None) -> list[str]:
        """Return all recordings that are not files below ``root``: everything that is missing, at once.

        Args:
            root: the data root.
            recordings: names below ``root`` to look for, where the list names enrolment models; its utterances by default.

        Raises:
            DataError: ``root`` itself is not a folder.
        """
        folder = Path(root)
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; give the data root below which the paths of the trial list lie")
        names = self.utterances if recordings is None else recordings
        return [name for name in names if not (folder / name).is_file()]

    def require_files(self, root: str | os.PathLike[str], recordings: Sequence[str] | None = None, *, advice: str = "") -> None:
        """Raise :class:`DataError` unless every recording is a file below ``root``; missing ones are counted.

        Args:
            root, recordings: as for :meth:`missing_files`.
            advice: how to fix it, for the end of the message.
        """
        missing = self.missing_files(root, recordings)
        if missing:
            number = len(self.utterances if recordings is None else recordings)
            end = f"; {advice}" if advice else ""
            raise DataError(
                f"{len(missing)} of {number} utterances of {self.source or 'the trial list'} are not below {os.fspath(root)}, "
                f"the first is {missing[0]!r}{end}"
            )

    def indices_into(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row in ``ids`` of every utterance, so that ``matrix[rows]`` is in the order of ``utterances``.

        Raises:
            DataError: an utterance is not among ``ids`` (all of them are counted), or ``ids`` repeats a name.
        """
        row_of: dict[str, int] = {name: row for row, name in enumerate(ids)}
        if len(row_of) != len(ids):
            raise DataError(f"{len(ids) - len(row_of)} of {len(ids)} embedding ids are repeated; every id must be unique")
        absent = [name for name in self.utterances if name not in row_of]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(self.utterances)} utterances of {self.source or 'the trial list'} have no embedding, "
                f"the first is {absent[0]!r}; ids must be written exactly as in the list"
            )
        return np.fromiter((row_of[name] for name in self.utterances), dtype=np.int64, count=len(self.utterances))


class _Builder:
    """Collects trials in compact arrays (ten million trials take 90 MB) while naming each utterance once."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self._enrol = array("i")
        self._test = array("i")
        self._labels = bytearray()

    def add(self, label: bool, first: str, second: str) -> None:
        index = self._index
        self._enrol.append(index.setdefault(first, len(index)))
        self._test.append(index.setdefault(second, len(index)))
        self._labels.append(label)

    def build(self, *, source: str, sha256: str) -> TrialList:
        return TrialList(
            utterances=tuple(self._index),
            enrol=np.array(self._enrol, dtype=np.int32),
            test=np.array(self._test, dtype=np.int32),
            labels=np.array(self._labels, dtype=np.bool_),
            source=source,
            sha256=sha256,
        )


def read_trials(path: str | os.PathLike[str]) -> TrialList:
    """Read a trial list, plain or compressed by gzip (recognised by content, not by name).

    The first line decides which layout the whole file must follow:

    - ``label first second`` with label 1 (same speaker) or 0, as VoxCeleb publishes its lists;
    - ``first second target|nontarget``, as Kaldi writes them;
    - ``model test tgt|imp``, the keys of SITW and VOiCES, and ``model test 1|0``, as CN-Celeb has it. There the first name
      usually is that of an enrolment model; :func:`mrl.trials.read_enrolment_map` says which recordings make it up.

    Fields are separated by white space; blank lines are skipped.

    Raises:
        DataError: the file is missing, empty, not text, damaged, or has a malformed line (its number is given).
    """
    file = Path(path)
    digest = hashlib.sha256()
    builder = _Builder()
    layout: _Layout | None = None
    for number, line in enumerate(text_lines(file, "trial list"), start=1):
        digest.update(line)
        fields = line.removeprefix(b"\xef\xbb\xbf").split() if number == 1 else line.split()
        if not fields:
            continue
        if layout is None:
            layout = _layout_of(fields)
        if layout is None or len(fields) != 3 or fields[layout.position] not in layout.labels:
            raise DataError(_malformed(file, number, line, layout))
        first, second = fields[1:] if layout.position == 0 else fields[:2]
        try:
            builder.add(layout.labels[fields[layout.position]], first.decode(), second.decode())
        except UnicodeDecodeError as error:
            raise DataError(f"{file}, line {number}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    trials = builder.build(source=str(file), sha256=digest.hexdigest())
    if not len(trials):
        raise DataError(f"{file} holds no trials; expected lines such as '1 speaker/a.wav speaker/b.wav'")
    return trials


def _layout_of(fields: list[bytes]) -> _Layout | None:
    if len(fields) != 3:
        return None
    return next((layout for layout in _LAYOUTS if fields[layout.position] in layout.labels), None)


def _malformed(file: Path, number: int, line: bytes, layout: _Layout | None) -> str:
    expected = " or ".join(f"'{known.example}'" for known in ((layout,) if layout is not None else _LAYOUTS))
    text = line.decode("utf-8", "replace").strip()
    return f"{file}, line {number}: found {text[:80]!r}, expected {expected}"
