"""``mrl train``: both stages from one YAML file."""

from __future__ import annotations

import logging
from pathlib import Path

import click


@click.command()
@click.option(
    "--config",
    "configs",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="YAML file; may be given several times, later files override earlier ones.",
)
@click.option(
    "--resume",
    metavar="auto|CHECKPOINT",
    help="auto resumes the run in training.output_dir, or starts it; or the folder of a checkpoint.",
)
@click.option("--dry-run", is_flag=True, help="Check settings, data and checkpoint, print the plan, and train nothing.")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.pass_context
def command(ctx: click.Context, configs: tuple[Path, ...], resume: str | None, dry_run: bool, overrides: tuple[str, ...]) -> None:
    """Train a Matryoshka model from a configuration file.

    Exit status 0: done. 2: an error in settings, data or training, reported in one line. 75: the run received SIGTERM and saved
    its state; continue with --resume auto.
    """
    from mrl.distribution import Processes
    from mrl.training import EXIT_INTERRUPTED, load_config, plan_run, run_training

    config = load_config(configs, overrides)
    if dry_run:
        click.echo(plan_run(config).describe())
        return
    if not Processes.from_environment().is_first:
        logging.getLogger("mrl").setLevel(logging.ERROR)  # one process speaks for all
    result = run_training(config, resume=resume)
    if result.interrupted:
        ctx.exit(EXIT_INTERRUPTED)
    if result.best is not None:
        for dim, eer in result.best.eer.items():
            click.echo(f"EER at {dim} dimensions: {100 * eer:.2f} %")
    click.echo(f"Model: {result.run_folder / 'best'}")
