"""``mrl export``: a model as a file for ONNX Runtime, OpenVINO or torch.export."""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.options import depth_option, weights_option


@click.command()
@click.argument("model", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write: .onnx, .xml (OpenVINO) or .pt2.")
@click.option("--check", type=click.Path(path_type=Path), help="Only run the self-test of this exported file.")
@weights_option
@depth_option
@click.option(
    "--input",
    "kind",
    type=click.Choice(["waveform", "features"]),
    default="waveform",
    show_default=True,
    help="Input of the file: waveforms, or log-mel features from your own front end.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8-dynamic", "int8-static"]),
    default="fp32",
    show_default=True,
    help="fp16 stores weights in 16 bits; int8 computes in 8 bits.",
)
@click.option("--calibration-audio", type=click.Path(path_type=Path), help="Folder of recordings for the ranges of int8-static.")
@click.option("--trials", type=click.Path(path_type=Path), help="Compare equal error rates with PyTorch's on this trial list.")
@click.option("--root", type=click.Path(path_type=Path), help="Folder that the list's paths are relative to.")
@click.option("--compare", is_flag=True, help="Measure all precisions: size, speed, cosine, EER.")
def command(
    model: str | None,
    output: Path | None,
    check: Path | None,
    weights: str | None,
    depth: int | None,
    kind: str,
    precision: str,
    calibration_audio: Path | None,
    trials: Path | None,
    root: Path | None,
    compare: bool,
) -> None:
    """Write a model as one file that runs without this package.

    MODEL is a model folder, an official .pt checkpoint, a released name or mrl-b0-demo. The file is compared with the PyTorch
    network before it is put in place. OUTPUT.json beside it describes it; mrl export --check OUTPUT tests it on any machine.
    """
    from mrl.deployment import check_export, export_model
    from mrl.deployment.export import export_lines

    if check is not None:
        if model is not None or output is not None:
            raise click.UsageError("--check FILE stands alone; omit MODEL and --output")
        checked = check_export(check)
        click.echo(
            f"{checked.path}: good: {checked.precision}, cosine {checked.cosine:.7f} with the network that it was made from"
        )
        return
    if model is None or output is None:
        raise click.UsageError("give MODEL and --output FILE, or --check FILE")
    from mrl.trials import read_trials

    report = export_model(
        model,
        output,
        weights=weights,
        depth=depth,
        kind=kind,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        calibration_audio=calibration_audio,
        trials=None if trials is None else read_trials(trials),
        root=root,
        compare=compare,
    )
    for line in export_lines(report):
        click.echo(line)
