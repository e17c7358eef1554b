"""Opening an ONNX file with ONNX Runtime, for this process's processors, without changing anything outside the session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mrl.errors import CheckpointError, InputError, MissingDependencyError


def open_session(path: str | os.PathLike[str], threads: int | None = None) -> Any:
    """Return an ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        path: the ONNX file.
        threads: of this session; as many as the process may use processors when None.

    Raises:
        InputError: no such file, or an unusable number of threads.
        CheckpointError: the file is damaged or no ONNX model.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{file} does not exist or is not a file; give a file written by mrl export")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads={threads!r} is not a number of threads; expected a whole number from 1 up, or None")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            'running .onnx files needs ONNX Runtime: pip install "redimnet-mrl[onnx]" (or: pip install onnxruntime)'
        ) from error
    options = onnxruntime.SessionOptions()
    # Stated, because the default also ties threads to processors, which containers refuse with a warning.
    options.intra_op_num_threads = threads or usable_processors()
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # plans memory for one shape; recordings have many
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # Its error classes derive from Exception only and differ between versions.
        detail = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{file} is damaged or not an ONNX model ({detail}); export or copy it again") from error


def properties_of(session: Any, file: Path) -> dict[str, str]:
    """Return the text properties of an open model.

    Raises:
        CheckpointError: they are not UTF-8.
    """
    try:
        return dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is damaged: its properties are not UTF-8 text; export or copy it again") from error


def usable_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
