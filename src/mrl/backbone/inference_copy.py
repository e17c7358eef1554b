"""From a trained network to its inference copy: what ``optimize_for_inference`` does."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from mrl.backbone.convolution import InferenceConv, can_pack
from mrl.backbone.encoder import FrameEncoder
from mrl.backbone.folding import Kernel, affine_of
from mrl.backbone.inference import InferenceAttentiveStatistics, InferenceEncoder
from mrl.backbone.pooling import AttentiveStatistics
from mrl.errors import InputError, TrainingError

if TYPE_CHECKING:
    from mrl.backbone.redimnet import ReDimNet

DTYPES = (torch.float32, torch.bfloat16)


def inference_copy(network: ReDimNet, *, dtype: torch.dtype, compile: bool, pack: bool) -> ReDimNet:
    """Return a copy with everything folded; see :meth:`ReDimNet.optimize_for_inference`."""
    refuse_copy(network, "optimised again")
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype} is not available for inference; expected torch.float32 or torch.bfloat16")
    on_cpu = network.device.type == "cpu"
    if dtype == torch.bfloat16 and on_cpu and not can_pack(dtype):
        raise InputError(
            "this processor has no bfloat16 arithmetic that oneDNN could use (AVX-512 or AMX); use dtype=torch.float32"
        )
    result = copy.deepcopy(network).eval().requires_grad_(False)
    assert isinstance(result.encoder, FrameEncoder)
    result.encoder = InferenceEncoder(result.encoder).in_dtype(dtype)
    if isinstance(result.pooling, AttentiveStatistics):
        result.pooling = InferenceAttentiveStatistics(result.pooling)
    result.pooling = result.pooling.to(dtype)
    head = Kernel.of(network.embedding)
    if network.embedding_norm is not None:
        head = head.then(affine_of(network.embedding_norm))
        result.embedding_norm = None
    _assign(result.embedding, head.after(affine_of(network.pooled_norm)))
    result.pooled_norm = cast(nn.BatchNorm1d, nn.Identity())  # all that asks it for statistics refuses a copy
    if compile:
        # The compiler packs the weights itself, and knows best what to fuse.
        for part in (result.encoder, result.pooling):
            part.compile(options={"freezing": True})
    elif pack and on_cpu and can_pack(dtype):
        for module in result.modules():
            if isinstance(module, InferenceConv):
                module.pack()
    result.inference_only = True
    return result.eval()


def fold_norm(weight: Tensor, bias: Tensor, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return the affine map ``(outputs, inputs)``, ``(outputs,)`` with the BatchNorm before it folded in."""
    kernel = Kernel(weight.detach().double()[:, :, None, None], bias.detach().double()).after(affine_of(norm))
    return kernel.weight[:, :, 0, 0].to(weight.dtype), kernel.bias.to(bias.dtype)


def refuse_copy(network: ReDimNet, what: str) -> None:
    """Raise a TrainingError if ``network`` is an inference copy, which cannot be ``what`` (a participle)."""
    if network.inference_only:
        raise TrainingError(
            f"an inference copy cannot be {what}: its norms are folded into its weights; use the model it was made from"
        )


@torch.no_grad()
def _assign(layer: nn.Linear, kernel: Kernel) -> None:
    layer.weight.copy_(kernel.weight[:, :, 0, 0])
    layer.bias.copy_(kernel.bias)
