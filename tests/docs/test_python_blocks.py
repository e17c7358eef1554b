"""Every Python block of the pages runs, in the order of the page, in one namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.embeddings import save_embeddings
from mrl.embeddings.shard_writing import ShardPlan, ShardWriter
from tests.docs.markdown import ROOT, fenced_blocks, pages

_WITH_PYTHON = [page for page in pages() if fenced_blocks(page, "python")]


@pytest.mark.parametrize("page", _WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, user: Path, train_loader: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    ids, matrix = ["a.wav", "b.wav"], np.eye(2, 8, dtype=np.float32)
    save_embeddings("embeddings.npz", ids, matrix, {"model": "b2"})
    with ShardWriter.open("embeddings", ShardPlan(ids, 2, ".npz", 8, {"model": "b2"})) as writer:
        writer.write(0, ids, matrix, [])
        writer.finish()
    namespace: dict[str, Any] = {"__name__": "page", "train_loader": train_loader}
    for block in fenced_blocks(page, "python"):
        if block.not_run is None:
            # Empty lines in front, so that a traceback names the line of the page.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
    if page.name in _CHECKS:
        _CHECKS[page.name](namespace)


def _check_pretrained_models(namespace: dict[str, Any]) -> None:
    """What the comments in the blocks say about shapes and lengths."""
    assert {dim: tuple(each.shape) for dim, each in namespace["each"].items()} == {dim: (dim,) for dim in (64, 128, 192, 256)}
    assert namespace["short"].shape == (64,) and namespace["full"].shape == (256,)
    for name in ("short", "full"):
        torch.testing.assert_close(namespace[name].norm(), torch.tensor(1.0))
    assert torch.equal(namespace["short"], namespace["each"][64])
    assert -1.0 <= namespace["score"].detach().item() <= 1.0
    assert namespace["embedding"].shape == (192,)
    assert namespace["batch"].shape == (2, 192)
    alone = torch.stack([namespace["model"]("speaker.wav"), namespace["model"]("other.wav")])
    torch.testing.assert_close(namespace["batch"], alone, rtol=1e-4, atol=1e-5)


def _check_training(namespace: dict[str, Any]) -> None:
    assert namespace["embedding"].shape == (128,)  # from the saved model
    assert len(namespace["history"].loss) == 5


def _check_difficult_audio(namespace: dict[str, Any]) -> None:
    assert namespace["recording"].embedding.shape == (256,)
    assert 0.1 <= namespace["recording"].speech_seconds <= namespace["recording"].seconds
    assert namespace["voices"].shape == (2, 256)
    assert namespace["part"].shape == (3200,)


_CHECKS = {
    "pretrained-models.md": _check_pretrained_models,
    "train.md": _check_training,
    "difficult-audio.md": _check_difficult_audio,
}


def test_few_blocks_are_left_out() -> None:
    every = [block for page in pages() for block in fenced_blocks(page, "python")]
    left_out = [f"{block.place}: {block.not_run}" for block in every if block.not_run is not None]
    assert len(every) >= 10
    assert len(left_out) <= 3, left_out  # a corpus twice, and the Hub
