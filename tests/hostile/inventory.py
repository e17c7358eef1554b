"""Which functions of the package read what somebody else may have written, found in its source."""

from __future__ import annotations

import ast
from pathlib import Path

import mrl

# Calls with which reading begins: those of the package's own bounded readers, and of libraries that parse files.
_READING = frozenset(
    {
        *("open_regular", "read_bytes", "read_text", "read_json", "read_json_object", "parse_json", "parse_yaml"),
        *("read_npz", "read_npy", "read_safetensors", "read_parquet", "lines_of", "record"),
        *(
            "json.load",
            "json.loads",
            "yaml.load",
            "yaml.safe_load",
            "pickle.load",
            "pickle.loads",
            "torch.load",
            "torch.export.load",
        ),
        *("np.load", "numpy.load", "safe_open", "load_file", "parquet.read_table", "parquet.ParquetFile", "sqlite3.connect"),
        *("av.open", "soundfile.SoundFile", "soundfile.read", "zipfile.ZipFile", "tarfile.open", "gzip.open", "gzip.GzipFile"),
        *("onnx.load", "onnxruntime.InferenceSession", "csv.reader", "csv.DictReader", "np.memmap", "opener.open"),
        *(".read_text", ".read_bytes", ".read_model"),
    }
)
_BELOW = frozenset({"bounded", "bounded_tables"})  # the readers themselves


def reading_functions() -> dict[str, set[str]]:
    """Return ``{"module:function": calls}`` of every function of the package in which reading begins."""
    root = Path(mrl.__file__).parent
    found: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        if module not in _BELOW:
            for name, node in _functions(ast.parse(path.read_text(encoding="utf-8")), ""):
                calls = {call for call in _calls(node) if call in _READING or f".{call.rpartition('.')[2]}" in _READING}
                if calls:
                    found[f"{module}:{name}"] = calls
    return found


def _functions(node: ast.AST, prefix: str) -> list[tuple[str, ast.AST]]:
    found: list[tuple[str, ast.AST]] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            found += _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append((f"{prefix}{child.name}", child))
    return found


def _calls(node: ast.AST) -> set[str]:
    return {ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}
