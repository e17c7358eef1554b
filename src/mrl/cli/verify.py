"""``mrl verify``: the score of two recordings."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option(
    "--model", default="b2-vox2-ft_lm", show_default=True, help="Model folder, official .pt checkpoint, or released name."
)
@click.option("--weights", help="Where a released model's file is: a file, an address, or a folder of such files.")
@click.option("--dim", type=int, help="Compare prefixes of this length; all dimensions by default.")
@click.option(
    "--threshold", type=click.FloatRange(-1.0, 1.0), help="Accept from this raw cosine on; without it no decision is made."
)
@click.option("--device", default="cpu", show_default=True, help="Such as cpu, cuda or cuda:1.")
def command(
    first: Path, second: Path, model: str, weights: str | None, dim: int | None, threshold: float | None, device: str
) -> None:
    """Say how alike the speakers of two recordings are.

    The score is the raw cosine of the two embeddings, in [-1, 1].
    """
    from mrl.embeddings import open_model, score_files

    score = score_files(open_model(model, weights=weights, device=device), first, second, target_dim=dim)
    click.echo(f"score: {score:.4f} (raw cosine, from -1 to 1)")
    if threshold is None:
        click.echo("no decision: none is possible without a threshold calibrated on your own data (--threshold)")
        return
    click.echo(f"decision: {'same speaker' if score >= threshold else 'different speakers'} (threshold {threshold:g})")
    click.echo(
        "warning: a threshold holds for one model, one dim and one kind of recording; calibrate it on trials of your own. "
        "It is a raw cosine, not the (cosine + 1) / 2 of some toolkits.",
        err=True,
    )
