"""``mrl trials``: trial lists, fetched, made and checked."""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.options import ColumnValue, row_filter


@click.group()
def command() -> None:
    """Fetch the official VoxCeleb1 trial lists, make lists of your own, and check any list."""


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("trials"), show_default=True, help="Folder for the lists."
)
@click.option("--source", help="Base URL or folder with the official files, instead of the official sites.")
@click.option(
    "--force-reload", is_flag=True, help="Download again; the old list is replaced only if the new one passes all checks."
)
def fetch(names: tuple[str, ...], output: Path, source: str | None, force_reload: bool) -> None:
    """Fetch official trial lists.

    NAMES are voxceleb1-o, -e and -h, each also with -cleaned (voxceleb1-o-cleaned), or all.
    """
    from mrl.trials.voxceleb import OFFICIAL_LISTS, fetch_official_list, find_official_list

    wanted = [official.name for official in OFFICIAL_LISTS] if names == ("all",) else list(names)
    for known in [find_official_list(name) for name in wanted]:
        path = fetch_official_list(known.name, output, source=source, force_reload=force_reload)
        click.echo(f"{path}: {known.trials:,} trials, {known.targets:,} of them of one speaker")


@command.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write.")
@click.option("--root", type=click.Path(path_type=Path), help="Folder that the list's paths are relative to.")
@click.option("--where", type=ColumnValue(), multiple=True, help="Only rows with this COLUMN=VALUE; may be given several times.")
@click.option("--max-targets", type=int, default=10_000, show_default=True, help="Maximum number of same-speaker trials.")
@click.option("--max-nontargets", type=int, default=50_000, show_default=True, help="Maximum number of different-speaker trials.")
@click.option("--same-gender-share", type=float, help="Share of different-speaker trials within one gender, 0 to 1.")
@click.option("--gender-column", default="gender", show_default=True, help="Column of the manifest with the gender.")
@click.option("--different-sessions", is_flag=True, help="Only make same-speaker trials between different sessions.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice.")
def make(
    source: Path,
    output: Path,
    root: Path | None,
    where: tuple[tuple[str, str], ...],
    max_targets: int,
    max_nontargets: int,
    same_gender_share: float | None,
    gender_column: str,
    different_sessions: bool,
    seed: int,
) -> None:
    """Make a balanced trial list.

    SOURCE is a manifest (.csv, .tsv, .jsonl, .parquet) with the columns path and speaker, or a folder with one subfolder per
    speaker.
    """
    from mrl.data.trial_source import make_trials_from
    from mrl.trials import write_trials

    trials = make_trials_from(
        source,
        root=root,
        where=row_filter(where),
        max_targets=max_targets,
        max_nontargets=max_nontargets,
        same_gender_share=same_gender_share,
        gender_column=gender_column,
        different_sessions=different_sessions,
        seed=seed,
    )
    write_trials(trials, output)
    click.echo(
        f"{output}: {trials.num_target:,} same-speaker and {trials.num_nontarget:,} different-speaker trials of "
        f"{len(trials.utterances):,} recordings ({trials.source})"
    )


@command.command()
@click.argument("trial_list", type=click.Path(path_type=Path))
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Folder that the list's paths are relative to; without it only the text is checked.",
)
@click.option(
    "--speakers", type=click.Path(path_type=Path), help="File with lines 'utterance speaker', if paths do not name the speaker."
)
@click.option(
    "--enrolment",
    type=click.Path(path_type=Path),
    help="File with lines 'model recording ...', if the list names enrolment models.",
)
@click.option("--enrolment-prefix", default="", help="Prefix for the paths of the enrolment map, such as ../data/.")
@click.option("--decode", is_flag=True, help="Read every recording to its end, not just its header.")
@click.pass_context
def check(
    ctx: click.Context,
    trial_list: Path,
    root: Path | None,
    speakers: Path | None,
    enrolment: Path | None,
    enrolment_prefix: str,
    decode: bool,
) -> None:
    """Report all faults of a trial list; the exit status is 2 if there are errors."""
    from mrl.audio import audio_info, load_audio
    from mrl.trials import check_trials, read_enrolment_map, read_speakers, read_trials

    report = check_trials(
        read_trials(trial_list),
        root,
        speakers=None if speakers is None else read_speakers(speakers),
        enrolment=None if enrolment is None else read_enrolment_map(enrolment, prefix=enrolment_prefix),
        open_recording=load_audio if decode else audio_info,
    )
    click.echo(
        f"{trial_list}: {report.trials:,} trials, {report.targets:,} same-speaker and {report.nontargets:,} different-speaker, "
        f"of {report.utterances:,} utterances"
    )
    for finding in report.findings:
        click.echo(f"{'error' if finding.is_error else 'note'}: {finding.count:,} {finding.what}")
        for example in finding.examples:
            click.echo(f"  {example}")
    for reason in report.unchecked:
        click.echo(f"not checked: {reason}")
    if report.errors:
        ctx.exit(2)
    click.echo("no errors")
