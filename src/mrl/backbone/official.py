"""The one place that knows the names and shapes of the official state dict: a two-way conversion, exact to the bit.

Each entry says which official tensors make one of ours; several are put one below another. All conversions only move numbers:
``_SWAP`` exchanges the last two axes (the official maps are bands x frames, ours frames x bands), ``_POINT`` drops a trailing
kernel axis of size one, ``_MAP`` adds a band axis to a 1-D convolution, ``_SUM`` drops the two axes around the logits of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrl.backbone.config import ReDimNetConfig
from mrl.errors import CheckpointError

_NORM = ("weight", "bias")
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_LISTED = 4


@dataclass(frozen=True)
class _Kind:
    to_ours: Callable[[Tensor], Tensor]
    to_official: Callable[[Tensor], Tensor]


_SAME = _Kind(lambda t: t, lambda t: t)
_SWAP = _Kind(lambda t: t.transpose(-1, -2), lambda t: t.transpose(-1, -2))
_POINT = _Kind(lambda t: t.squeeze(-1), lambda t: t.unsqueeze(-1))
_MAP = _Kind(lambda t: t.unsqueeze(-1), lambda t: t.squeeze(-1))
_SUM = _Kind(lambda t: t.squeeze(-1).squeeze(0), lambda t: t.unsqueeze(0).unsqueeze(-1))


@dataclass(frozen=True)
class _Entry:
    ours: str
    official: tuple[str, ...]
    kind: _Kind = _SAME


def load_official(model: nn.Module, config: ReDimNetConfig, state_dict: Mapping[str, Tensor]) -> None:
    """Fill ``model`` with official weights, strictly.

    Raises:
        CheckpointError: missing, surplus or misshapen entries, counted and the first few named.
    """
    entries = list(_entries(config))
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


def to_official_state_dict(model: nn.Module, config: ReDimNetConfig) -> dict[str, Tensor]:
    """Return the weights of ``model`` under their official names and shapes."""
    ours = model.state_dict()
    result: dict[str, Tensor] = {}
    for entry in _entries(config):
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


def _module(ours: str, official: str, kind: _Kind = _SAME, *, bias: bool = True) -> Iterator[_Entry]:
    yield _Entry(f"{ours}.weight", (f"{official}.weight",), kind)
    if bias:
        yield _Entry(f"{ours}.bias", (f"{official}.bias",))


def _norm(ours: str, official: str, leaves: tuple[str, ...]) -> Iterator[_Entry]:
    for leaf in leaves:
        yield _Entry(f"{ours}.{leaf}", (f"{official}.{leaf}",))


def _entries(config: ReDimNetConfig) -> Iterator[_Entry]:
    yield from _front_end(config)
    yield from _module("encoder.stem", "backbone.stem.0", _SWAP)
    yield from _norm("encoder.stem_norm", "backbone.stem.1", _NORM)
    for index in range(len(config.stages)):
        yield from _stage(config, index)
    yield _Entry("encoder.final_sum.logits", ("backbone.fin_wght1d.w",), _SUM)
    if config.frame_dim is not None:
        yield from _module("encoder.frame_projection", "backbone.mfa.0", _POINT)
        yield from _norm("encoder.frame_norm", "backbone.mfa.1", _BATCH_NORM)
    yield from _pooling(config)
    yield from _norm("pooled_norm", "bn", _BATCH_NORM)
    yield from _module("embedding", "linear")
    if config.embedding_norm:
        yield from _norm("embedding_norm", "bn2", _BATCH_NORM)
    if config.num_classes is not None:
        yield from _module("classifier.2", "cls_head.2")


def _front_end(config: ReDimNetConfig) -> Iterator[_Entry]:
    if config.front_end.pre_emphasis:
        yield _Entry("front_end.pre_emphasis_filter", ("spec.torchfbank.1.flipped_filter",))
    yield _Entry("front_end.window", ("spec.torchfbank.2.spectrogram.window",))
    yield _Entry("front_end.filters", ("spec.torchfbank.2.mel_scale.fb",))
    if config.front_end.normalisation == "bn":
        yield from _norm("front_end.norm", "spec.spec_norm", _BATCH_NORM)


def _stage(config: ReDimNetConfig, index: int) -> Iterator[_Entry]:
    stage = config.stages[index]
    ours, official = f"encoder.stages.{index}", f"backbone.stage{index}"
    yield _Entry(f"{ours}.weighted_sum.logits", (f"{official}.0.w",), _SUM)
    yield from _module(f"{ours}.reshape", f"{official}.2", _SWAP)
    position = 3  # 1 is the change to 2-D, which has no weights
    for block in range(stage.num_blocks):
        yield from _block_2d(config, f"{ours}.blocks.{block}", f"{official}.{position}.conv_block")
        position += 1
    if stage.expansion != 1:
        yield from _module(f"{ours}.squeeze.conv", f"{official}.{position}.0", _SWAP)
        yield from _norm(f"{ours}.squeeze.norm", f"{official}.{position}.1", _BATCH_NORM)
        yield from _module(f"{ours}.squeeze.pointwise", f"{official}.{position}.3")
        position += 1
    position += 1  # the change to 1-D
    if stage.context_reduction is not None:
        yield from _context(config, f"{ours}.context", f"{official}.{position}")


def _block_2d(config: ReDimNetConfig, ours: str, official: str) -> Iterator[_Entry]:
    if config.block_2d.startswith("convnext_like"):
        yield from _module(f"{ours}.convs.0", f"{official}.dwconvs.0", _SWAP)
        yield from _norm(f"{ours}.norm", f"{official}.norm", _BATCH_NORM)
        yield from _module(f"{ours}.pointwise", f"{official}.pwconv1")
        return
    for half in (1, 2):
        yield from _module(f"{ours}.conv{half}", f"{official}.conv{half}", _SWAP, bias=False)
        if config.group_divisor is not None:
            yield from _module(f"{ours}.pointwise{half}", f"{official}.conv{half}pw")
        yield from _norm(f"{ours}.norm{half}", f"{official}.bn{half}", _BATCH_NORM)
    if config.block_2d == "basic_resnet_fwse":
        yield from _module(f"{ours}.excitation.squeeze", f"{official}.se.squeeze")
        yield from _module(f"{ours}.excitation.excite", f"{official}.se.exitation")


def _context(config: ReDimNetConfig, ours: str, official: str) -> Iterator[_Entry]:
    yield from _module(f"{ours}.reduce", f"{official}.red_dim_conv.0", _POINT)
    yield from _norm(f"{ours}.norm", f"{official}.red_dim_conv.1", _NORM)
    if config.block_1d == "fc":
        yield from _module(f"{ours}.layers.0.feed_in", f"{official}.tcm.0", _POINT)
        yield from _norm(f"{ours}.layers.0.norm", f"{official}.tcm.1", _NORM)
        yield from _module(f"{ours}.layers.0.feed_out", f"{official}.tcm.3", _POINT)
    elif config.block_1d == "att":
        yield from _module(f"{ours}.layers.0.conv", f"{official}.tcm.0.conv", _MAP)
        yield from _norm(f"{ours}.layers.0.norm", f"{official}.tcm.0.norm", _NORM)
        yield from _transformer(f"{ours}.layers.1", f"{official}.tcm.1")
    else:
        kernels = 3 if config.block_1d == "conv" else 1
        for layer in range(4):
            yield from _time_conv(f"{ours}.layers.{layer}.block", f"{official}.tcm.{layer}", kernels)
        if config.block_1d == "conv+att":
            yield from _transformer(f"{ours}.layers.4", f"{official}.tcm.4")
    yield from _module(f"{ours}.expand", f"{official}.exp_dim_conv", _POINT)


def _time_conv(ours: str, official: str, kernels: int) -> Iterator[_Entry]:
    for kernel in range(kernels):
        yield from _module(f"{ours}.convs.{kernel}", f"{official}.dwconvs.{kernel}", _MAP)
    yield from _norm(f"{ours}.norm", f"{official}.norm", _BATCH_NORM)
    yield from _module(f"{ours}.pointwise", f"{official}.pwconv1", _MAP)


def _transformer(ours: str, official: str) -> Iterator[_Entry]:
    for leaf in _NORM:
        parts = tuple(f"{official}.attention.{part}_proj.{leaf}" for part in ("q", "k", "v"))
        yield _Entry(f"{ours}.attention.query_key_value.{leaf}", parts)
    yield from _module(f"{ours}.attention.output", f"{official}.attention.out_proj")
    yield from _norm(f"{ours}.norm1", f"{official}.layer_norm", _NORM)
    yield from _module(f"{ours}.feed_in", f"{official}.feed_forward.intermediate_dense")
    yield from _module(f"{ours}.feed_out", f"{official}.feed_forward.output_dense")
    yield from _norm(f"{ours}.norm2", f"{official}.final_layer_norm", _NORM)


def _pooling(config: ReDimNetConfig) -> Iterator[_Entry]:
    if config.pooling == "ASTP":
        yield from _module("pooling.hidden", "pool.linear1", _POINT)
        yield from _module("pooling.logits", "pool.linear2", _POINT)
    elif config.pooling == "MHASTP":
        yield from _pooling_heads("pooling", "pool", 2)
    elif config.pooling == "MQMHASTP":
        for query in range(2):
            yield from _pooling_heads(f"pooling.queries.{query}", f"pool.n_query.{query}", 8)


def _pooling_heads(ours: str, official: str, num_heads: int) -> Iterator[_Entry]:
    for head in range(num_heads):
        yield from _module(f"{ours}.hidden.{head}", f"{official}.heads_att_trans.{head}.att_0", _POINT)
        yield from _module(f"{ours}.logits.{head}", f"{official}.heads_att_trans.{head}.att_1", _POINT)
