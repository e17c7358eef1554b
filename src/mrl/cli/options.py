"""Options that several verbs share: which model, where its weights are, on which device, and which voice store."""

from __future__ import annotations

from pathlib import Path

import click

model_option = click.option(
    "--model",
    default="b2-vox2-ft_lm",
    show_default=True,
    help="Model folder, official .pt checkpoint, .onnx file, released name, or mrl-b0-demo, which comes with the package.",
)
weights_option = click.option(
    "--weights", help="Where a released model's file is: a file, an address, or a folder of such files."
)
device_option = click.option("--device", default="cpu", show_default=True, help="Such as cpu, cuda or cuda:1.")
depth_option = click.option(
    "--depth", type=int, help="Leave the network after so many stages; for a model folder with early exits (mrl fit-exits)."
)
store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    envvar="MRL_STORE",
    help="The voice store's file; by default voices.sqlite in redimnet-mrl below the user's data folder [also MRL_STORE].",
)
