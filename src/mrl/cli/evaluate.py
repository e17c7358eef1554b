"""``mrl evaluate``: the error rate at every dimension, of one system or of several side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mrl.cli.options import depth_option, device_option, weights_option

if TYPE_CHECKING:
    from mrl.evaluation.measure import CalibrateOn


class NumberList(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas, such as ``16,64,192`` or ``1.5,3``."""

    def __init__(self, kind: Callable[[str], float] = int, example: str = "whole numbers such as 16,64,192") -> None:
        self.name = "numbers"
        self._kind, self._example = kind, example

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of {self._example}", param, ctx)


class DimList(NumberList):
    """Prefix lengths separated by commas, such as ``16,64,192``."""


class NameList(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas, such as ``telephone,opus``."""

    name = "names"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(",") if part.strip())


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--trials",
    "trial_lists",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Trial list, may be gzipped; may be given several times.",
)
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder that the list's paths are relative to (not for embedding files)."
)
@weights_option
@click.option("--dims", type=DimList(), help="Dimensions to measure, such as 16,64,192; the models' own by default.")
@depth_option
@click.option("--output", type=click.Path(path_type=Path), help="Folder for report.html, report.json, table.md, table.csv, plot.")
@click.option(
    "--bootstrap", type=int, default=1000, show_default=True, help="Number of bootstrap resamples for the intervals; 0 for none."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the resamples and of the choice of noise.")
@click.option("--backbone/--no-backbone", default=True, help="Also measure the backbone of a Matryoshka model [default: yes].")
@click.option("--baseline", help="Model to compare with instead of the backbone, such as the published checkpoint.")
@click.option(
    "--speakers", type=click.Path(path_type=Path), help="File with lines 'utterance speaker', if paths do not name the speaker."
)
@click.option("--strata", type=NameList(), default=(), help="Columns of the manifest to split the list by, such as gender,age.")
@click.option("--manifest", type=click.Path(path_type=Path), help="CSV, TSV, JSONL or Parquet with a column path, for --strata.")
@click.option(
    "--cut-seconds",
    type=NumberList(float, "seconds such as 1,2,3,5"),
    default=(),
    help="Also measure with the test side cut to this many seconds, such as 1,2,3,5.",
)
@click.option("--noise", type=click.Path(path_type=Path), help="Folder of noise for the test side; needs --snr.")
@click.option(
    "--snr", type=NumberList(float, "ratios in dB such as 20,10,0"), default=(), help="Signal-to-noise ratios in dB: 20,10,0."
)
@click.option(
    "--codec",
    type=NameList(),
    default=(),
    help="Channels for the test side: telephone, narrowband, mulaw, alaw, opus, aac, mp3; opus:12 is 12 kbit/s.",
)
@click.option("--centre", is_flag=True, help="Subtract the cohort's mean embedding from every embedding.")
@click.option(
    "--as-norm", type=int, metavar="TOP", help="AS-Norm: normalise scores with the TOP closest cohort speakers of each side."
)
@click.option(
    "--cohort",
    type=click.Path(path_type=Path),
    help="Cohort for --centre and --as-norm, speakers in no trial: speaker folders, manifest, or embeddings.",
)
@click.option("--crops", type=int, metavar="N", help="Score N evenly spaced crops of every recording instead of the whole.")
@click.option("--crop-seconds", type=float, help="Length of a crop in seconds [default: 4].")
@click.option(
    "--enrolment-map",
    type=click.Path(path_type=Path),
    help="File with lines 'model recording [recording ...]', if the list's first field names enrolment models.",
)
@click.option("--enrolment-prefix", help="Prefix for the map's paths, to make them relative to --root, such as ../data/.")
@click.option(
    "--calibrate-on",
    type=click.Choice(["model", "held-out", "none"]),
    default="model",
    show_default=True,
    help="Source of log-likelihood ratios: the model's calibration, or the list's other speakers.",
)
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that caches embeddings, to resume and to reuse them.")
@click.option("--batch-seconds", type=float, default=60.0, show_default=True, help="Maximum audio per forward pass, in seconds.")
@click.option("--max-seconds", type=float, help="Truncate recordings to this many seconds.")
@click.option("--num-workers", type=int, default=2, show_default=True, help="Number of decoding threads.")
@device_option
def command(
    models: tuple[str, ...],
    trial_lists: tuple[Path, ...],
    root: Path | None,
    weights: str | None,
    dims: tuple[int, ...] | None,
    depth: int | None,
    output: Path | None,
    bootstrap: int,
    seed: int,
    backbone: bool,
    baseline: str | None,
    speakers: Path | None,
    strata: tuple[str, ...],
    manifest: Path | None,
    cut_seconds: tuple[float, ...],
    noise: Path | None,
    snr: tuple[float, ...],
    codec: tuple[str, ...],
    centre: bool,
    as_norm: int | None,
    cohort: Path | None,
    crops: int | None,
    crop_seconds: float | None,
    enrolment_map: Path | None,
    enrolment_prefix: str | None,
    calibrate_on: CalibrateOn,
    cache: Path | None,
    batch_seconds: float,
    max_seconds: float | None,
    num_workers: int,
    device: str,
) -> None:
    """Measure the error rate at every dimension on a trial list, of one system or of several side by side.

    Each MODEL is a model folder or mrl-b0-demo, an official .pt checkpoint or a released name (prefixes of the raw embedding are
    measured), or a file of embeddings (.npz, .parquet, .safetensors, Kaldi's .ark and .scp) whose ids are the list's paths.
    The unmodified backbone is measured too, unless --no-backbone is given.
    """
    from rich.console import Console

    from mrl.embeddings import Processes
    from mrl.evaluation import (
        Extraction,
        calibrated_table,
        comparison_table,
        evaluate_specs,
        make_conditions,
        make_protocol,
        report_folders,
        rich_table,
        strata_tables,
        write_report,
    )
    from mrl.trials import read_speakers, read_trials

    protocol = make_protocol(
        centre=centre,
        as_norm_top=as_norm,
        cohort=cohort,
        num_crops=crops,
        crop_seconds=crop_seconds,
        enrolment_map=enrolment_map,
        enrolment_prefix=enrolment_prefix,
    )
    folders = report_folders(trial_lists, output)
    processes = Processes.from_environment()
    results = evaluate_specs(
        models,
        [read_trials(path) for path in trial_lists],
        root,
        weights=weights,
        dims=dims,
        depth=depth,
        own_backbone=backbone,
        baseline=baseline,
        bootstrap=bootstrap,
        seed=seed,
        speakers=None if speakers is None else read_speakers(speakers),
        conditions=make_conditions(cut_seconds=cut_seconds, noise=noise, snr_db=snr, channels=codec, seed=seed),
        strata=strata,
        manifest=manifest,
        extraction=Extraction(batch_seconds, max_seconds, num_workers, processes.device(device), cache, processes=processes),
        protocol=protocol,
        calibrate_on=calibrate_on,
        command=["mrl", *sys.argv[1:]],
    )
    if not processes.is_first:
        return
    # Where standard output is no terminal, a table must not be folded to a guessed width.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for result, folder in zip(results, folders, strict=True):
        console.print(rich_table(result))
        compared = comparison_table(result) if len(models) > 1 else None
        for table in (calibrated_table(result), compared, *strata_tables(result)):
            if table is not None:
                console.print(table)
        if folder is not None:
            for file in write_report(result, folder):
                click.echo(f"written: {file}")
