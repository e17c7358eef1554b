"""The file formats that a model can be exported to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mrl.errors import InputError

FormatName = Literal["onnx", "openvino", "pt2"]


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        suffix: of the file that is named.
        companion_suffixes: of files of the same name that belong to it.
        description_entry: under what name the file holds its description.
    """

    suffix: str
    companion_suffixes: tuple[str, ...] = ()
    description_entry: str = ""


FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx"),
    "openvino": Format(".xml", (".bin",), "description"),
    "pt2": Format(".pt2", (), "description.json"),
}


def format_of(path: str | os.PathLike[str]) -> FormatName:
    """Return the format that a file's suffix means.

    Raises:
        InputError: none.
    """
    suffix = Path(path).suffix.lower()
    for name, known in FORMATS.items():
        if known.suffix == suffix:
            return name
    expected = ", ".join(f"{known.suffix} ({name})" for name, known in FORMATS.items())
    raise InputError(f"{os.fspath(path)}: the suffix {suffix!r} is none of an exported model; expected {expected}")


def files_of(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the named file and those that belong to it, the named one last."""
    file = Path(path)
    companions = tuple(file.with_suffix(suffix) for suffix in FORMATS[format_of(file)].companion_suffixes)
    return (*companions, file)


def card_of(path: str | os.PathLike[str]) -> Path:
    """Return the place of the JSON beside an exported file."""
    file = Path(path)
    return file.with_name(f"{file.name}.json")


def self_test_of(path: str | os.PathLike[str]) -> Path:
    """Return the place of the self-test beside an exported file."""
    file = Path(path)
    return file.with_name(f"{file.name}.check.safetensors")
