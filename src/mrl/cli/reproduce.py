"""``mrl reproduce``: published figures, measured again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mrl.cli.evaluate import NameList
from mrl.cli.options import device_option


@click.group()
def command() -> None:
    """Measure released checkpoints and compare them with the published figures."""


@command.command()
@click.option("--root", required=True, type=click.Path(path_type=Path), help="Folder of VoxCeleb1 (idXXXXX/VIDEO/UTTERANCE.wav).")
@click.option(
    "--model", "models", multiple=True, default=("b2",), show_default=True, help="b0 to b6, S or M; may be given several times."
)
@click.option("--train-type", default="ft_lm", show_default=True, help="ft_lm, ft_mix or ptn.")
@click.option("--dataset", default="vox2", show_default=True, help="Training data, as in the checkpoint's name.")
@click.option("--weights", help="Where to take the checkpoint from: a file, a URL, or a folder of released files.")
@click.option("--lists", type=NameList(), default=("O", "E", "H"), help="Which lists to use, of O, E and H [default: O,E,H].")
@click.option("--trials-dir", type=click.Path(path_type=Path), help="Folder of the trial lists; below --root by default.")
@click.option("--fetch/--no-fetch", default=True, help="Download missing lists [default: yes].")
@click.option("--any-list", is_flag=True, help="Accept lists with another number of trials (to try things out).")
@click.option("--tolerance", type=float, default=0.05, show_default=True, help="Allowed difference in percentage points.")
@click.option(
    "--bootstrap", type=int, default=1000, show_default=True, help="Number of bootstrap resamples for the intervals; 0 for none."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the resamples.")
@click.option(
    "--as-norm", type=int, metavar="TOP", help="Also measure with AS-Norm over the TOP closest cohort speakers of each side."
)
@click.option("--cohort", type=click.Path(path_type=Path), help="Folder of speakers or manifest for AS-Norm, such as VoxCeleb2.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that caches embeddings, to resume and to reuse them.")
@click.option("--batch-seconds", type=float, default=60.0, show_default=True, help="Maximum audio per forward pass, in seconds.")
@click.option("--num-workers", type=int, default=2, show_default=True, help="Number of decoding threads.")
@device_option
@click.pass_context
def voxceleb(
    ctx: click.Context,
    root: Path,
    models: tuple[str, ...],
    train_type: str,
    dataset: str,
    weights: str | None,
    lists: tuple[str, ...],
    trials_dir: Path | None,
    fetch: bool,
    any_list: bool,
    tolerance: float,
    bootstrap: int,
    seed: int,
    as_norm: int | None,
    cohort: Path | None,
    cache: Path | None,
    batch_seconds: float,
    num_workers: int,
    device: str,
) -> None:
    """Measure checkpoints on VoxCeleb1 and print the published table next to our figures.

    Whole utterances, cosine scores, the cleaned lists; with --as-norm also beside the figures published with AS-Norm. The exit
    status is 1 when a difference is larger than --tolerance.
    """
    from rich.console import Console

    from mrl.evaluation import Extraction, reproduce_voxceleb, reproduction_table

    rows = reproduce_voxceleb(
        root,
        models=[(model, train_type, dataset) for model in models],
        weights=weights,
        lists=lists,
        trials_dir=trials_dir,
        fetch=fetch,
        any_list=any_list,
        tolerance=tolerance,
        bootstrap=bootstrap,
        seed=seed,
        as_norm_top=as_norm,
        cohort=cohort,
        extraction=Extraction(batch_seconds, None, num_workers, device, cache),
    )
    Console(width=None if sys.stdout.isatty() else 160).print(reproduction_table(rows))
    outside = sum(not row.within_tolerance for row in rows)
    if outside:
        click.echo(f"{outside} of {len(rows)} figures are outside the tolerance", err=True)
        ctx.exit(1)
