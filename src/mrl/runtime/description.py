"""What an exported file says about itself: carried inside the file as text properties, and beside it as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrl.bounded import brief, kind_of, parse_json, record
from mrl.errors import CheckpointError

FORMAT = "redimnet-mrl-export/1"
_KINDS, _INPUTS = ("matryoshka", "backbone"), ("waveform", "features")
_RATES, _LONGEST_MINIMUM, _LARGEST_DIM = (100, 1_000_000), 1 << 20, 1 << 20

Json = dict[str, Any]


@dataclass(frozen=True)
class Description:
    """The facts that travel with an exported model.

    Attributes:
        version: of the package that wrote the file.
        kind: "matryoshka" (prefixes are embeddings) or "backbone" (a plain ReDimNet).
        input: "waveform" ``(batch, samples)``, or "features" ``(batch, frames, bands)``: log-mel before normalisation over time.
        precision: "fp32", "fp16" (weights stored in 16 bit), "int8-dynamic" or "int8-static".
        sample_rate: of the waveforms, in Hz.
        minimum_samples: length of the shortest waveform.
        embed_dim: length of the whole embedding.
        mrl_dims: prefix lengths that the model was made for, ascending; the last one is ``embed_dim``.
        front_end: how waveforms become features; exact, for toolkits that compute features themselves.
        model_config: the network, as official checkpoints describe it.
        weights_sha256: of the network's weights, whatever file they came from (:func:`mrl.embeddings.weights_sha256`).
        model_hash: the same for files whose embeddings may be mixed: the weights' for fp32 and fp16, one of its own for int8.
        source: the released checkpoint that the model comes from; None if unknown.
        licence: of the weights.
        calibration: as in a model folder's ``calibration.json``; None without one. It was made with the fp32 network.
        opset: of ONNX; None for other formats.
        cut: for the first stages of another network: ``depth`` (after how many), ``stages`` (how many that one has) and
            ``whole_sha256`` (the hash of its weights); None for a whole network.
    """

    version: str
    kind: str
    input: str
    precision: str
    sample_rate: int
    minimum_samples: int
    embed_dim: int
    mrl_dims: tuple[int, ...]
    front_end: Json
    model_config: Json
    weights_sha256: str
    model_hash: str
    source: Json | None
    licence: str
    calibration: Json | None
    opset: int | None
    cut: Json | None = None

    def to_dict(self) -> Json:
        """Return JSON values, the format first."""
        return {"format": FORMAT, **dataclasses.asdict(self), "mrl_dims": list(self.mrl_dims)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Description:
        """Read what :meth:`to_dict` gave; ``where`` names the file in errors.

        Raises:
            CheckpointError: another format, or something is missing.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{where} holds {kind_of(values)} instead of a description; write it again with mrl export")
        if values.get("format") != FORMAT:
            raise CheckpointError(
                f"{where} is of the format {brief(values.get('format'))}; this version reads {FORMAT!r}; write it with mrl export"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        # Files of earlier versions say nothing where there is a default.
        optional = {field.name for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING}
        missing = [name for name in names if name not in values and name not in optional]
        if missing:
            raise CheckpointError(f"{where} does not state its {', '.join(missing)}; write the file again with mrl export")
        advice = "write the file again with mrl export"
        description = record(cls, dict(values), where, error=CheckpointError, advice=advice, ignore_unknown=True)
        sensible = (
            description.kind in _KINDS
            and description.input in _INPUTS
            and _RATES[0] <= description.sample_rate <= _RATES[1]
            and 1 <= description.minimum_samples <= _LONGEST_MINIMUM
            and 1 <= description.embed_dim <= _LARGEST_DIM
            and len(description.mrl_dims) > 0
            and all(1 <= dim <= description.embed_dim for dim in description.mrl_dims)
        )
        if not sensible:
            facts = (
                description.kind,
                description.input,
                description.sample_rate,
                description.minimum_samples,
                description.embed_dim,
                description.mrl_dims,
            )
            raise CheckpointError(
                f"{where} says what cannot be (kind, input, rate, shortest waveform and dims: {brief(facts)}); {advice}"
            )
        return description

    def to_properties(self) -> dict[str, str]:
        """Return text properties, as ONNX and OpenVINO keep them: words as they are, everything else as JSON."""
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
            for name, value in self.to_dict().items()
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], where: str) -> Description:
        """Read what :meth:`to_properties` gave; ``where`` names the file in errors.

        Raises:
            CheckpointError: the properties are not there (a model from elsewhere), or damaged.
        """
        if "format" not in properties:
            raise CheckpointError(
                f"{where} was not written by mrl export: it does not state its sample rate, prefix lengths and input; "
                "export the model folder or checkpoint that it was made from"
            )
        words = {field.name for field in dataclasses.fields(cls) if field.type == "str"} | {"format"}
        try:
            values = {
                name: text if name in words else parse_json(text, f"{where}: the property {brief(name)}", error=CheckpointError)
                for name, text in properties.items()
            }
        except CheckpointError as error:
            raise CheckpointError(f"{error}; export the model again") from error
        return cls.from_dict(values, where)
