"""Writing a network as one self-contained ONNX graph of standard operators, without traces of the machine that wrote it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mrl.deployment.network import FeatureNetwork, InputKind, WaveformNetwork
from mrl.errors import ExportError, MissingDependencyError
from mrl.runtime.description import Description
from mrl.runtime.embedder import EMBEDDING, RAW_EMBEDDING

# Smaller and faster forms of an ONNX graph: weights stored in 16 bit, and 8-bit arithmetic.
#
# The front end stays in float32 in every form: the power spectrum spans more than eight bits or a half-precision number can
# hold. The layers after pooling are never computed in eight bits: they are small and decide the cosine.


Precision = Literal["fp32", "fp16", "int8-dynamic", "int8-static"]


PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8-dynamic", "int8-static")


MINIMUM_COSINE: dict[Precision, float] = {"fp32": 0.99999, "fp16": 0.9999, "int8-dynamic": 0.98, "int8-static": 0.9}
"""Smallest cosine with the PyTorch network that a file may have; below it the file is not written. The floors of the 8-bit forms
only catch what is broken: whether they are good enough is for the error rates to say."""


_SMALLEST_TENSOR = 64  # elements; storing fewer in 16 bits saves nothing


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
                # Processors without VNNI add pairs of 8-bit products in 16 bits, which saturate unless weights have 7 bits.
                "reduce_range": True,
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
            raise ExportError(f"the graph cannot be converted to {precision}: {type(error).__name__}: {detail}") from error
        return onnx.load(str(result))


def model_hash(description: Description, graph: Any) -> str:
    """Return a hash that files share whose embeddings may be mixed.

    Weights in 16 bits change embeddings too little to matter; 8-bit arithmetic makes a different model.
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


OPSET = 20
"""The first one with GELU as one operator; ONNX Runtime reads it from 1.17 on."""


_MOST_BYTES = 2**31 - 1  # of a protocol buffer, and so of an ONNX file without companions


_STANDARD_DOMAINS = ("", "ai.onnx")


def to_onnx(network: WaveformNetwork | FeatureNetwork, kind: InputKind, minimum_samples: int) -> Any:
    """Return the network as an ``onnx.ModelProto`` with dynamic batch and length, without a description.

    Inputs: ``waveform (batch, samples)``, or ``features (batch, frames, bands)``. Outputs: ``embedding``, of unit length, and
    ``raw_embedding``, both ``(batch, embed_dim)``.

    Raises:
        ExportError: the graph cannot be written with standard operators, or would not fit one file.
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    onnx = require_onnx()
    example, dimensions = example_input(network, kind, minimum_samples)
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[kind],
            output_names=[EMBEDDING, RAW_EMBEDDING],
            dynamic_shapes=(dimensions,),
        )
    if program is None:
        raise ExportError("PyTorch's exporter gave no graph; this happens with versions before 2.6")
    model = program.model_proto
    foreign = sorted({node.domain for node in model.graph.node if node.domain not in _STANDARD_DOMAINS})
    if foreign or model.functions:
        raise ExportError(f"the graph needs operators beyond standard ONNX ({', '.join(foreign) or 'functions'})")
    if model.ByteSize() > _MOST_BYTES:
        raise ExportError(f"the graph has {model.ByteSize():,} bytes; one ONNX file holds at most {_MOST_BYTES:,}")
    without_traces(model)
    _name_axes(model, kind)
    onnx.checker.check_model(model, full_check=True)
    return model


def describe_in(model: Any, description: Description) -> None:
    """Write a description into a model's properties, in place of what is there."""
    del model.metadata_props[:]
    for name, text in description.to_properties().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    model.producer_name, model.producer_version = "redimnet-mrl", description.version


def example_input(
    network: WaveformNetwork | FeatureNetwork, kind: InputKind, minimum_samples: int
) -> tuple[Tensor, dict[int, Any]]:
    """Return an input to trace a network with, and the axes of it that may have any size."""
    # Named axes with bounds would be refused: the tracer cannot know that samples // hop_length is never 0.
    free = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    if kind == "waveform":
        return torch.zeros(2, 16 * minimum_samples + 1), free
    return torch.zeros(2, 37, network.bands), free


def without_traces(model: Any) -> None:
    """Take out, in place, what the exporter notes for debugging: stack traces with the paths of this machine."""
    graph = model.graph
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph, model):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]


def require_onnx() -> Any:
    """Return the module ``onnx``.

    Raises:
        MissingDependencyError: it, onnxscript or ONNX Runtime is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f'exporting to ONNX needs onnx, onnxscript and onnxruntime ({error}): pip install "redimnet-mrl[onnx]"'
        ) from error
    return onnx


def _name_axes(model: Any, kind: InputKind) -> None:
    names = ("batch", "samples") if kind == "waveform" else ("batch", "frames")
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if axis.HasField("dim_param"):
                axis.dim_param = name


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep to ourselves what the exporter says about packages that are not there and about its own deprecations."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        registration.setLevel(before)
