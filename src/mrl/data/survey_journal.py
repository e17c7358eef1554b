"""What a survey has found so far, line by line, so that an interrupted one loses a recording at most."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from mrl.audio.examining import Stretch, StretchFacts
from mrl.errors import DataError

StretchKey = tuple[str, float, float | None]

_VERSION = 1
_FIELDS = tuple(field.name for field in dataclasses.fields(StretchFacts))


def key_of(stretch: Stretch) -> StretchKey:
    """Return what a stretch is known by in the journal."""
    return (str(stretch.path), stretch.start, stretch.seconds)


@contextlib.contextmanager
def writing_journal(path: Path | None, *, decode: bool) -> Iterator[Callable[[Stretch, StretchFacts], None]]:
    """Yield a function that adds one result to the journal at ``path``; without a path it does nothing.

    Raises:
        OSError: the journal cannot be written.
    """
    if path is None:
        yield lambda stretch, facts: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as stream:  # flushed at each line
        # An empty line first, as the last one may be torn; the reader skips both.
        stream.write("\n" + json.dumps(_heading(decode)) + "\n")

        def note(stretch: Stretch, facts: StretchFacts) -> None:
            stream.write(json.dumps([*key_of(stretch), [getattr(facts, name) for name in _FIELDS]]) + "\n")

        yield note


def read_journal(path: Path, *, decode: bool) -> dict[StretchKey, StretchFacts]:
    """Return what surveys of the same kind have noted; lines that cannot be read are passed over, to be found out again.

    Raises:
        DataError: the file is there but cannot be opened.
    """
    known: dict[StretchKey, StretchFacts] = {}
    fits = False
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                with contextlib.suppress(ValueError, TypeError):
                    value = json.loads(line)
                    if isinstance(value, dict):
                        fits = value == _heading(decode)
                    elif fits:
                        name, start, seconds, facts = value
                        if len(facts) == len(_FIELDS):
                            known[name, start, seconds] = StretchFacts(*facts)
    except FileNotFoundError:
        return known
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); delete it to examine everything anew") from error
    return known


def _heading(decode: bool) -> dict[str, object]:
    return {"version": _VERSION, "decode": decode}
