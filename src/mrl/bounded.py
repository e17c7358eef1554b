"""Reading what somebody else may have written: regular files only, and never more than stated bounds allow.

Every reader of the package begins here. Each function raises the error that its caller names, in one line that says which file it
is about, or lets ``FileNotFoundError`` through, because what a missing file means is for the caller to say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import math
import os
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

from mrl.errors import DataError, MRLError

if TYPE_CHECKING:
    import numpy.typing as npt

_Record = TypeVar("_Record")
ErrorKind = type[MRLError]


@dataclasses.dataclass(frozen=True)
class ReadLimits:
    """How much one file may ask for.

    Attributes:
        text_bytes: of a JSON file, a list, or a line of either.
        settings_bytes: of a YAML file, whose parser is slow.
        depth: of nested lists and objects in JSON and YAML.
        digits: of a whole number in JSON.
        values: that a YAML file may stand for, with all its aliases written out.
        decoded_bytes: that a compressed file may always unpack to.
        expansion: how many times its own size a larger one may unpack to.
    """

    text_bytes: int = 256 << 20
    settings_bytes: int = 256 << 10
    depth: int = 50
    digits: int = 40
    values: int = 100_000
    decoded_bytes: int = 256 << 20
    expansion: int = 20

    def unpacked(self, size: int) -> int:
        """Return how many bytes a file of ``size`` bytes may unpack to."""
        return max(self.decoded_bytes, self.expansion * size)


LIMITS = ReadLimits()
_LONGEST_LINE = 16 << 20

# What only Python's slower hooks notice: whole numbers and exponents of many digits.
_LONG_NUMBER = re.compile(rf"\d{{{LIMITS.digits + 1}}}|[eE]\+?\d{{3}}")


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str], *, error: ErrorKind = DataError, advice: str = "") -> Iterator[BinaryIO]:
    """Yield a regular file for reading; a pipe or device is refused without waiting for it.

    Raises:
        FileNotFoundError: there is none.
        MRLError: of the kind ``error``: it cannot be opened or is no regular file.
    """
    try:
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        )
    except FileNotFoundError:
        raise
    except NotADirectoryError as reason:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path)) from reason
    except (OSError, ValueError) as reason:  # ValueError: a null character in the path
        raise error(_line(f"{os.fspath(path)} cannot be read ({said(reason)})", advice)) from reason
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise error(_line(f"{os.fspath(path)} is not a regular file", advice))
        yield stream


def read_bytes(
    path: str | os.PathLike[str], *, error: ErrorKind = DataError, advice: str = "", max_bytes: int = LIMITS.text_bytes
) -> bytes:
    """Return all bytes of a file of at most ``max_bytes``.

    Raises:
        FileNotFoundError: there is none.
        MRLError: of the kind ``error``: it cannot be read or is too large.
    """
    with open_regular(path, error=error, advice=advice) as stream:
        try:
            # One byte more than there should be, but never a buffer of the limit's size for a small file.
            data = stream.read(min(max_bytes, os.fstat(stream.fileno()).st_size) + 1)
        except OSError as reason:
            raise error(_line(f"{os.fspath(path)} cannot be read ({said(reason)})", advice)) from reason
    if len(data) > max_bytes:
        raise error(_line(f"{os.fspath(path)} is larger than a file of its kind may be ({max_bytes:,} bytes)", advice))
    return data


def read_text(
    path: str | os.PathLike[str], *, error: ErrorKind = DataError, advice: str = "", max_bytes: int = LIMITS.text_bytes
) -> str:
    """Return a UTF-8 text, without the mark that some editors put first.

    Raises:
        FileNotFoundError: there is none.
        MRLError: of the kind ``error``: it cannot be read, is too large or is not UTF-8.
    """
    data = read_bytes(path, error=error, advice=advice, max_bytes=max_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        found = f"{os.fspath(path)} cannot be read: it is not UTF-8 text ({reason.reason} at byte {reason.start})"
        raise error(_line(found, advice)) from reason


def lines_of(
    stream: BinaryIO, name: str, *, error: ErrorKind = DataError, advice: str = "", max_bytes: int | None = None
) -> Iterator[bytes]:
    """Yield the lines of an open file with their ends, none of them longer than 16 MB.

    Args:
        stream: the file, or what unpacks it.
        name: what errors call it.
        error, advice: as for :func:`parse_json`.
        max_bytes: of all lines together; None: any.

    Raises:
        MRLError: of the kind ``error``.
    """
    total = 0
    while line := stream.readline(_LONGEST_LINE + 1):
        total += len(line)
        if len(line) > _LONGEST_LINE:
            raise error(_line(f"{name} has a line of more than {_LONGEST_LINE:,} bytes", advice))
        if max_bytes is not None and total > max_bytes:
            raise error(_line(f"{name} would unpack to more than {max_bytes:,} bytes", advice))
        yield line


def text_of(line: bytes, place: str, *, error: ErrorKind = DataError) -> str:
    """Return a line as text.

    Raises:
        MRLError: of the kind ``error``: it is not UTF-8; ``place`` says where.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{place} is not UTF-8 text: {reason.reason} at byte {reason.start} of the line") from reason


# --- JSON


def read_json(
    path: str | os.PathLike[str], *, error: ErrorKind = DataError, advice: str = "", max_bytes: int = LIMITS.text_bytes
) -> Any:
    """Return the value in a JSON file, see :func:`parse_json`.

    Raises:
        FileNotFoundError: there is none.
        MRLError: of the kind ``error``.
    """
    text = read_text(path, error=error, advice=advice, max_bytes=max_bytes)
    return parse_json(text, os.fspath(path), error=error, advice=advice)


def parse_json(text: str | bytes, name: str, *, error: ErrorKind = DataError, advice: str = "") -> Any:
    """Return the value of a JSON text: finite numbers, whole ones of at most 40 digits, no deeper than 50 lists or objects.

    Args:
        text: UTF-8 where it is bytes.
        name: what errors call it.
        error: class of the error.
        advice: what the user can do about it.

    Raises:
        MRLError: of the kind ``error``.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        hooks: dict[str, Any] = {"parse_constant": _refuse_constant}
        if _LONG_NUMBER.search(decoded) is not None:
            hooks |= {"parse_int": _whole_number, "parse_float": _finite_number}
        value = json.loads(decoded, **hooks)
        if decoded.count("[") + decoded.count("{") > LIMITS.depth:
            _refuse_depth(value)
    except RecursionError as reason:
        raise error(_line(f"{name} is not usable JSON: it is nested too deeply", advice)) from reason
    except ValueError as reason:
        raise error(_line(f"{name} is not JSON ({said(reason)})", advice)) from reason
    return value


def read_json_object(
    path: str | os.PathLike[str], *, error: ErrorKind = DataError, advice: str = "", max_bytes: int = LIMITS.text_bytes
) -> dict[str, Any]:
    """As :func:`read_json` for a file that must hold an object."""
    value = read_json(path, error=error, advice=advice, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise error(_line(f"{os.fspath(path)} holds {kind_of(value)}, expected a JSON object", advice))
    return value


def record(
    kind: type[_Record], values: Any, name: str, *, error: ErrorKind = DataError, advice: str = "", ignore_unknown: bool = False
) -> _Record:
    """Return a dataclass from a JSON object, every value of the declared type (no text is a number).

    Args:
        kind: the dataclass.
        values: what :func:`parse_json` gave.
        name: what errors call it.
        error, advice: as for :func:`parse_json`.
        ignore_unknown: leave out keys that the dataclass does not have, instead of refusing them.

    Raises:
        MRLError: of the kind ``error``.
    """
    from pydantic import ValidationError

    if not isinstance(values, dict):
        raise error(_line(f"{name} is {kind_of(values)}, expected a JSON object", advice))
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown and not ignore_unknown:
        raise error(_line(f"{name} has the unknown key {brief(unknown[0])}", advice))
    try:
        # By way of JSON: there a list may be a tuple, and yet no text a number.
        text = json.dumps({key: value for key, value in values.items() if key in known})
        found: _Record = _checker(kind).validate_json(text, strict=True)  # type: ignore[arg-type]
        return found
    except ValidationError as reason:
        problem = reason.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise error(_line(f"{name}: {place}: {problem['msg']}, found {brief(problem['input'])}", advice)) from reason
    except (ValueError, RecursionError, TypeError, MRLError) as reason:
        raise error(_line(f"{name}: {said(reason)}", advice)) from reason


@functools.lru_cache(maxsize=64)
def _checker(kind: type[Any]) -> Any:
    """Return what checks values for a dataclass; making it takes as long as checking a thousand."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


# --- YAML


def parse_yaml(text: str, name: str, loader: type[Any], *, error: ErrorKind = DataError, advice: str = "") -> Any:
    """Return the value of a YAML text: no more values than allowed once aliases are written out, no cycles, no deep nesting.

    Args:
        text: at most ``LIMITS.settings_bytes`` long.
        name: what errors call it.
        loader: a safe loader of PyYAML.
        error, advice: as for :func:`parse_json`.

    Raises:
        MRLError: of the kind ``error``.
    """
    import yaml

    if len(text) > LIMITS.settings_bytes:
        raise error(_line(f"{name} is larger than settings may be ({LIMITS.settings_bytes:,} characters)", advice))
    try:
        _refuse_open_brackets(text)
        value = yaml.load(text, Loader=loader)
        _count_values(value, {}, 0)
    except RecursionError as reason:
        raise error(_line(f"{name} is not usable YAML: it is nested too deeply", advice)) from reason
    except yaml.YAMLError as reason:
        raise error(_line(f"{name} is not YAML: {said(reason)}", advice)) from reason
    except (ValueError, TypeError, OverflowError, AttributeError, LookupError) as reason:  # impossible dates and numbers
        raise error(_line(f"{name} is not usable YAML ({said(reason)})", advice)) from reason
    return value


def _refuse_open_brackets(text: str) -> None:
    """Refuse more open brackets than there may be levels, in texts too: PyYAML's time grows with the square of their number."""
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        if depth > LIMITS.depth:
            raise RecursionError


def _count_values(value: Any, known: dict[int, int], depth: int) -> int:
    """Return how many values a tree stands for; one that is used twice counts twice."""
    if depth > LIMITS.depth:
        raise ValueError("it is nested too deeply or holds itself")
    if not isinstance(value, (dict, list, set, tuple)):
        return 1
    if id(value) in known:
        return known[id(value)]
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
    total = 1 + sum(_count_values(part, known, depth + 1) for part in parts)
    if total > LIMITS.values:
        raise ValueError(f"it stands for more than {LIMITS.values:,} values")
    known[id(value)] = total
    return total


# --- arrays


def read_npz(
    path: str | os.PathLike[str],
    kinds: Mapping[str, str],
    *,
    error: ErrorKind = DataError,
    advice: str = "",
    optional: Collection[str] = (),
) -> dict[str, npt.NDArray[Any]]:
    """Return arrays of an ``.npz`` file; none is made before its size is known and allowed.

    Args:
        path: the file.
        kinds: name -> the letters of the NumPy kinds that it may have, such as ``"f"`` or ``"U"``.
        error, advice: as for :func:`parse_json`.
        optional: names that may be absent.

    Raises:
        FileNotFoundError: there is none.
        MRLError: of the kind ``error``.
    """
    name = os.fspath(path)
    with open_regular(path, error=error, advice=advice) as stream:
        left = LIMITS.unpacked(os.fstat(stream.fileno()).st_size)
        arrays: dict[str, npt.NDArray[Any]] = {}
        try:
            if stream.read(6) == b"\x93NUMPY":
                raise ValueError("it holds one bare array")
            with zipfile.ZipFile(stream) as archive:
                members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
                for wanted, allowed in kinds.items():
                    if wanted not in members:
                        if wanted in optional:
                            continue
                        raise error(_line(absence(name, [key for key in kinds if key not in optional], sorted(members)), advice))
                    array = _read_member(archive, members[wanted], left, allowed)
                    left -= array.nbytes
                    arrays[wanted] = array
        except MRLError:
            raise
        except (
            OSError,
            EOFError,
            ValueError,
            KeyError,
            TypeError,
            NotImplementedError,
            RuntimeError,
            SyntaxError,
            OverflowError,
        ) as reason:
            raise error(_line(f"{name} is damaged or not npz ({said(reason)})", advice)) from reason
        except (zipfile.BadZipFile, zlib.error, MemoryError) as reason:
            raise error(_line(f"{name} is damaged or not npz ({said(reason)})", advice)) from reason
    return arrays


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int, allowed: str) -> npt.NDArray[Any]:
    import numpy as np

    if member.flag_bits & 1:
        raise ValueError(f"{member.filename} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed in a way that is not read")
    if member.file_size > most:
        raise ValueError(
            f"{member.filename} would unpack to {member.file_size:,} bytes, {most:,} are allowed for a file of this size"
        )
    with archive.open(member) as part:
        shape, fortran_order, dtype = _array_header(part)
        if dtype.kind not in allowed:
            raise ValueError(f"{member.filename} holds {dtype}, expected the kind {' or '.join(allowed)}")
        size = math.prod(shape) * dtype.itemsize
        if size > member.file_size:
            raise ValueError(f"{member.filename} promises {shape} {dtype}, more than it holds")
        data = part.read(size)
        if len(data) != size or part.read(1):
            raise ValueError(f"{member.filename} does not hold the {size:,} bytes that it promises")
    if dtype.kind == "U" and size and int(np.frombuffer(data, dtype=f"{dtype.str[0]}u4").max()) > sys.maxunicode:
        raise ValueError(f"{member.filename} holds what is no text")
    # From a copy that may be written to, as PyTorch wants it.
    flat = np.frombuffer(bytearray(data), dtype=dtype) if size else np.empty(math.prod(shape), dtype=dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def read_npy(
    path: str | os.PathLike[str], *, memory_map: bool = True, error: ErrorKind = DataError, advice: str = ""
) -> npt.NDArray[Any]:
    """Return the array in an ``.npy`` file whose size is the one that its header promises.

    Raises:
        FileNotFoundError: there is none.
        MRLError: of the kind ``error``.
    """
    import numpy as np

    name = os.fspath(path)
    with open_regular(path, error=error, advice=advice) as stream:
        try:
            shape, fortran_order, dtype = _array_header(stream)
            start, size = stream.tell(), math.prod(shape) * dtype.itemsize
            if start + size > os.fstat(stream.fileno()).st_size:
                raise ValueError(f"it promises {shape} {dtype}, more than it holds")
            if not size:
                return np.empty(shape, dtype=dtype)
            array = np.memmap(stream, dtype, "r", start, shape, "F" if fortran_order else "C")
            return array if memory_map else np.array(array)
        except (OSError, EOFError, ValueError, TypeError, OverflowError, SyntaxError, MemoryError, RuntimeError) as reason:
            raise error(_line(f"{name} is damaged ({said(reason)})", advice)) from reason


def _array_header(stream: Any) -> tuple[tuple[int, ...], bool, Any]:
    """Return shape, whether it is in Fortran order, and type of the array whose header an open ``.npy`` file is at."""
    import tokenize

    import numpy as np

    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read(stream)
    except tokenize.TokenError as reason:  # of the reader for headers that Python 2 wrote
        raise ValueError(f"its header is no literal: {said(reason)}") from reason
    if dtype.hasobject or any(length < 0 for length in shape):
        raise ValueError(f"it promises {shape} {dtype}, which is not read")
    return shape, fortran_order, dtype


_NUMPY_KINDS = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The contents of a safetensors file: tensors by name, and the texts in its header."""

    tensors: dict[str, Any]
    notes: dict[str, str]


def read_safetensors(
    path: str | os.PathLike[str],
    *,
    framework: Literal["numpy", "torch"] = "numpy",
    required: Collection[str] = (),
    error: ErrorKind = DataError,
    advice: str = "",
) -> Tensors:
    """Return all tensors of a safetensors file; numbers of kinds that no reader here uses (8-bit floats ...) are refused.

    Raises:
        FileNotFoundError: there is none.
        MRLError: of the kind ``error``.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    usable = _NUMPY_KINDS | ({"BF16"} if framework == "torch" else set())
    with open_regular(path, error=error, advice=advice):
        pass
    try:
        with safe_open(name, framework="pt" if framework == "torch" else "numpy") as archive:
            names = list(archive.keys())
            if not set(required) <= set(names):
                raise error(_line(absence(name, required, sorted(names)), advice))
            for key in names:
                kind = archive.get_slice(key).get_dtype()
                if kind not in usable:
                    raise error(
                        _line(f"{name}: {brief(key)} holds numbers of the kind {brief(kind)}, which are not read", advice)
                    )
            tensors = {key: archive.get_tensor(key) for key in names}
            notes = dict(archive.metadata() or {})
    except MRLError:
        raise
    except FileNotFoundError:
        raise
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        OverflowError,
        MemoryError,
    ) as reason:
        raise error(_line(f"{name} is damaged or no safetensors file ({said(reason)})", advice)) from reason
    return Tensors(tensors, notes)


def require_floats(tensors: Mapping[str, Any], name: str, *, error: ErrorKind = DataError, advice: str = "") -> None:
    """Refuse arrays that are not of finite floating-point numbers.

    Raises:
        MRLError: of the kind ``error``.
    """
    import numpy as np

    for key, array in tensors.items():
        if array.dtype.kind != "f":
            raise error(_line(f"{name}: {brief(key)} holds {array.dtype}, expected floating-point numbers", advice))
        if not bool(np.isfinite(array).all()):
            raise error(_line(f"{name}: {brief(key)} holds NaN or infinity", advice))


# --- words for messages


def absence(name: str, wanted: Collection[str], found: Collection[str]) -> str:
    """Return what is wrong with a file that does not hold what it must."""
    return f"{name}: expected {' and '.join(map(repr, wanted))} in it, found {brief(list(found))}"


def said(reason: BaseException, *, most: int = 160) -> str:
    """Return what an exception says, short and on one line."""
    if isinstance(reason, MemoryError):
        return "there is not enough memory for it"
    text = (reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)) or type(reason).__name__
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def reason_of(error: Exception) -> str:
    """Return why one item of many cannot be used: what one of our errors says, or what anything else is and says."""
    if isinstance(error, MRLError):
        return " ".join(str(error).split())
    return said(error) if isinstance(error, (MemoryError, OSError)) else f"{type(error).__name__}: {said(error)}"


def brief(value: Any, *, most: int = 80) -> str:
    """Return how a value is written in Python, however large or deep it is, in a few words."""
    import reprlib

    writer = reprlib.Repr()
    writer.maxlevel, writer.maxdict, writer.maxlist, writer.maxtuple, writer.maxset = 3, 4, 8, 8, 4
    writer.maxstring = writer.maxother = writer.maxlong = most
    try:
        text = writer.repr(value)
    except Exception:  # a repr of somebody else's
        text = type(value).__name__
    return text if len(text) <= most else f"{text[: most - 1]}…"


def kind_of(value: Any) -> str:
    """Return what JSON calls a value of this kind."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _line(text: str, advice: str) -> str:
    return f"{text}; {advice}" if advice else text


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _whole_number(text: str) -> int:
    if len(text) > LIMITS.digits:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is beyond what can be computed with")
    return value


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(LIMITS.depth + 1):
        level = [
            part
            for item in level
            if isinstance(item, (dict, list))
            for part in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")
