"""Writing a network as one self-contained ONNX graph of standard operators, without traces of the machine that wrote it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mrl.deployment.network import FeatureNetwork, InputKind, WaveformNetwork
from mrl.errors import ExportError, MissingDependencyError
from mrl.runtime.description import Description
from mrl.runtime.embedder import EMBEDDING, RAW_EMBEDDING

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
