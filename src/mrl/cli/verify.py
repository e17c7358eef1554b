"""``mrl verify``: the score of two recordings."""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.options import depth_option, device_option, model_option, store_option, weights_option


@click.command()
@click.argument("first")
@click.argument("second", type=click.Path(path_type=Path))
@model_option
@weights_option
@click.option("--dim", type=int, help="Compare prefixes of this length; all dimensions by default.")
@depth_option
@click.option(
    "--threshold", type=click.FloatRange(-1.0, 1.0), help="Accept from this raw cosine on; without it no decision is made."
)
@click.option("--prior", type=float, help="Decide at this probability of one speaker; needs a calibrated model (mrl calibrate).")
@click.option("--max-far", type=float, help="Decide at this false accept rate of the calibration trials instead.")
@store_option
@device_option
def command(
    first: str,
    second: Path,
    model: str,
    weights: str | None,
    dim: int | None,
    depth: int | None,
    threshold: float | None,
    prior: float | None,
    max_far: float | None,
    store: Path | None,
    device: str,
) -> None:
    """Say how alike the speakers of two recordings are.

    FIRST is a recording or the name of an enrolled voice (mrl enroll), SECOND a recording. voice:NAME always names a voice,
    and a path with a slash in it, such as ./NAME, always a recording.

    The score is the raw cosine of the two embeddings, in [-1, 1]. A model folder that mrl calibrate has been run on gives a
    log-likelihood ratio and a decision too.
    """
    from mrl.embeddings import open_embedder
    from mrl.identification import VoiceStore, default_store, verify_files, verify_voice
    from mrl.identification.recognise import enrolled_name

    name = enrolled_name(first, store)
    if name is not None and depth is not None:
        raise click.UsageError("--depth is for two recordings; voices are enrolled and verified by the whole network")
    criterion = {"threshold": threshold, "prior": prior, "max_false_accept": max_far}
    if name is not None:
        opened = VoiceStore(store or default_store())
        found = verify_voice(open_embedder(model, weights=weights, device=device), name, second, opened, dim=dim, **criterion)
    else:
        embedder = open_embedder(model, weights=weights, device=device, depth=depth)
        found = verify_files(embedder, first, second, dim=dim, **criterion)
    rule = found.rule
    click.echo(f"score: {found.score:.4f} (raw cosine, from -1 to 1)")
    if rule.threshold is None:
        click.echo(f"no decision: {rule.absence}")
        return
    decision = "same speaker" if found.same_speaker else "different speakers"
    if found.log_likelihood_ratio is not None:
        click.echo(f"log-likelihood ratio: {found.log_likelihood_ratio:.3f} (natural logarithm, above 0 speaks for one speaker)")
        click.echo(f"decision: {decision} ({rule.basis}: threshold {rule.threshold:.3f})")
        return
    click.echo(f"decision: {decision} (threshold {rule.threshold:g})")
    click.echo(
        "warning: a threshold holds for one model, one dim and one kind of recording; calibrate it on trials of your own. "
        "It is a raw cosine, not the (cosine + 1) / 2 of some toolkits.",
        err=True,
    )
