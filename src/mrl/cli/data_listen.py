"""``mrl data listen``: augmented examples to listen to."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write into.")
@click.option("--config", type=click.Path(path_type=Path), help="Training configuration; defaults if omitted.")
@click.option("--root", type=click.Path(path_type=Path), help="Folder that the manifest's paths are relative to.")
@click.option("--count", type=int, default=8, show_default=True, help="Number of utterances.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of utterances, crops and changes.")
def command(source: Path, output: Path, config: Path | None, root: Path | None, count: int, seed: int) -> None:
    """Write training crops to listen to: clean, with each kind of augmentation alone, and as configured.

    SOURCE is a manifest, a folder of shards, or a folder with recordings at any depth. The folder written into gets WAV files, an
    index.html with players that says what was done to each, and the same as examples.tsv.
    """
    from mrl.training import load_config
    from mrl.training.listening import write_examples

    settings = load_config([] if config is None else [config]).data
    written = write_examples(
        source, output, settings.augmentation, root=root, crop_seconds=settings.crop_seconds, count=count, seed=seed
    )
    for kind, reason in written.left_out.items():
        click.echo(f"no {kind.replace('_', ' ')}: {reason}")
    click.echo(f"{len(written.examples)} examples; open {written.folder / 'index.html'}")
