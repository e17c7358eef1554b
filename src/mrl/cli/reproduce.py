"""``mrl reproduce``: published figures, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mrl.cli.options import NameList, bootstrap_option, cache_option, device_option, extraction_options

if TYPE_CHECKING:
    from mrl.embeddings import Extraction


@click.group()
def command() -> None:
    """Measure released checkpoints and compare them with the published figures."""


@command.command()
@click.option("--root", required=True, type=click.Path(path_type=Path), help="Folder of VoxCeleb1 (idXXXXX/VIDEO/UTTERANCE.wav).")
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("b2",),
    show_default=True,
    help="b0 to b6, S, M, or redimnet2-b0 to redimnet2-b6; may be given several times.",
)
@click.option("--train-type", help="ft_lm, ft_mix, lm or ptn [default: the fine-tuned one].")
@click.option("--dataset", help="Training data, as in the checkpoint's name [default: the first there is].")
@click.option("--weights", help="Where to take the checkpoint from: a file, a URL, or a folder of released files.")
@click.option("--lists", type=NameList(), default=("O", "E", "H"), help="Which lists to use, of O, E and H [default: O,E,H].")
@click.option("--trials-dir", type=click.Path(path_type=Path), help="Folder of the trial lists; below --root by default.")
@click.option("--fetch/--no-fetch", default=True, help="Download missing lists [default: yes].")
@click.option("--any-list", is_flag=True, help="Accept lists with another number of trials (to try things out).")
@click.option("--tolerance", type=float, default=0.05, show_default=True, help="Allowed difference in percentage points.")
@bootstrap_option
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the resamples.")
@click.option(
    "--as-norm",
    "as_norm_top",
    type=int,
    metavar="TOP",
    help="Also measure with AS-Norm over the TOP closest cohort speakers of each side.",
)
@click.option("--cohort", type=click.Path(path_type=Path), help="Folder of speakers or manifest for AS-Norm, such as VoxCeleb2.")
@cache_option
@extraction_options(without=["max_seconds"])
@device_option
@click.pass_context
def voxceleb(
    ctx: click.Context,
    /,
    root: Path,
    models: tuple[str, ...],
    train_type: str | None,
    dataset: str | None,
    how: Extraction,
    **options: Any,
) -> None:
    """Measure checkpoints on VoxCeleb1 and print the published table next to our figures.

    Whole utterances, cosine scores, the cleaned lists; with --as-norm also beside the figures published with AS-Norm. The exit
    status is 1 when a difference is larger than --tolerance.
    """
    from mrl.evaluation import ReproductionSettings, reproduce_voxceleb, reproduction_table
    from mrl.tables import print_tables

    chosen = [(model, train_type, dataset) for model in models]
    # Every other option has the name of its setting.
    rows = reproduce_voxceleb(root, ReproductionSettings(models=chosen, extraction=how, **options))
    print_tables(reproduction_table(rows))
    outside = sum(not row.within_tolerance for row in rows)
    if outside:
        click.echo(f"{outside} of {len(rows)} figures are outside the tolerance", err=True)
        ctx.exit(1)
