"""``mrl pretrained``: list, describe, download and check the released checkpoints; describe and copy the package's own model."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mrl.pretrained.bundled import BundledModel, bundled_models, copy_bundled, find_bundled
from mrl.pretrained.registry import PretrainedCheckpoint, VoxCeleb1EER, find_by_name, list_pretrained
from mrl.tables import Table, print_tables

_NAME_HELP = "NAME is like b2-vox2-ft_lm; a model name alone (b2, M, redimnet2-b6) means its fine-tuned version."
_LISTED_DIM = 64


@click.group()
def command() -> None:
    """List, download and check the released ReDimNet checkpoints."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print all details as JSON.")
def list_command(as_json: bool) -> None:
    """List all released checkpoints with their published error rates, and the bundled model."""
    checkpoints = list_pretrained()
    if as_json:
        _print_json([_as_dict(checkpoint) for checkpoint in checkpoints])
        return
    _print_released(checkpoints)
    # Not a row of the table, whose columns are published figures on lists that these models were not measured on.
    for model in bundled_models():
        click.echo(_bundled_line(model), err=True)


def _print_released(checkpoints: tuple[PretrainedCheckpoint, ...]) -> None:
    rows = [
        (
            checkpoint.name,
            _parameters(checkpoint),
            _rate(checkpoint.eer, "original"),
            _rate(checkpoint.eer, "extended"),
            _rate(checkpoint.eer, "hard"),
            _rate(checkpoint.eer_as_norm, "original"),
            checkpoint.licence,
        )
        for checkpoint in checkpoints
    ]
    header = ("name", "parameters", "Vox1-O", "Vox1-E", "Vox1-H", "Vox1-O + AS-Norm", "licence")
    note = "EER in %, published; –: unpublished"
    # Without a frame it fits into 80 columns; a shortened name could not be typed again.
    table = Table(header, tuple(rows), words=(0, 6), group=None, notes=(note,), frame=False, unbroken=(0, 1, 6))
    print_tables(table) if sys.stdout.isatty() else click.echo(table.tab_separated())


@command.command("info", epilog=_NAME_HELP)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info_command(name: str, as_json: bool) -> None:
    """Describe one checkpoint, or the bundled model."""
    bundled = find_bundled(name)
    if bundled is not None:
        _print_json(_bundled_as_dict(bundled)) if as_json else _print_facts(_bundled_facts(bundled))
        return
    checkpoint = find_by_name(name)
    if as_json:
        _print_json(_as_dict(checkpoint))
        return
    from mrl.pretrained.cache import checkpoint_folder, read_record

    cached = checkpoint_folder() / checkpoint.file_name
    recorded = read_record(checkpoint.file_name).sha256
    unknown_hash = "unpublished; recorded at first use" + (f" as {recorded}" if recorded else "")
    _print_facts(
        {
            "name": checkpoint.name,
            "model name": checkpoint.model_name,
            "training type": checkpoint.train_type,
            "data set": checkpoint.dataset,
            "training data": checkpoint.training_data,
            "licence of the weights": f"{checkpoint.licence} ({checkpoint.licence_note})",
            "address": checkpoint.url,
            "SHA-256": checkpoint.sha256 or unknown_hash,
            "size": f"{checkpoint.num_bytes:,} bytes" if checkpoint.num_bytes else "unpublished",
            "sample rate": f"{checkpoint.sample_rate} Hz",
            "parameters": _parameters(checkpoint),
            "parameters, paper": _millions(checkpoint.paper_parameters),
            "GMACs for 2 s, paper": "–" if checkpoint.paper_gmacs is None else f"{checkpoint.paper_gmacs:g}",
            "EER % Vox1-O / E / H": _rates(checkpoint.eer),
            "the same + AS-Norm": _rates(checkpoint.eer_as_norm),
            **{f"EER % {test_set}": _percent(percent) for test_set, percent in checkpoint.other_eers},
            "source of the figures": checkpoint.figures_source,
            "in the cache": f"{cached}" if cached.is_file() else f"no (its place: {cached})",
        }
    )


@command.command("download", epilog=_NAME_HELP)
@click.argument("name")
@click.option("--force-reload", is_flag=True, help="Download even if the file is in the cache.")
def download_command(name: str, force_reload: bool) -> None:
    """Download a checkpoint into torch.hub's cache, verify it, and print its path.

    MRL_MIRROR (a folder or a base URL) replaces the official source.
    """
    checkpoint = find_by_name(name)
    from mrl.pretrained.download import fetch_checkpoint

    click.echo(str(fetch_checkpoint(checkpoint, force_reload=force_reload).path))


@command.command("verify", epilog=_NAME_HELP)
@click.argument("name_or_file")
def verify_command(name_or_file: str) -> None:
    """Check a cached checkpoint or any checkpoint file: hash, size, and whether the network loads it."""
    is_file = Path(name_or_file).expanduser().is_file()
    wanted = name_or_file if is_file or _looks_like_path(name_or_file) else find_by_name(name_or_file)
    from mrl.pretrained.loading import verify_checkpoint

    report = verify_checkpoint(wanted)
    compared = {
        "published": "equals the published one",
        "first use": "equals the one recorded at first use",
        "none": "nothing to compare with",
    }
    _print_facts(
        {
            "file": str(report.path),
            "released as": "a file of your own" if report.checkpoint is None else report.checkpoint.name,
            "SHA-256": f"{report.sha256} ({compared[report.hash_check]})",
            "size": f"{report.num_bytes:,} bytes",
            "parameters": f"{report.num_parameters:,}",
            "embedding": f"{report.embed_dim} dimensions",
            "result": "in order: the network loads it strictly",
        }
    )


@command.command("copy")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
def copy_command(model: str, folder: Path) -> None:
    """Copy the bundled model into a new folder, for example to calibrate it.

    MODEL is mrl-b0-demo.
    """
    click.echo(str(copy_bundled(model, folder)))


def _looks_like_path(text: str) -> bool:
    return "/" in text or "\\" in text


def _as_dict(checkpoint: PretrainedCheckpoint) -> dict[str, Any]:
    values = asdict(checkpoint)
    values["other_eers"] = dict(checkpoint.other_eers)
    return {"name": checkpoint.name, "file_name": checkpoint.file_name, "url": checkpoint.url, **values}


def _bundled_as_dict(model: BundledModel) -> dict[str, Any]:
    return {"embed_dim": model.embed_dim, "mrl_dims": model.mrl_dims, "folder": str(model.folder), **model.release.to_dict()}


def _bundled_line(model: BundledModel) -> str:
    dims = [dim for dim in (_LISTED_DIM, model.embed_dim) if dim in model.mrl_dims]
    measured = "; ".join(
        f"EER % at {' / '.join(map(str, dims))} on {result.trial_list} "
        + " / ".join(f"{100 * model.release.rate(result.trial_list, dim).equal_error_rate:.2f}" for dim in dims)
        for result in model.release.results
    )
    return f"In the package, for trying things out: {model.name} ({model.release.licence}; {measured})"


def _bundled_facts(model: BundledModel) -> dict[str, str]:
    release = model.release
    return {
        "name": model.name,
        "what it is": release.notice,
        "licence of the weights": release.licence,
        "parameters": f"{release.num_parameters:,}",
        "training speakers": f"{release.training_speakers:,}",
        "lengths": ", ".join(map(str, model.mrl_dims)),
        **{
            f"EER % {result.trial_list}": ", ".join(f"{rate.dim}: {100 * rate.equal_error_rate:.2f}" for rate in result.model)
            for result in release.results
        },
        "in the package": str(model.folder),
    }


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _print_facts(facts: dict[str, str]) -> None:
    width = max(map(len, facts)) + 1
    for name, value in facts.items():
        click.echo(f"{name + ':':<{width}} {value}")


def _parameters(checkpoint: PretrainedCheckpoint) -> str:
    if checkpoint.num_parameters_exact:
        return f"{checkpoint.num_parameters:,}"
    return _millions(checkpoint.num_parameters)


def _millions(count: int | None) -> str:
    return "–" if count is None else f"~{count / 1e6:.3g}M"


def _rate(eer: VoxCeleb1EER | None, trial_list: str) -> str:
    return "–" if eer is None else _percent(getattr(eer, trial_list))


def _rates(eer: VoxCeleb1EER | None) -> str:
    return "unpublished" if eer is None else " / ".join(map(_percent, (eer.original, eer.extended, eer.hard)))


def _percent(value: float) -> str:
    """Two decimals, or three where the third is not zero."""
    return f"{value:.3f}".removesuffix("0")
