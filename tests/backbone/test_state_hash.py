"""One hash of weights, and the name under which version 0.1 kept caches."""

from __future__ import annotations

import hashlib

import torch

from mrl.backbone.state_hash import state_sha256


def test_the_hash_follows_names_and_weights() -> None:
    layer = torch.nn.Linear(2, 2)
    before = state_sha256(layer)
    assert before == state_sha256(layer)
    assert state_sha256(torch.nn.Sequential(layer)) != before
    assert state_sha256(layer, without="bias") != before
    layer.bias.data[0] += 1e-6
    assert state_sha256(layer) != before


def test_what_0_1_wrote_is_known() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.5)
    number = b"\x00\x00\x00\x3f"
    assert state_sha256(layer) == hashlib.sha256(b"weight torch.float32 (1, 1)\n" + number).hexdigest()
    assert state_sha256(layer, as_cached_by_0_1=True) == hashlib.sha256(b"weight (1, 1) torch.float32\n" + number).hexdigest()
