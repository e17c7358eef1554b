"""Options that several verbs share: which model, where its weights are, on which device, and which voice store."""

from __future__ import annotations

from pathlib import Path

import click

model_option = click.option(
    "--model",
    default="b2-vox2-ft_lm",
    show_default=True,
    help="Model folder, official .pt checkpoint, .onnx file, released name, or mrl-b0-demo (bundled).",
)
weights_option = click.option(
    "--weights", help="Where to take a released checkpoint from: a file, a URL, or a folder of released files."
)
device_option = click.option("--device", default="cpu", show_default=True, help="Device to run on, such as cpu, cuda or cuda:1.")
depth_option = click.option(
    "--depth", type=int, help="Stop after this many stages; needs a model folder with early exits (mrl fit-exits)."
)
store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    envvar="MRL_STORE",
    help="Voice store, a file; by default redimnet-mrl/voices.sqlite in the user's data folder [also MRL_STORE].",
)
