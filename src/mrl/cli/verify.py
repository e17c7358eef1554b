"""``mrl verify``: the score of two recordings, or of a recording and an enrolled voice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mrl.cli.options import (
    FOR_MANY,
    LEAST_SPEECH,
    Criterion,
    ModelChoice,
    decision_options,
    dim_option,
    extraction_options,
    model_options,
    store_option,
)
from mrl.cli.output import json_option, result

if TYPE_CHECKING:
    from mrl.embeddings import Extraction, Verification

logger = logging.getLogger(__name__)


@click.command()
@click.argument("first")
@click.argument("second", type=click.Path(path_type=Path))
@model_options(depth=True)
@dim_option
@extraction_options(without=FOR_MANY, minimum_speech=LEAST_SPEECH)
@decision_options()
@store_option
@json_option
def command(
    first: str,
    second: Path,
    model: ModelChoice,
    dim: int | None,
    how: Extraction,
    criterion: Criterion,
    store: Path | None,
) -> None:
    """Compare the speakers of two recordings.

    FIRST is a recording or the name of an enrolled voice (mrl enroll); SECOND is a recording. If a name is ambiguous, write
    voice:NAME for the voice and ./NAME for the recording.

    The score is the cosine of the two embeddings, in [-1, 1]. A calibrated model (mrl calibrate) also gives a log-likelihood
    ratio, the probability of one speaker at a stated prior, and a decision. The bundled model has a starter calibration.
    """
    from mrl.identification import VoiceStore, default_store, verify_files, verify_voice
    from mrl.identification.recognise import enrolled_name

    name = enrolled_name(first, store)
    if name is None:
        verified = verify_files(model.open(), first, second, how, dim=dim, **criterion)
    elif model.depth is not None:
        raise click.UsageError("--depth is for two recordings; voices are enrolled and verified by the whole network")
    else:
        opened = VoiceStore(store or default_store())
        verified = verify_voice(model.open(), name, second, opened, how, dim=dim, **criterion)
    rule = verified.rule
    facts = {
        "score": verified.score,
        "log_likelihood_ratio": verified.log_likelihood_ratio,
        "probability": verified.probability,
        "prior": verified.prior,
        "same_speaker": verified.same_speaker,
        "threshold": rule.threshold,
        "basis": rule.basis or rule.absence,
        "dim": rule.dim,
        "model": model.spec,
    }
    result(facts, *_lines(verified))
    if rule.threshold is not None and verified.log_likelihood_ratio is None:
        logger.warning(
            "a threshold holds for one model, one dim and one kind of recording; calibrate it on trials of your own. "
            "It is a raw cosine, not the (cosine + 1) / 2 of some toolkits."
        )


def _lines(verified: Verification) -> Iterator[str]:
    rule = verified.rule
    yield f"score: {verified.score:.4f} (raw cosine, from -1 to 1)"
    if rule.threshold is None:
        yield f"no decision: {rule.absence}"
    elif verified.log_likelihood_ratio is None:
        yield f"decision: {verified.decision} (threshold {rule.threshold:g})"
    else:
        ratio = f"{verified.log_likelihood_ratio:.3f}"
        yield f"log-likelihood ratio: {ratio} (natural logarithm, above 0 speaks for one speaker)"
        yield f"probability of one speaker: {verified.probability:.1%} (at prior {verified.prior:g})"
        yield f"decision: {verified.decision} ({rule.basis}: threshold {rule.threshold:.3f})"
