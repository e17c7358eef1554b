"""From frame features ``(batch, frames, features)`` to one vector of pooled statistics ``(batch, pooled)``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrl.backbone.layers import hide_padding
from mrl.errors import ConfigError

POOLINGS = ("ASTP", "TSTP", "TAP", "TMAP", "TSDP", "MHASTP", "MQMHASTP")
_VARIANCE_FLOOR = 1e-7


def _count(frames: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.full((1, 1), frames.shape[1], dtype=frames.dtype, device=frames.device)
    return mask.sum(dim=1, keepdim=True).to(frames.dtype)


def _mean(frames: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return frames.mean(dim=1)
    return hide_padding(frames, mask.unsqueeze(-1)).sum(dim=1) / _count(frames, mask)


def _deviation(frames: Tensor, mean: Tensor, mask: Tensor | None) -> Tensor:
    """Standard deviation with the unbiased variance, as the official network has it; zero spread for a single frame."""
    centred = hide_padding(frames - mean.unsqueeze(1), None if mask is None else mask.unsqueeze(-1))
    variance = centred.square().sum(dim=1) / (_count(frames, mask) - 1).clamp(min=1)
    return (variance + _VARIANCE_FLOOR).sqrt()


def _weighted_statistics(frames: Tensor, weights: Tensor) -> Tensor:
    """Mean and deviation under ``weights`` that sum to one over frames; ``(batch, 2 * features)``."""
    weighted = weights * frames
    mean = weighted.sum(dim=1)
    variance = (weighted * frames).sum(dim=1) - mean.square()
    return torch.cat([mean, variance.clamp(min=_VARIANCE_FLOOR).sqrt()], dim=1)


def _attention_weights(logits: Tensor, mask: Tensor | None) -> Tensor:
    logits = logits.float()
    if mask is not None:
        logits = logits.masked_fill(~mask.unsqueeze(-1), float("-inf"))
    return logits.softmax(dim=1)


class AttentiveStatistics(nn.Module):
    """ASTP: mean and deviation under learned weights per frame and channel (ECAPA-TDNN, arXiv 2005.07143)."""

    def __init__(self, features: int, *, global_context: bool, hidden: int = 128) -> None:
        super().__init__()
        self.features = features
        self.pooled_dim = 2 * features
        self.global_context = global_context
        self.hidden = nn.Linear(3 * features if global_context else features, hidden)
        self.logits = nn.Linear(hidden, features)

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        exact = frames.float()
        if self.global_context:
            # The context is the same for all frames, so its share of the layer is computed once, not once per frame.
            mean = _mean(exact, mask)
            context = torch.cat([mean, _deviation(exact, mean, mask)], dim=1).to(frames.dtype)
            own, shared = self.hidden.weight[:, : self.features], self.hidden.weight[:, self.features :]
            hidden = nn.functional.linear(frames, own)
            hidden = hidden + nn.functional.linear(context, shared, self.hidden.bias).unsqueeze(1)
        else:
            hidden = self.hidden(frames)
        return _weighted_statistics(exact, _attention_weights(self.logits(hidden.tanh()), mask))


class TemporalStatistics(nn.Module):
    """TSTP (mean and deviation), TAP (mean), TSDP (deviation), TMAP (mean plus maximum)."""

    def __init__(self, features: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.pooled_dim = 2 * features if kind == "TSTP" else features

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        frames = frames.float()
        mean = _mean(frames, mask)
        if self.kind == "TAP":
            return mean
        if self.kind == "TMAP":
            visible = frames if mask is None else frames.masked_fill(~mask.unsqueeze(-1), float("-inf"))
            return mean + visible.amax(dim=1)
        deviation = _deviation(frames, mean, mask)
        return deviation if self.kind == "TSDP" else torch.cat([mean, deviation], dim=1)


class MultiHeadAttentiveStatistics(nn.Module):
    """MHASTP: every head weighs the frames of its own share of the features (arXiv 1906.09890)."""

    def __init__(self, features: int, *, num_heads: int, per_channel: bool, hidden: int = 64) -> None:
        super().__init__()
        share = features // num_heads
        self.share = share
        self.pooled_dim = 2 * features
        self.hidden = nn.ModuleList(nn.Linear(share, hidden) for _ in range(num_heads))
        self.logits = nn.ModuleList(nn.Linear(hidden, share if per_channel else 1) for _ in range(num_heads))

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = []
        for part, hidden, logits in zip(torch.split(frames, self.share, dim=2), self.hidden, self.logits, strict=True):
            parts.append(_weighted_statistics(part.float(), _attention_weights(logits(hidden(part).tanh()), mask)))
        return torch.cat(parts, dim=1)


class MultiQueryAttentiveStatistics(nn.Module):
    """MQMHASTP: several multi-head poolings side by side (arXiv 2110.05042)."""

    def __init__(self, features: int, *, num_queries: int = 2, num_heads: int = 8) -> None:
        super().__init__()
        self.queries = nn.ModuleList(
            MultiHeadAttentiveStatistics(features, num_heads=num_heads, per_channel=True) for _ in range(num_queries)
        )
        self.pooled_dim = 2 * features * num_queries

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.cat([query(frames, mask) for query in self.queries], dim=1)


class LaterFrames(nn.Module):
    """A pooling that leaves out the first frames (official ``before_pool_offset``)."""

    def __init__(self, inner: nn.Module, skipped: int) -> None:
        super().__init__()
        self.inner = inner
        self.skipped = skipped

    @property
    def pooled_dim(self) -> int:
        dim = self.inner.pooled_dim
        assert isinstance(dim, int)
        return dim

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        pooled: Tensor = self.inner(frames[:, self.skipped :], None if mask is None else mask[:, self.skipped :])
        return pooled


Pooling = AttentiveStatistics | TemporalStatistics | MultiHeadAttentiveStatistics | MultiQueryAttentiveStatistics


def build_pooling(kind: str, features: int, *, global_context: bool) -> Pooling:
    """Build the pooling that an official ``pooling_func`` names."""
    if kind == "ASTP":
        return AttentiveStatistics(features, global_context=global_context)
    if kind == "MHASTP":
        return MultiHeadAttentiveStatistics(features, num_heads=2, per_channel=False)
    if kind == "MQMHASTP":
        return MultiQueryAttentiveStatistics(features)
    return TemporalStatistics(features, kind)


def check_pooling(kind: str, features: int, where: str) -> None:
    """Raise a ConfigError, which begins with ``where``, if ``features`` cannot be shared among the pooling's heads."""
    heads = {"MHASTP": 2, "MQMHASTP": 8}.get(kind, 1)
    if features % heads:
        raise ConfigError(f"{where}: pooling_func={kind} has {heads} heads, which {features} features cannot share")
