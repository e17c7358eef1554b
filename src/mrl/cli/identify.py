"""``mrl identify``: whose voice is it?"""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.options import device_option, model_option, store_option, weights_option


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many voices to show.")
@model_option
@weights_option
@store_option
@click.option("--dim", type=int, help="Compare prefixes of this length; all dimensions by default.")
@click.option(
    "--search",
    "method",
    type=click.Choice(["exact", "approximate"]),
    default="exact",
    show_default=True,
    help="How to search: approximate is faster among very many voices and may miss one.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(-1.0, 1.0),
    help="Accept from this raw cosine on; without it and a calibration: scores only.",
)
@click.option("--prior", type=float, help="Decide at this probability that the speaker is enrolled; needs a calibrated model.")
@click.option("--max-far", type=float, help="Decide at this probability that a stranger is taken for any of the voices instead.")
@device_option
def command(
    file: Path,
    top: int,
    model: str,
    weights: str | None,
    store: Path | None,
    dim: int | None,
    method: str,
    threshold: float | None,
    prior: float | None,
    max_far: float | None,
    device: str,
) -> None:
    """Say whose voice a recording is, among those enrolled, or that it is unknown.

    Scores are raw cosines in [-1, 1]. A decision needs a model that mrl calibrate has been run on, or --threshold.
    """
    from mrl.embeddings import open_embedder
    from mrl.identification import VoiceStore, default_store, identify

    opened = VoiceStore(store or default_store())
    found = identify(
        open_embedder(model, weights=weights, device=device),
        file,
        opened,
        dim=dim,
        top=top,
        method=method,  # type: ignore[arg-type]
        threshold=threshold,
        prior=prior,
        max_false_accept=max_far,
    )
    for one in found.candidates:
        ratio = "" if one.log_likelihood_ratio is None else f"  log-likelihood ratio {one.log_likelihood_ratio:8.3f}"
        click.echo(f"{one.score:7.4f}{ratio}  {one.name}")
    rule = found.rule
    if rule.threshold is None:
        click.echo(f"no decision: {rule.absence}")
        return
    click.echo(f"decision: {found.name or 'unknown'} ({rule.basis}: threshold {rule.threshold:.3f})")
    if rule.calibration is None:
        click.echo(
            f"warning: a raw threshold knows nothing of the {found.voices:,} voices enrolled: the more there are, the more "
            "often a stranger is taken for one",
            err=True,
        )
