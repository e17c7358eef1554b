"""Reading an official ``model_config``: every value is checked, and what is unknown is an error that names it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mrl.bounded import brief
from mrl.errors import ConfigError

# Bounds on what a file may describe, far beyond any network there is.
LONGEST_FFT, MOST_BANDS = 1 << 15, 1024
_LARGEST, _MOST_STAGES, _MOST_BLOCKS = 1 << 20, 32, 64


class ConfigReader:
    """Takes values out of a mapping one by one; what is left at the end is unknown."""

    def __init__(self, mapping: Mapping[str, Any], where: str) -> None:
        if not isinstance(mapping, Mapping):
            raise ConfigError(
                f"{where} is a {type(mapping).__name__}, expected a mapping of the official constructor's arguments"
            )
        self._left = dict(mapping)
        self._known: list[str] = []
        self.where = where

    def take(self, key: str, default: Any, check: Callable[[Any], bool], expected: str) -> Any:
        self._known.append(key)
        value = self._left.pop(key, default)
        if not check(value):
            raise ConfigError(
                f"{self.where}: {key}={brief(value)} is not supported{self.reason(key, value)}; expected {expected}"
            )
        return value

    def reason(self, key: str, value: Any) -> str:
        """Return why a value is refused, where there is more to say than what is expected."""
        return ""

    def choice(self, key: str, default: Any, choices: Iterable[Any]) -> Any:
        allowed = tuple(choices)
        return self.take(
            key,
            default,
            lambda v: not isinstance(v, (list, dict, set)) and v in allowed,
            "one of " + ", ".join(map(repr, allowed)),
        )

    def positive(self, key: str, default: int | None, *, none_allowed: bool = False) -> Any:
        expected = "a positive whole number" + (" or None" if none_allowed else "")
        return self.take(key, default, lambda v: (v is None and none_allowed) or is_count(v), expected)

    def boolean(self, key: str, default: bool) -> bool:
        return bool(self.take(key, default, lambda v: isinstance(v, bool), "true or false"))

    def number(self, key: str, default: float, low: float, high: float) -> Any:
        return self.take(
            key,
            default,
            lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high,
            f"a number from {low} to {high}",
        )

    def pair(self, key: str, default: tuple[int, int]) -> tuple[int, int]:
        def is_range(value: Any) -> bool:
            return (
                isinstance(value, (list, tuple))
                and len(value) == 2
                and all(is_count(v, zero=True) for v in value)
                and value[0] < value[1]
            )

        low, high = self.take(key, default, is_range, "two whole numbers, the lower first")
        return int(low), int(high)

    def finish(self) -> None:
        for key in self._left:
            near = difflib.get_close_matches(str(key), self._known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(self._known))}"
            raise ConfigError(f"{self.where}: unknown key {brief(key)}{hint}")


def is_count(value: Any, *, zero: bool = False) -> bool:
    """Whether ``value`` is a whole number above 0, or 0 where ``zero`` allows it; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and (0 if zero else 1) <= value <= _LARGEST


def is_pair(value: Any) -> bool:
    """Whether ``value`` is a list of two whole numbers above 0."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_count, value))


def is_block_count(value: Any) -> bool:
    """Whether ``value`` is a number of blocks that a stage may have."""
    return is_count(value) and value <= _MOST_BLOCKS


def are_stages(value: Any) -> bool:
    """Whether ``value`` is a list of as many stages as a network may have."""
    return isinstance(value, (list, tuple)) and 0 < len(value) <= _MOST_STAGES
