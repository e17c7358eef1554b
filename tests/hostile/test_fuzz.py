"""Whatever a file holds: a result or one of our errors, on one line, within a second and 500 MB.

In the usual test run each reader gets ``MRL_FUZZ_CASES`` cases (40 by default); ``make fuzz`` runs more, from other seeds.
"""

from __future__ import annotations

import collections
import os
import random
import zlib
from pathlib import Path

import pytest

from tests.hostile import readers_of_notes  # noqa: F401  (registers its readers)
from tests.hostile.limits import SECONDS, Outcome, attempt, bounded_memory
from tests.hostile.readers import READERS, Reader

CASES = int(os.environ.get("MRL_FUZZ_CASES", "40"))
SEED = int(os.environ.get("MRL_FUZZ_SEED", "0"))
_WARM_UP = 5  # the first calls import modules
_SHOWN = 12


# Findings that are not fixed yet: these readers still end with an uncaught error on some cases.
_OPEN = {"caches of pooled statistics", "shards of recordings", "notes of training"}


def _parameter(reader: Reader) -> object:
    marks = [pytest.mark.xfail(strict=False, reason="findings not fixed yet")] if reader.name in _OPEN else []
    return pytest.param(reader, id=reader.name, marks=marks)


@pytest.mark.parametrize("reader", [_parameter(reader) for reader in READERS])
def test_whatever_a_file_holds(reader: Reader, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    make = reader.prepare(tmp_path)
    cases = max(_WARM_UP, round(CASES * reader.weight))
    kinds: collections.Counter[str] = collections.Counter()
    bad: dict[str, str] = {}
    with bounded_memory():
        for number in range(cases):
            seed = zlib.crc32(f"{reader.name} {SEED} {number}".encode())
            outcome = attempt(make(random.Random(seed)))
            kinds[outcome.kind] += 1
            if not _is_good(outcome, number):
                bad.setdefault(f"{outcome.kind}: {outcome.said[:60]}", _describe(number, outcome))
    print(
        f"\n{reader.name}: {cases} cases, "
        + ", ".join(f"{count} {kind.rsplit('.', 1)[-1]}" for kind, count in kinds.most_common())
    )
    record_property("cases", cases)
    assert not bad, f"{len(bad)} kinds of bad outcome:\n" + "\n".join(list(bad.values())[:_SHOWN])


def _is_good(outcome: Outcome, number: int) -> bool:
    # The first case of a reader pays for imports; a machine that is busy with other things may stretch processor time, too.
    patience = 30.0 if number < _WARM_UP else 3.0
    return outcome.allowed and outcome.megabytes <= 500.0 and outcome.seconds <= patience * SECONDS


def _describe(number: int, outcome: Outcome) -> str:
    return f"  case {number}: {outcome.kind} in {outcome.seconds:.2f} s, {outcome.megabytes:.0f} MB: {outcome.said[:200]!r}"
