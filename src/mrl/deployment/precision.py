"""Smaller and faster forms of an ONNX graph: weights stored in 16 bit, and 8-bit arithmetic.

The front end stays in float32 in every form: the power spectrum spans more than eight bits or a half-precision number can hold.
The layers after pooling are never computed in eight bits: they are small and decide the cosine.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mrl.errors import ExportError
from mrl.runtime.description import Description

Precision = Literal["fp32", "fp16", "int8-dynamic", "int8-static"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8-dynamic", "int8-static")
MINIMUM_COSINE: dict[Precision, float] = {"fp32": 0.99999, "fp16": 0.9999, "int8-dynamic": 0.98, "int8-static": 0.9}
"""Smallest cosine with the PyTorch network that a file may have; below it the file is not written. The floors of the 8-bit forms
only catch what is broken: whether they are good enough is for the error rates to say."""

_SMALLEST_TENSOR = 64  # numbers; storing fewer in 16 bit saves nothing
_EXACT_IN_16_BIT = ("log_mel.", "normalisation.", "pooled_norm.", "head_norm.")
_EXACT_IN_8_BIT = (*_EXACT_IN_16_BIT, "head.")

Feed = dict[str, npt.NDArray[np.float32]]


def with_half_weights(model: Any) -> None:
    """Store the weights of an ``onnx.ModelProto`` in 16 bit, in place; the graph casts them back and computes in float32.

    The file is half as large, and every runtime folds the casts when it loads the file, so speed stays the same everywhere.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if (
            tensor.data_type != TensorProto.FLOAT
            or int(np.prod(tensor.dims)) < _SMALLEST_TENSOR
            or _in(_EXACT_IN_16_BIT, tensor.name)
        ):
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def quantised(model: Any, precision: Precision, calibration: Callable[[], Iterator[Feed]] | None = None) -> Any:
    """Return an ``onnx.ModelProto`` in 8-bit arithmetic.

    "int8-dynamic" quantises the matrix products with fixed weights, activations as they come. "int8-static" quantises
    convolutions, too, with the ranges of activations that the calibration inputs show.

    Args:
        model: the fp32 graph.
        precision: "int8-dynamic" or "int8-static".
        calibration: gives inputs like those to come, for "int8-static".

    Raises:
        ExportError: the quantiser cannot take the graph.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="mrl-int8-") as folder, _quiet_quantiser():
        plain, ready, result = (Path(folder) / name for name in ("plain.onnx", "ready.onnx", "int8.onnx"))
        onnx.save(model, str(plain))
        try:
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
            shared: dict[str, Any] = {
                "per_channel": True,
                "weight_type": quantization.QuantType.QInt8,
                "nodes_to_exclude": _exact_nodes(onnx.load(str(ready))),
                "extra_options": {"MatMulConstBOnly": True},
            }
            if precision == "int8-dynamic":
                quantization.quantize_dynamic(str(ready), str(result), op_types_to_quantize=["MatMul"], **shared)
            else:
                assert calibration is not None  # asked for by the caller
                quantization.quantize_static(
                    str(ready),
                    str(result),
                    _reader(calibration()),
                    quant_format=quantization.QuantFormat.QDQ,
                    op_types_to_quantize=["Conv", "MatMul"],
                    activation_type=quantization.QuantType.QUInt8,
                    **shared,
                )
        except Exception as error:
            # The quantiser raises plain errors of many kinds.
            detail = " ".join(str(error).split())[:160]
            raise ExportError(f"the graph cannot be brought to {precision}: {type(error).__name__}: {detail}") from error
        return onnx.load(str(result))


def model_hash(description: Description, graph: Any) -> str:
    """Return a hash that files share whose embeddings may be mixed.

    Weights in 16 bit move embeddings less than any use of them can tell; 8-bit arithmetic makes a model of its own.
    """
    if description.precision in ("fp32", "fp16"):
        return description.weights_sha256
    digest = hashlib.sha256(f"{description.weights_sha256} {description.precision}".encode())
    for tensor in sorted(graph.graph.initializer, key=lambda tensor: str(tensor.name)):
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _in(parts: tuple[str, ...], name: str) -> bool:
    return name.removeprefix("network.").startswith(parts)


def _exact_nodes(model: Any) -> list[str]:
    return [node.name for node in model.graph.node if any(_in(_EXACT_IN_8_BIT, name) for name in node.input)]


def _reader(feeds: Iterator[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Feed | None:
            return next(feeds, None)

    return Reader()


@contextlib.contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """The quantiser reports progress and advice through the root logger, which it would even set up."""
    root = logging.getLogger()
    handler = logging.NullHandler()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname

    root.addHandler(handler)
    root.addFilter(from_elsewhere)
    try:
        yield
    finally:
        root.removeFilter(from_elsewhere)
        root.removeHandler(handler)


def precisions_of(format_name: str) -> Sequence[Precision]:
    """Return the precisions that a file format can have."""
    known: dict[str, tuple[Precision, ...]] = {"onnx": PRECISIONS, "openvino": ("fp32", "fp16", "int8-static"), "pt2": ("fp32",)}
    return known[format_name]
