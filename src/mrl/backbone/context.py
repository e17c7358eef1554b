"""Time context: what one frame learns from the others, on a reduced 1-D signal ``(batch, frames, features)``."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.blocks import ConvNeXtBlock, add_into
from mrl.backbone.masking import hide_padding, map_mask
from mrl.errors import ConfigError

ATTENTION_HEADS = 4
_NORM_EPSILON = 1e-6
_POSITION_KERNEL = 59


class SelfAttention(nn.Module):
    """Multi-head self-attention over frames; query, key and value come from one matrix product."""

    def __init__(self, features: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(features, 3 * features)
        self.output = nn.Linear(features, features)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, frames, features = signal.shape
        heads = self.query_key_value(signal).view(batch, frames, 3, self.num_heads, features // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        keys_seen = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys_seen)
        result: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, frames, features))
        return result


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward, each with a residual and normalised after it."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.attention = SelfAttention(features, ATTENTION_HEADS)
        self.norm1 = nn.LayerNorm(features, eps=_NORM_EPSILON)
        self.feed_in = nn.Linear(features, hidden)
        self.feed_out = nn.Linear(hidden, features)
        self.norm2 = nn.LayerNorm(features, eps=_NORM_EPSILON)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        signal = self.norm1(add_into(self.attention(signal, mask), signal))
        hidden = functional.gelu(self.feed_in(signal), approximate="tanh")
        result: Tensor = self.norm2(add_into(self.feed_out(hidden), signal))
        return result


class TimeConv(nn.Module):
    """A convolutional block along time: the 2-D block on a map with one band."""

    def __init__(self, features: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.block = ConvNeXtBlock(features, tuple((kernel, 1) for kernel in kernels), 1)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        maps = signal.unsqueeze(2).permute(0, 3, 1, 2)
        mixed: Tensor = self.block(maps, map_mask(mask))
        return mixed.permute(0, 2, 3, 1).squeeze(2)


class PositionConv(nn.Module):
    """A wide depthwise convolution that tells attention where frames stand."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, (_POSITION_KERNEL, 1), padding=(_POSITION_KERNEL // 2, 0), groups=features)
        self.norm = nn.LayerNorm(features, eps=_NORM_EPSILON)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        maps = signal.unsqueeze(2).permute(0, 3, 1, 2)
        position = self.conv(hide_padding(maps, map_mask(mask)))
        return add_into(self.norm(position.permute(0, 2, 3, 1).squeeze(2)), signal)


class FrameFeedForward(nn.Module):
    """Two layers on every frame for itself: no context in time (official ``fc``)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.feed_in = nn.Linear(features, 2 * features)
        self.norm = nn.LayerNorm(2 * features, eps=_NORM_EPSILON)
        self.feed_out = nn.Linear(2 * features, features)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        result: Tensor = self.feed_out(functional.gelu(self.norm(self.feed_in(signal))))
        return result


class TimeContext(nn.Module):
    """Reduce the features, look along time, expand them again, add to what came in."""

    def __init__(self, features: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.reduce = nn.Linear(features, hidden)
        self.norm = nn.LayerNorm(hidden, eps=_NORM_EPSILON)
        self.layers = nn.ModuleList(_layers(kind, hidden))
        self.expand = nn.Linear(hidden, features)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = self.norm(self.reduce(signal))
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return add_into(self.expand(hidden), signal)


def _layers(kind: str, hidden: int) -> list[nn.Module]:
    if kind == "fc":
        return [FrameFeedForward(hidden)]
    if kind == "conv":
        return [TimeConv(hidden, (7, 15, 31)) for _ in range(4)]
    if kind == "att":
        return [PositionConv(hidden), TransformerBlock(hidden, 2 * hidden)]
    return [*(TimeConv(hidden, (kernel,)) for kernel in (7, 19, 31, 59)), TransformerBlock(hidden, hidden)]


def check_context(kind: str, features: int, reduction: int | None, where: str) -> None:
    """Raise a ConfigError, which begins with ``where``, if a time context of that kind cannot be built."""
    if reduction is None:
        return
    hidden = features // reduction
    heads = ATTENTION_HEADS if "att" in kind else 1
    if hidden < 1 or hidden % heads:
        raise ConfigError(
            f"{where}: a time-context reduction of {reduction} leaves {hidden} of {features} features, "
            f"which {heads} attention heads cannot share"
        )
