"""Building the files of one exported form in a folder of their own, before anything in the user's folder changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mrl.deployment.checks import Reference
from mrl.deployment.formats import FORMATS, FormatName, require_openvino
from mrl.deployment.network import InputKind, export_network
from mrl.deployment.onnx_graph import (
    Precision,
    describe_in,
    example_input,
    model_hash,
    quantised,
    require_onnx,
    to_onnx,
    with_half_weights,
)
from mrl.runtime.description import Description

Feed = dict[str, npt.NDArray[np.float32]]


class GraphBuilder:
    """Writes any form of one network; the ONNX graph behind most of them is traced once.

    Args:
        reference: the network and what goes into its exported form.
        description: of the fp32 form.
        calibration: waveforms (samples,) for "int8-static"; empty where that is not wanted.
    """

    def __init__(self, reference: Reference, description: Description, calibration: list[npt.NDArray[np.float32]]) -> None:
        self._reference = reference
        self._description = description
        self._calibration = calibration
        self._graph: Any = None

    def write(self, format_name: FormatName, precision: Precision, path: Path) -> Description:
        """Write one form to ``path`` (and its companions) and return its description.

        Raises:
            ExportError: the network cannot be brought to this form.
            MissingDependencyError: a package is not installed.
        """
        if format_name == "pt2":
            return self._write_program(path)
        if format_name == "openvino":
            return self._write_openvino(precision, path)
        graph, description = self._onnx(precision)
        require_onnx().save(graph, str(path))
        return description

    def _onnx(self, precision: Precision) -> tuple[Any, Description]:
        onnx = require_onnx()
        if self._graph is None:
            network = export_network(self._reference.model, self._reference.kind)
            self._graph = to_onnx(network, self._reference.kind, self._description.minimum_samples)
        graph = onnx.ModelProto()
        graph.CopyFrom(self._graph)
        if precision == "fp16":
            with_half_weights(graph)
            onnx.checker.check_model(graph, full_check=True)
        elif precision != "fp32":
            graph = quantised(graph, precision, self._feeds)
        opset = next(int(entry.version) for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
        description = replace(self._description, precision=precision, opset=opset)
        description = replace(description, model_hash=model_hash(description, graph))
        describe_in(graph, description)
        return graph, description

    def _feeds(self) -> Iterator[Feed]:
        for waveform in self._calibration:
            yield {self._reference.kind: self._reference.feed(waveform[None])}

    def _write_openvino(self, precision: Precision, path: Path) -> Description:
        openvino = require_openvino()
        # OpenVINO stores weights in 16 bit by itself; from a graph that has done so it would make 32-bit ones again.
        graph, description = self._onnx("fp32" if precision == "fp16" else precision)
        description = replace(description, precision=precision, opset=None)
        onnx_file = path.with_suffix(".source.onnx")
        require_onnx().save(graph, str(onnx_file))
        try:
            model = openvino.convert_model(str(onnx_file))
        finally:
            onnx_file.unlink()
        text = json.dumps(description.to_dict(), ensure_ascii=False)
        model.set_rt_info(text, ["redimnet_mrl", FORMATS["openvino"].description_entry])
        openvino.save_model(model, str(path), compress_to_fp16=precision == "fp16")
        return description

    def _write_program(self, path: Path) -> Description:
        kind: InputKind = self._reference.kind
        network = export_network(self._reference.model, kind, fused_attention=True)
        example, free = example_input(network, kind, self._description.minimum_samples)
        program = torch.export.export(network, (example,), dynamic_shapes=(free,))
        text = json.dumps(self._description.to_dict(), ensure_ascii=False)
        torch.export.save(program, str(path), extra_files={FORMATS["pt2"].description_entry: text})
        return self._description
