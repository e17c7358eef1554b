"""The traced graph of the golden network: tracing takes seconds, so tests of what comes after it share one from the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from mrl.deployment import export as exporting
from mrl.deployment import writing
from mrl.matryoshka import ReDimNetMRL
from tests.runtime.golden.record import EXPORTED, golden_model


@pytest.fixture(scope="session")
def model() -> ReDimNetMRL:
    return golden_model()


@pytest.fixture(scope="session")
def model_folder(model: ReDimNetMRL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny-mrl"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the golden graph instead of tracing, and compare on short recordings only."""

    def graph(*_: Any) -> Any:
        model = onnx.load(str(EXPORTED))
        del model.metadata_props[:]
        return model

    monkeypatch.setattr(writing, "to_onnx", graph)
    monkeypatch.setattr(exporting, "CHECKED_SHAPES", ((1, 0.3), (3, 1.0)))
    yield
