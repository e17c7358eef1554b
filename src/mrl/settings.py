"""Settings that are declared once, in a frozen dataclass, and passed whole; some may be changed by keyword."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from mrl.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with those named in ``changes`` replaced.

    Raises:
        InputError: there is no such setting.
    """
    known = [field.name for field in dataclasses.fields(settings)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise InputError(f"no setting {', '.join(unknown)}; expected {', '.join(known)}")
    return dataclasses.replace(settings, **changes)
