"""Whatever a file holds: a result or one of our errors, on one line, within a second and 500 MB.

``MRL_FUZZ_CASES`` (2,000 by default) is the number of cases of a reader with weight 1; ``make fuzz`` runs more, from other seeds.
"""

from __future__ import annotations

import collections
import os
import random
import time
import zlib
from pathlib import Path
from types import ModuleType

import pytest

from tests.hostile import readers_of_input, readers_of_models, readers_of_notes, readers_of_tables
from tests.hostile.limits import SECONDS, Outcome, attempt, bounded_memory
from tests.hostile.readers import READERS, Reader

CASES = int(os.environ.get("MRL_FUZZ_CASES", "2000"))
SEED = int(os.environ.get("MRL_FUZZ_SEED", "0"))
_WARM_UP = 5  # the first calls import modules
_SHOWN = 12


class _Fuzzed:
    """One class for each file of readers: several processes share the classes of a file among themselves."""

    module: ModuleType

    def test_whatever_a_file_holds(self, reader: Reader, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
        make = reader.prepare(tmp_path)
        cases = max(_WARM_UP, round(CASES * reader.weight))
        kinds: collections.Counter[str] = collections.Counter()
        bad: dict[str, str] = {}
        start = time.process_time()
        with bounded_memory():
            for number in range(cases):
                seed = zlib.crc32(f"{reader.name} {SEED} {number}".encode())
                outcome = attempt(make(random.Random(seed)))
                kinds[outcome.kind.rpartition(".")[2]] += 1
                if not _is_good(outcome, number):
                    bad.setdefault(f"{outcome.kind}: {outcome.said[:60]}", _describe(number, outcome))
        outcomes = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        print(f"\n{reader.name}: {cases} cases in {time.process_time() - start:.1f} s: {outcomes}")
        record_property("cases", cases)
        assert not bad, f"{len(bad)} kinds of bad outcome:\n" + "\n".join(list(bad.values())[:_SHOWN])


class TestInput(_Fuzzed):
    module = readers_of_input


class TestModels(_Fuzzed):
    module = readers_of_models


class TestNotes(_Fuzzed):
    module = readers_of_notes


class TestTables(_Fuzzed):
    module = readers_of_tables


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    readers = [reader for reader in READERS if reader.prepare.__module__ == metafunc.cls.module.__name__]
    metafunc.parametrize("reader", readers, ids=[reader.name for reader in readers])


def _is_good(outcome: Outcome, number: int) -> bool:
    # The first case of a reader pays for imports; a machine that is busy with other things may stretch processor time, too.
    patience = 30.0 if number < _WARM_UP else 3.0
    return outcome.allowed and outcome.megabytes <= 500.0 and outcome.seconds <= patience * SECONDS


def _describe(number: int, outcome: Outcome) -> str:
    return f"  case {number}: {outcome.kind} in {outcome.seconds:.2f} s, {outcome.megabytes:.0f} MB: {outcome.said[:200]!r}"
