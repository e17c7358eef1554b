"""``mrl evaluate``: the error rate at every dimension, of one system or of several side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mrl.cli.options import (
    DimList,
    NameList,
    NumberList,
    bootstrap_option,
    cache_option,
    depth_option,
    device_option,
    extraction_options,
    speakers_option,
    weights_option,
)

if TYPE_CHECKING:
    from mrl.embeddings import Extraction


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
@bootstrap_option
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the resamples and of the choice of noise.")
@click.option(
    "--backbone/--no-backbone",
    "own_backbone",
    default=True,
    help="Also measure the backbone of a Matryoshka model [default: yes].",
)
@click.option("--baseline", help="Model to compare with instead of the backbone, such as the published checkpoint.")
@speakers_option
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
@cache_option
@extraction_options()
@device_option
def command(
    models: tuple[str, ...],
    trial_lists: tuple[Path, ...],
    root: Path | None,
    output: Path | None,
    device: str,
    how: Extraction,
    **options: Any,
) -> None:
    """Measure the error rate at every dimension on a trial list, of one system or of several side by side.

    Each MODEL is a model folder or mrl-b0-demo, an official .pt checkpoint or a released name (prefixes of the raw embedding are
    measured), an exported .onnx file, or a file of embeddings (.npz, .parquet, .safetensors, Kaldi's .ark and .scp) whose ids are
    the list's paths. The unmodified backbone is measured too, unless --no-backbone is given.
    """
    from mrl.embeddings import Processes
    from mrl.evaluation import (
        EvaluationSettings,
        calibrated_table,
        comparison_table,
        evaluate_specs,
        figures_table,
        make_conditions,
        make_protocol,
        report_folders,
        strata_groups,
        strata_summary,
        write_report,
    )
    from mrl.tables import print_tables
    from mrl.trials import read_trials

    protocol = make_protocol(
        centre=options.pop("centre"),
        as_norm_top=options.pop("as_norm"),
        cohort=options.pop("cohort"),
        num_crops=options.pop("crops"),
        crop_seconds=options.pop("crop_seconds"),
        enrolment_map=options.pop("enrolment_map"),
        enrolment_prefix=options.pop("enrolment_prefix"),
    )
    conditions = make_conditions(
        cut_seconds=options.pop("cut_seconds"),
        noise=options.pop("noise"),
        snr_db=options.pop("snr"),
        channels=options.pop("codec"),
        seed=options["seed"],
    )
    processes = Processes.from_environment()
    settings = EvaluationSettings(
        protocol=protocol,
        conditions=conditions,
        extraction=how,
        device=processes.device(device),
        processes=processes,
        command=["mrl", *sys.argv[1:]],
        **options,  # every other option has the name of its setting
    )
    folders = report_folders(trial_lists, output)
    results = evaluate_specs(models, [read_trials(path) for path in trial_lists], root, settings)
    if not processes.is_first:
        return
    for result, folder in zip(results, folders, strict=True):
        compared = comparison_table(result) if len(models) > 1 else None
        strata_tables = (strata_summary(result, group) for group in strata_groups(result))
        tables = (figures_table(result), calibrated_table(result), compared, *strata_tables)
        print_tables(*(table for table in tables if table is not None))
        if folder is not None:
            for file in write_report(result, folder):
                click.echo(f"written: {file}")
