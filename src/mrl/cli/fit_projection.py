"""``mrl fit-projection``: a Matryoshka head for the embeddings of any toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from mrl.cli.options import DimList


@click.command()
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="File with lines 'utterance speaker' (Kaldi's utt2spk); without it, speakers are guessed from the embeddings.",
)
@click.option(
    "--groups",
    type=click.Path(path_type=Path),
    help="File with lines 'utterance corpus': which corpora to hold out; by default taken from ids that are paths.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Head to write: .safetensors.")
@click.option(
    "--method",
    type=click.Choice(["auto", "rotation", "uncentred", "pca", "lda", "trained", "trained-rotation"]),
    default="auto",
    show_default=True,
    help="How the head is made; auto compares all methods on held-out speakers and corpora.",
)
@click.option("--dims", type=DimList(), help="Dimensions of the head, such as 16,64,256; the largest is its output.")
@click.option(
    "--apply",
    "pairs",
    nargs=2,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="IN OUT",
    help="Project the embeddings in IN and write them to OUT; may be given several times.",
)
def command(
    embeddings: Path,
    labels: Path | None,
    groups: Path | None,
    output: Path,
    method: Literal["auto", "rotation", "uncentred", "pca", "lda", "trained", "trained-rotation"],
    dims: tuple[int, ...] | None,
    pairs: tuple[tuple[Path, Path], ...],
) -> None:
    """Fit a Matryoshka head to embeddings from any toolkit, in a minute or two on a CPU.

    EMBEDDINGS is a file of embeddings of training speakers: .npz, .parquet, .safetensors, or Kaldi's .ark and .scp. Measure the
    projected embeddings with mrl evaluate, on other speakers than those used for the fit.
    """
    from mrl.evaluation import fit_head_file

    report = fit_head_file(embeddings, output, labels=labels, groups=groups, method=method, dims=dims, apply=pairs)
    for line in report:
        click.echo(line)
