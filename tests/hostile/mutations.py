"""Making hostile files from good ones: damaged bytes, and trees of values (JSON, YAML, pickles) with wrong values in them."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

_NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_WIDTHS = (1, 2, 4, 8)
_TOKENS = (
    *(b"\0", b"\n", b"\r\n", b"\t", b" ", b",", b":", b"/", b"..", b"-", b"\xff", b"\xef\xbb\xbf", b"\xc2\xb2", b"\xed\xa0\x80"),
    *(b"nan", b"inf", b"-1", b"1e999", b"9" * 5000, b"[" * 2000, b"{", b'"', b"null", b"true", b"\x1b[2J", b"%s", b"&a *a"),
)
DEEP: Any = None
for _ in range(60):
    DEEP = [DEEP]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 255, 65536, 10**9, 10**18, -(10**18), 10**30, 0.0, -0.5, 0.5, 1e-300, 1e308, -1e308),
    *(
        math.nan,
        math.inf,
        -math.inf,
        "",
        "a",
        "²",
        "1",
        "nan",
        "../../etc/passwd",
        "/dev/zero",
        "a\nb",
        "\x1b[2J",
        "\0",
        "\ud800",
    ),
    *("x" * 5000, [], {}, [[]], [0], [1, 2, 3], ["a", "b"], {"a": 1}, [None], [True], DEEP),
)
"""What may stand where something else should."""


def damaged_bytes(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return one of the seeds with one to four things wrong with it."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        kind = rng.randrange(9)
        size = len(data)
        # Headers stand at the start, directories of archives at the end.
        near = rng.choice((64, 256, size + 1))
        place = min(size, rng.randrange(near)) if rng.random() < 0.8 else max(0, size - rng.randrange(near))
        if kind == 0:
            del data[place:]
        elif kind == 1 and size:
            data[min(place, size - 1)] ^= 1 << rng.randrange(8)
        elif kind == 2 and size:
            data[min(place, size - 1)] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
        elif kind in (3, 4):
            width = rng.choice(_WIDTHS)
            number = rng.choice(_NUMBERS) & ((1 << (8 * width)) - 1)
            data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 5:
            del data[place : place + rng.choice((1, 2, 4, 16, 300))]
        elif kind == 6:
            data[place:place] = rng.choice(
                (rng.randbytes(rng.choice((1, 4, 40))), rng.choice(_TOKENS), bytes(rng.choice((1, 8, 300))))
            )
        elif kind == 7:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[place:place] = other[start : start + rng.choice((4, 16, 64, 400))]
        else:
            length = rng.choice((1, 4, 32, 400))
            data[place:place] = data[place : place + length]
    return bytes(data)


def damaged_tree(rng: random.Random, tree: Any) -> Any:
    """Return a copy of a tree of lists and dicts with one to three wrong values in it."""
    result = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(result))
        if not places or rng.random() < 0.02:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(("unknown", "", "a" * 300, str(key).upper()))] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder[key:key] = [copy.deepcopy(holder[key])] * rng.choice((1, 3, 50))
        elif kind == 3 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = rng.choice((-holder[key], holder[key] + 1, holder[key] * 1000, float(holder[key]), str(holder[key]), 0))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return result


def _places(tree: Any) -> Any:
    if isinstance(tree, dict):
        for key in list(tree):
            yield tree, key
            yield from _places(tree[key])
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield tree, index
            yield from _places(value)
