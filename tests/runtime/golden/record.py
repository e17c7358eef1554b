"""Write the exported file of this folder again: ``python -m tests.runtime.golden.record``.

The tests run the file as it was written, so that files of earlier versions stay readable, and hold it against the network that it
was made from, whose weights follow from their names alone.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mrl.deployment import export_model
from mrl.matryoshka import ReDimNetMRL
from tests.backbone.networks import filled_network, small_model_config, weights_by_name

FOLDER = Path(__file__).parent
EXPORTED = FOLDER / "tiny.onnx"
MODEL_CONFIG = small_model_config(
    spec_params={"n_fft": 64, "win_length": 50, "f_min": 200, "f_max": 7600, "norm_signal": True},
)


def golden_model() -> ReDimNetMRL:
    """The network in the file: some thousand parameters, short windows, 24 numbers out."""
    model = ReDimNetMRL(filled_network(MODEL_CONFIG), embed_dim=24, mrl_dims=[8, 16, 24])
    with torch.no_grad():
        for name, parameter in model.projection.named_parameters():
            parameter.copy_(weights_by_name(f"projection.{name}", tuple(parameter.shape)))
    return model.eval()


if __name__ == "__main__":
    golden_model().save_pretrained(FOLDER / "model")
    export_model(FOLDER / "model", EXPORTED)
    for file in (FOLDER / "model").iterdir():
        file.unlink()
    (FOLDER / "model").rmdir()
