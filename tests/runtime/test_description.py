"""What a file says about itself survives both ways of writing it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.errors import CheckpointError
from mrl.runtime import Description

_JSON = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=9), max_size=3)

EXAMPLE = Description(
    version="1",
    kind="matryoshka",
    input="waveform",
    precision="fp32",
    sample_rate=16000,
    minimum_samples=257,
    embed_dim=256,
    mrl_dims=(64, 256),
    front_end={"bands": 72},
    model_config={"F": 72},
    weights_sha256="0" * 64,
    model_hash="1" * 64,
    source=None,
    licence="MIT",
    calibration=None,
    opset=20,
)


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=20), facts=_JSON, source=st.none() | _JSON, opset=st.none() | st.integers(1, 99))
def test_round_trips(text: str, facts: dict[str, Any], source: dict[str, Any] | None, opset: int | None) -> None:
    description = dataclasses.replace(EXAMPLE, licence=text, version=text, front_end=facts, source=source, opset=opset)
    assert Description.from_properties(description.to_properties(), "x") == description
    assert Description.from_dict(json.loads(json.dumps(description.to_dict())), "x") == description


def test_what_cannot_be_read() -> None:
    properties = EXAMPLE.to_properties()
    for changed, message in (
        ({}, "x was not written by mrl export"),
        ({**properties, "format": "redimnet-mrl-export/9"}, "format 'redimnet-mrl-export/9'; this version reads"),
        ({name: text for name, text in properties.items() if name != "mrl_dims"}, "does not state its mrl_dims"),
        ({**properties, "mrl_dims": "[64,"}, "is not JSON"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Description.from_properties(changed, "x")


def test_words_of_later_versions_are_left_alone() -> None:
    assert Description.from_dict({**EXAMPLE.to_dict(), "colour": "blue"}, "x") == EXAMPLE
