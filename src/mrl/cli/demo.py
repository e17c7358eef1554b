"""``mrl demo``: the whole job in minutes."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder for all results."
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Your recordings, one subfolder per speaker, instead of synthetic voices."
)
@click.option("--weights", help="Official ReDimNet checkpoint to start from.")
@click.option(
    "--backbone",
    type=click.Choice(["bundled", "tiny"]),
    help="Without --weights: the network that comes with the package (the default for --data), or a tiny one trained on the fly "
    "(the default for synthetic voices).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
def command(output: Path, data: Path | None, weights: str | None, backbone: str | None, seed: int) -> None:
    """Make voices, train a Matryoshka model in two stages, and report the error rate at every dimension."""
    from mrl.demo import run_demo
    from mrl.evaluation import summary_table
    from mrl.tables import print_tables

    result = run_demo(output, data=data, weights=weights, backbone=backbone, seed=seed)  # type: ignore[arg-type]
    print_tables(summary_table(result.evaluation))
    trials = result.evaluation.trial_list
    speakers, _ = result.corpus.counts["test"]
    where = "intervals are in the report" if trials.speakers is not None else "too few speakers for intervals"
    click.echo(f"{trials.trials:,} trials of {speakers} speakers that were never seen; {where}.")
    click.echo(f"Finished in {result.seconds:.0f} s.")
    click.echo(f"Model:   {result.model}")
    click.echo(f"Picture: {result.report / 'eer_by_dim.png'}")
    click.echo(f"Report:  {result.report / 'report.json'}")
    click.echo("Next, on real data:")
    click.echo("  make demo MRL_DATA=FOLDER                the same on your recordings, one subfolder per speaker")
    click.echo("  mrl pretrained download b2               a released network, to start from instead of a small one")
    click.echo("  mrl train --config config.yaml           both stages with every setting in one file")
    click.echo(f"  mrl verify A.wav B.wav --model {result.model} --dim 64")
