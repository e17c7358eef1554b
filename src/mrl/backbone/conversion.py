"""From and to official weights: a two-way conversion, exact to the bit.

Each entry says which official tensors make one of ours; several are put one below another. All conversions only move numbers:
``SWAP`` exchanges the last two axes (the official maps are bands x frames, ours frames x bands), ``POINT`` drops a trailing
kernel axis of size one, ``MAP`` adds a band axis to a 1-D convolution, ``SUM`` drops the two axes around the logits of a sum. A
family lists its entries in its ``official.py``; those of the layers that families share are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrl.backbone.config import BackboneConfig
from mrl.backbone.frontend_config import FrontEndConfig
from mrl.errors import CheckpointError

NORM = ("weight", "bias")
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_LISTED = 4


@dataclass(frozen=True)
class Kind:
    """How one tensor becomes the other, and back."""

    to_ours: Callable[[Tensor], Tensor]
    to_official: Callable[[Tensor], Tensor]


SAME = Kind(lambda t: t, lambda t: t)
SWAP = Kind(lambda t: t.transpose(-1, -2), lambda t: t.transpose(-1, -2))
POINT = Kind(lambda t: t.squeeze(-1), lambda t: t.unsqueeze(-1))
MAP = Kind(lambda t: t.unsqueeze(-1), lambda t: t.squeeze(-1))
SUM = Kind(lambda t: t.squeeze(-1).squeeze(0), lambda t: t.unsqueeze(0).unsqueeze(-1))


@dataclass(frozen=True)
class Entry:
    """One of our tensors and what it is made of."""

    ours: str
    official: tuple[str, ...]
    kind: Kind = SAME


def load_official(model: nn.Module, entries: Sequence[Entry], state_dict: Mapping[str, Tensor]) -> None:
    """Fill ``model`` with official weights, strictly.

    Raises:
        CheckpointError: missing, surplus or misshapen entries, counted and the first few named.
    """
    expected = {name for entry in entries for name in entry.official}
    _refuse("lack", sorted(expected - set(state_dict)))
    _refuse("hold", sorted(set(state_dict) - expected))
    ours = model.state_dict()
    loaded: dict[str, Tensor] = {}
    wrong = []
    for entry in entries:
        parts = [state_dict[name] for name in entry.official]
        template = entry.kind.to_official(ours[entry.ours])
        shape = (template.shape[0] // len(parts), *template.shape[1:]) if len(parts) > 1 else tuple(template.shape)
        for name, part in zip(entry.official, parts, strict=True):
            if tuple(part.shape) != tuple(shape):
                wrong.append(f"{name} has the shape {tuple(part.shape)}, expected {tuple(shape)}")
        if not wrong:
            whole = torch.cat(parts) if len(parts) > 1 else parts[0]
            loaded[entry.ours] = entry.kind.to_ours(whole)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"the weights do not fit the network that model_config describes: {wrong[0]}{more}; fetch the file again"
        )
    model.load_state_dict(loaded, strict=True)


def to_official_state_dict(model: nn.Module, entries: Sequence[Entry]) -> dict[str, Tensor]:
    """Return the weights of ``model`` under their official names and shapes."""
    ours = model.state_dict()
    result: dict[str, Tensor] = {}
    for entry in entries:
        tensor = entry.kind.to_official(ours[entry.ours]).detach()
        parts = tensor.chunk(len(entry.official)) if len(entry.official) > 1 else (tensor,)
        for name, part in zip(entry.official, parts, strict=True):
            result[name] = part.clone(memory_format=torch.contiguous_format)
    return result


def _refuse(verb: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        surplus = "" if verb == "lack" else ", which the network described by model_config does not have"
        raise CheckpointError(
            f"the weights {verb} {len(names)} entries{surplus}: {shown}; the file is damaged or of another kind"
        )


def module_entries(ours: str, official: str, kind: Kind = SAME, *, bias: bool = True) -> Iterator[Entry]:
    """Yield weight and bias of a linear layer or convolution."""
    yield Entry(f"{ours}.weight", (f"{official}.weight",), kind)
    if bias:
        yield Entry(f"{ours}.bias", (f"{official}.bias",))


def norm_entries(ours: str, official: str, leaves: tuple[str, ...]) -> Iterator[Entry]:
    """Yield what a normalisation has: ``NORM`` or ``BATCH_NORM``."""
    for leaf in leaves:
        yield Entry(f"{ours}.{leaf}", (f"{official}.{leaf}",))


def mel_entries(config: FrontEndConfig) -> Iterator[Entry]:
    """Yield the front end of the first generation."""
    if config.pre_emphasis:
        yield Entry("front_end.pre_emphasis_filter", ("spec.torchfbank.1.flipped_filter",))
    yield Entry("front_end.window", ("spec.torchfbank.2.spectrogram.window",))
    yield Entry("front_end.filters", ("spec.torchfbank.2.mel_scale.fb",))
    if config.normalisation == "bn":
        yield from norm_entries("front_end.norm", "spec.spec_norm", BATCH_NORM)


def block_entries(kind: str, ours: str, official: str, *, grouped: bool, num_kernels: int = 1) -> Iterator[Entry]:
    """Yield a 2-D block of the official type ``kind``."""
    if kind.startswith("convnext_like"):
        for kernel in range(num_kernels):
            yield from module_entries(f"{ours}.convs.{kernel}", f"{official}.dwconvs.{kernel}", SWAP)
        yield from norm_entries(f"{ours}.norm", f"{official}.norm", BATCH_NORM)
        yield from module_entries(f"{ours}.pointwise", f"{official}.pwconv1")
        return
    for half in (1, 2):
        yield from module_entries(f"{ours}.conv{half}", f"{official}.conv{half}", SWAP, bias=False)
        if grouped:
            yield from module_entries(f"{ours}.pointwise{half}", f"{official}.conv{half}pw")
        yield from norm_entries(f"{ours}.norm{half}", f"{official}.bn{half}", BATCH_NORM)
    if kind == "basic_resnet_fwse":
        yield from module_entries(f"{ours}.excitation.squeeze", f"{official}.se.squeeze")
        yield from module_entries(f"{ours}.excitation.excite", f"{official}.se.exitation")


def context_entries(kind: str, ours: str, official: str) -> Iterator[Entry]:
    """Yield a time context of the official type ``kind``."""
    yield from module_entries(f"{ours}.reduce", f"{official}.red_dim_conv.0", POINT)
    yield from norm_entries(f"{ours}.norm", f"{official}.red_dim_conv.1", NORM)
    if kind == "fc":
        yield from module_entries(f"{ours}.layers.0.feed_in", f"{official}.tcm.0", POINT)
        yield from norm_entries(f"{ours}.layers.0.norm", f"{official}.tcm.1", NORM)
        yield from module_entries(f"{ours}.layers.0.feed_out", f"{official}.tcm.3", POINT)
    elif kind == "att":
        yield from module_entries(f"{ours}.layers.0.conv", f"{official}.tcm.0.conv", MAP)
        yield from norm_entries(f"{ours}.layers.0.norm", f"{official}.tcm.0.norm", NORM)
        yield from _transformer(f"{ours}.layers.1", f"{official}.tcm.1")
    else:
        kernels = 3 if kind == "conv" else 1
        for layer in range(4):
            yield from _time_conv(f"{ours}.layers.{layer}.block", f"{official}.tcm.{layer}", kernels)
        if kind == "conv+att":
            yield from _transformer(f"{ours}.layers.4", f"{official}.tcm.4")
    yield from module_entries(f"{ours}.expand", f"{official}.exp_dim_conv", POINT)


def _time_conv(ours: str, official: str, kernels: int) -> Iterator[Entry]:
    for kernel in range(kernels):
        yield from module_entries(f"{ours}.convs.{kernel}", f"{official}.dwconvs.{kernel}", MAP)
    yield from norm_entries(f"{ours}.norm", f"{official}.norm", BATCH_NORM)
    yield from module_entries(f"{ours}.pointwise", f"{official}.pwconv1", MAP)


def _transformer(ours: str, official: str) -> Iterator[Entry]:
    for leaf in NORM:
        parts = tuple(f"{official}.attention.{part}_proj.{leaf}" for part in ("q", "k", "v"))
        yield Entry(f"{ours}.attention.query_key_value.{leaf}", parts)
    yield from module_entries(f"{ours}.attention.output", f"{official}.attention.out_proj")
    yield from norm_entries(f"{ours}.norm1", f"{official}.layer_norm", NORM)
    yield from module_entries(f"{ours}.feed_in", f"{official}.feed_forward.intermediate_dense")
    yield from module_entries(f"{ours}.feed_out", f"{official}.feed_forward.output_dense")
    yield from norm_entries(f"{ours}.norm2", f"{official}.final_layer_norm", NORM)


def pooling_entries(kind: str, ours: str = "pooling") -> Iterator[Entry]:
    """Yield the pooling that an official ``pooling_func`` names."""
    if kind == "ASTP":
        yield from module_entries(f"{ours}.hidden", "pool.linear1", POINT)
        yield from module_entries(f"{ours}.logits", "pool.linear2", POINT)
    elif kind == "MHASTP":
        yield from _pooling_heads(ours, "pool", 2)
    elif kind == "MQMHASTP":
        for query in range(2):
            yield from _pooling_heads(f"{ours}.queries.{query}", f"pool.n_query.{query}", 8)


def _pooling_heads(ours: str, official: str, num_heads: int) -> Iterator[Entry]:
    for head in range(num_heads):
        yield from module_entries(f"{ours}.hidden.{head}", f"{official}.heads_att_trans.{head}.att_0", POINT)
        yield from module_entries(f"{ours}.logits.{head}", f"{official}.heads_att_trans.{head}.att_1", POINT)


def stem_entries() -> Iterator[Entry]:
    """Yield what comes before the first stage."""
    yield from module_entries("encoder.stem", "backbone.stem.0", SWAP)
    yield from norm_entries("encoder.stem_norm", "backbone.stem.1", NORM)


def head_entries(config: BackboneConfig, pooling: str = "pooling") -> Iterator[Entry]:
    """Yield what comes after the frame features: pooling, its norm, embedding."""
    yield from pooling_entries(config.pooling, pooling)
    yield from norm_entries("pooled_norm", "bn", BATCH_NORM)
    yield from module_entries("embedding", "linear")
    if config.embedding_norm:
        yield from norm_entries("embedding_norm", "bn2", BATCH_NORM)
