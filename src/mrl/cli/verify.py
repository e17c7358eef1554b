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
@click.option("--dim", type=int, help="Number of dimensions to compare; all by default.")
@depth_option
@click.option(
    "--threshold", type=click.FloatRange(-1.0, 1.0), help="Accept if the cosine is at least this; ignores a calibration."
)
@click.option("--prior", type=float, help="Prior probability of the same speaker; needs a calibrated model (mrl calibrate).")
@click.option("--max-far", type=float, help="Decide at this false accept rate instead; needs a calibrated model.")
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
    """Compare the speakers of two recordings.

    FIRST is a recording or the name of an enrolled voice (mrl enroll); SECOND is a recording. If a name is ambiguous, write
    voice:NAME for the voice and ./NAME for the recording.

    The score is the cosine of the two embeddings, in [-1, 1]. A calibrated model (mrl calibrate) also gives a log-likelihood
    ratio and a decision.
    """
    from mrl.evaluation.verification import verify_files
    from mrl.identification.recognise import enrolled_name, verify_enrolled

    name = enrolled_name(first, store)
    if name is not None:
        if depth is not None:
            raise click.UsageError("--depth is for two recordings; voices are enrolled and verified by the whole network")
        found = verify_enrolled(
            model,
            name,
            second,
            store,
            weights=weights,
            dim=dim,
            threshold=threshold,
            prior=prior,
            max_false_accept=max_far,
            device=device,
        )
    else:
        found = verify_files(
            model,
            first,
            second,
            weights=weights,
            dim=dim,
            depth=depth,
            threshold=threshold,
            prior=prior,
            max_false_accept=max_far,
            device=device,
        )
    click.echo(f"score: {found.score:.4f} (raw cosine, from -1 to 1)")
    decision = "same speaker" if found.same_speaker else "different speakers"
    if found.log_likelihood_ratio is not None:
        click.echo(f"log-likelihood ratio: {found.log_likelihood_ratio:.3f} (natural logarithm, above 0 speaks for one speaker)")
        at = f"prior {found.prior:g}" if found.prior is not None else f"false accept rate {found.max_false_accept:g}"
        click.echo(f"decision: {decision} ({at}: threshold {found.threshold:.3f})")
        return
    if found.calibrated_dims:
        click.echo(f"calibrated dims: {', '.join(map(str, found.calibrated_dims))}; dim {found.dim} is none of them")
    if found.threshold is None:
        click.echo("no decision: none is possible without a threshold calibrated on your own data (--threshold)")
        return
    click.echo(f"decision: {decision} (threshold {found.threshold:g})")
    click.echo(
        "warning: a threshold holds for one model, one dim and one kind of recording; calibrate it on trials of your own. "
        "It is a raw cosine, not the (cosine + 1) / 2 of some toolkits.",
        err=True,
    )
