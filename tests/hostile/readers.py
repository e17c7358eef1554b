"""Every reader of the package with a corpus of hostile files for it.

A reader is a function that opens a file, or takes bytes or text, that somebody else may have made. ``covers`` names the functions
of the package whose reading it exercises; :mod:`tests.hostile.test_inventory` fails where one is in no such list.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.hostile.mutations import damaged_bytes, damaged_tree

Action = Callable[[], Any]
Maker = Callable[[random.Random], Action]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader and how hostile files for it are made.

    Attributes:
        name: of the reader, for reports.
        prepare: takes an empty folder, returns a function that makes one case: from random numbers to what is to be tried.
        covers: functions of the package, without ``mrl.``.
        weight: share of the usual number of cases; below 1 where a case takes more than some three milliseconds.
    """

    name: str
    prepare: Callable[[Path], Maker]
    covers: tuple[str, ...]
    weight: float = 1.0


READERS: list[Reader] = []


def reader(name: str, *covers: str, weight: float = 1.0) -> Callable[[Callable[[Path], Maker]], Callable[[Path], Maker]]:
    """Register a function that prepares a corpus."""

    def register(prepare: Callable[[Path], Maker]) -> Callable[[Path], Maker]:
        READERS.append(Reader(name, prepare, covers, weight))
        return prepare

    return register


def files(folder: Path, seeds: dict[str, bytes], read: Callable[[Path], Any], *, fixed: Sequence[str] = ()) -> Maker:
    """Damaged files: each has the suffix of a seed, at times of another one; ``fixed`` ones are at times left as they are."""
    suffixes, contents = list(seeds), list(seeds.values())

    def make(rng: random.Random) -> Action:
        suffix = rng.choice(suffixes)
        data = (
            seeds[suffix] if suffix in fixed and rng.random() < 0.5 else damaged_bytes(rng, [seeds[suffix], rng.choice(contents)])
        )
        file = folder / f"case.{suffix.lstrip('.')}"
        file.write_bytes(data)
        return lambda: read(file)

    return make


def trees(place: Path, tree: Any, read: Action, *, dump: Callable[[Any], str] = json.dumps) -> Maker:
    """Files of JSON (or what ``dump`` makes) at ``place`` with wrong values in them, at times damaged as text."""
    place.parent.mkdir(parents=True, exist_ok=True)
    good = dump(tree).encode()

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.8:
            data = dump(damaged_tree(rng, tree)).encode("utf-8", "surrogatepass")
        else:
            data = damaged_bytes(rng, [good])
        place.write_bytes(data)
        return read

    return make
