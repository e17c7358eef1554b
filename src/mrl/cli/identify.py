"""``mrl identify``: whose voice is it?"""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.options import device_option, model_option, store_option, weights_option


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Number of voices to show.")
@model_option
@weights_option
@store_option
@click.option("--dim", type=int, help="Number of dimensions to compare; all by default.")
@click.option(
    "--search",
    "method",
    type=click.Choice(["exact", "approximate"]),
    default="exact",
    show_default=True,
    help="Search method; approximate is faster with very many voices and may miss one.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(-1.0, 1.0),
    help="Accept if the cosine is at least this, for any number of voices; ignores a calibration.",
)
@click.option("--prior", type=float, help="Prior probability that the speaker is enrolled; needs a calibrated model.")
@click.option("--max-far", type=float, help="Decide at this probability of accepting a stranger as any voice instead.")
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
    """Identify the speaker of a recording among the enrolled voices, or answer unknown.

    Scores are cosines in [-1, 1]. A decision needs a calibrated model (mrl calibrate) or --threshold.
    """
    from mrl.identification import VoiceStore, default_store, identify, open_embedder

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
        if rule.calibrated_dims:
            click.echo(f"calibrated dims: {', '.join(map(str, rule.calibrated_dims))}; dim {rule.dim} is none of them")
        click.echo("no decision: none is possible without a threshold calibrated on your own data (mrl calibrate, --threshold)")
        return
    click.echo(f"decision: {found.name or 'unknown'} ({rule.basis}: threshold {rule.threshold:.3f})")
    if rule.calibration is None:
        click.echo(
            f"warning: a raw threshold knows nothing of the {found.voices:,} voices enrolled: the more there are, the more "
            "often a stranger is taken for one",
            err=True,
        )
