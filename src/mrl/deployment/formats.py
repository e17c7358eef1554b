"""The file formats that a model can be exported to."""

from __future__ import annotations

import contextlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mrl.bounded import open_regular, parse_json
from mrl.errors import CheckpointError, InputError, MissingDependencyError
from mrl.runtime.description import Description
from mrl.runtime.embedder import EMBEDDING, RAW_EMBEDDING
from mrl.runtime.session import open_session, properties_of

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
    raise InputError(f"{os.fspath(path)}: unsupported extension {suffix!r} for an exported model; expected {expected}")


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


# Running an exported file of any format: what checks and comparisons need of it, and no more.


Matrix = npt.NDArray[np.float32]


class Outputs(NamedTuple):
    """What an exported network gives, each ``(batch, embed_dim)``: embeddings of unit length, and as the network has them."""

    embedding: Matrix
    raw: Matrix


class Runner(Protocol):
    """An exported network on the CPU."""

    @property
    def description(self) -> Description:
        """What the file says about itself."""

    def __call__(self, batch: npt.NDArray[np.float32]) -> Outputs:
        """Run on ``(batch, samples)``, or on ``(batch, frames, bands)`` where the network takes features."""


def open_runner(path: str | os.PathLike[str], *, threads: int | None = None) -> Runner:
    """Open an exported file by its suffix.

    Raises:
        InputError: no such file, or an unsupported extension.
        CheckpointError: damaged, or not written by ``mrl export``.
        MissingDependencyError: the runtime of this format is not installed.
    """
    file = Path(path).expanduser()
    name = format_of(file)
    if not file.is_file():
        raise InputError(f"{file} does not exist or is not a file; give a file written by mrl export")
    if name == "onnx":
        return _OnnxRunner(file, threads)
    return _OpenVinoRunner(file, threads) if name == "openvino" else _ProgramRunner(file)


class _OnnxRunner:
    def __init__(self, file: Path, threads: int | None) -> None:
        self._session = open_session(file, threads)
        self.description = Description.from_properties(properties_of(self._session, file), str(file))

    def __call__(self, batch: Matrix) -> Outputs:
        return Outputs(*self._session.run([EMBEDDING, RAW_EMBEDDING], {self.description.input: batch}))


OPENVINO_SETTINGS: dict[str, Any] = {
    # Without this hint OpenVINO computes in bfloat16 on processors that have it.
    "INFERENCE_PRECISION_HINT": "f32",
    # What OpenVINO 2026.4 keeps of a recording whose pooling sees one frame makes the embeddings of all later ones wrong.
    "CPU_RUNTIME_CACHE_CAPACITY": 0,
}


class _OpenVinoRunner:
    def __init__(self, file: Path, threads: int | None) -> None:
        openvino = require_openvino()
        with open_regular(file, error=CheckpointError) as stream:
            if not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):  # its readers of other formats would be tried
                raise CheckpointError(f"{file} is not the XML of an OpenVINO model; export it again")
        settings = OPENVINO_SETTINGS | ({} if threads is None else {"INFERENCE_NUM_THREADS": threads})
        try:
            core = openvino.Core()
            model = core.read_model(str(file))
            self._network = core.compile_model(model, "CPU", settings)
        except Exception as error:
            raise CheckpointError(f"{file} is damaged or not an OpenVINO model ({_short(error)}); export it again") from error
        text = "{}"
        with contextlib.suppress(RuntimeError):  # what it raises when there is no such entry
            text = str(model.get_rt_info(["redimnet_mrl", "description"]).value)
        self.description = Description.from_dict(_parsed(text, file), str(file))

    def __call__(self, batch: Matrix) -> Outputs:
        outputs = self._network(batch)
        return Outputs(np.array(outputs[EMBEDDING]), np.array(outputs[RAW_EMBEDDING]))


class _ProgramRunner:
    def __init__(self, file: Path) -> None:
        import torch

        if not _is_program(file):  # torch logs a traceback for what is none
            raise CheckpointError(f"{file} is damaged or not an exported program (an archive of torch.export); export it again")
        extra = {FORMATS["pt2"].description_entry: ""}
        try:
            program = torch.export.load(str(file), extra_files=extra)
        except Exception as error:
            raise CheckpointError(f"{file} is damaged or not an exported program ({_short(error)}); export it again") from error
        self._module = program.module()
        self.description = Description.from_dict(_parsed(extra[FORMATS["pt2"].description_entry] or "{}", file), str(file))

    def __call__(self, batch: Matrix) -> Outputs:
        import torch

        with torch.inference_mode():
            embedding, raw = self._module(torch.from_numpy(batch))
        return Outputs(embedding.numpy(), raw.numpy())


def require_openvino() -> Any:
    """Return the module ``openvino``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import openvino  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError('OpenVINO files need OpenVINO: pip install "redimnet-mrl[openvino]"') from error
    return openvino


def _is_program(file: Path) -> bool:
    """Whether a file is an archive as ``torch.export.save`` writes it, of PyTorch 2.6 or of later ones."""
    try:
        with open_regular(file, error=CheckpointError) as stream, zipfile.ZipFile(stream) as archive:
            return any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _parsed(text: str, file: Path) -> dict[str, Any]:
    values = parse_json(text, f"the description in {file}", error=CheckpointError, advice="export it again")
    return values if isinstance(values, dict) else {}


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
