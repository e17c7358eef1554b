"""Two recordings, one question: the score, and a calibrated answer where the model has a calibration."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mrl.audio import audio_info
from mrl.embeddings.calibrated import load_calibration
from mrl.errors import AudioLoadingError, InputError
from mrl.scoring.calibration import Calibration


@dataclass(frozen=True)
class Verification:
    """What two recordings gave.

    Attributes:
        score: raw cosine in [-1, 1].
        dim: prefix length compared.
        log_likelihood_ratio: natural logarithm; None without a calibration of this dim.
        threshold: that the decision was made with, on the scale of the log-likelihood ratio if there is one, else of the cosine;
            None for no decision.
        same_speaker: the decision; None for none.
        prior: that the threshold stands for; None if it stands for something else.
        max_false_accept: likewise a false accept rate on the calibration trials.
        calibrated_dims: the dims that the model's calibration covers; empty without one, and where the network was left early.
    """

    score: float
    dim: int
    log_likelihood_ratio: float | None
    threshold: float | None
    same_speaker: bool | None
    prior: float | None
    max_false_accept: float | None
    calibrated_dims: tuple[int, ...]


def verify_files(
    model: str | os.PathLike[str],
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    weights: str | None = None,
    dim: int | None = None,
    depth: int | None = None,
    threshold: float | None = None,
    prior: float | None = None,
    max_false_accept: float | None = None,
    device: str = "cpu",
) -> Verification:
    """Compare two recordings.

    A model folder with a ``calibration.json`` for this very dim gives a log-likelihood ratio and a decision; neighbouring dims
    are never used in its place. A raw-cosine ``threshold`` is used as it is and leaves the calibration out.

    Args:
        model: a model folder, an official checkpoint, an exported ``.onnx`` file (which does not need torch), or the name of a
            released model.
        first, second: the recordings.
        weights: for a released name, where its file is.
        dim: compare prefixes of this length; all dimensions by default.
        depth: leave a model folder's network after so many stages; the calibration, which is of the whole one, is then left out.
        threshold: accept from this raw cosine on.
        prior: decide at this probability of a same-speaker trial; the calibration's own by default.
        max_false_accept: decide at this false accept rate of the calibration trials instead.
        device: where the network goes.

    Raises:
        AudioLoadingError: a recording cannot be used.
        InputError: arguments that do not go together, or a prior or rate without a calibration of this dim.
        CheckpointError: a damaged model, or a calibration of other weights.
    """
    given = [value is not None for value in (threshold, prior, max_false_accept)]
    if sum(given) > 1:
        raise InputError("give one of threshold (a raw cosine), prior and max-far, not several")
    calibration, network = _open(model, weights, device, depth, with_calibration=threshold is None)
    known = () if calibration is None else tuple(sorted(calibration.dims))
    chosen = network.embed_dim if dim is None else dim
    calibrated = calibration is not None and chosen in known
    if (prior is not None or max_false_accept is not None) and not calibrated:
        covered = f"its calibration covers the dims {', '.join(map(str, known))}" if known else "it has no calibration"
        covered = f"a calibration is of the whole network, not of depth {depth}" if network.left_early else covered
        raise InputError(
            f"{os.fspath(model)} gives no log-likelihood ratio at dim {chosen}: {covered}; "
            "make one with mrl calibrate, or give a raw-cosine threshold"
        )
    limit = (
        None
        if calibration is None or not calibrated
        else calibration.threshold(chosen, prior=prior, max_false_accept=max_false_accept)
    )
    score = network.score(first, second, dim)
    if calibration is None or limit is None:
        accepted = None if threshold is None else score >= threshold
        return Verification(score, chosen, None, threshold, accepted, None, None, known)
    if calibration.quality == "duration":
        one, two = audio_info(first).seconds, audio_info(second).seconds
        ratio = float(calibration.log_likelihood_ratios(chosen, [score], [one], [two])[0])
    else:
        ratio = float(calibration.log_likelihood_ratios(chosen, [score])[0])
    at_prior = None if max_false_accept is not None else (calibration.prior if prior is None else prior)
    return Verification(score, chosen, ratio, limit, ratio >= limit, at_prior, max_false_accept, known)


@dataclass(frozen=True)
class _Network:
    embed_dim: int
    score: Callable[[str | os.PathLike[str], str | os.PathLike[str], int | None], float]
    left_early: bool = False


def _open(
    model: str | os.PathLike[str], weights: str | None, device: str, depth: int | None, *, with_calibration: bool
) -> tuple[Calibration | None, _Network]:
    path = Path(model).expanduser()
    if path.suffix.lower() == ".onnx" and weights is None and device == "cpu" and depth is None:
        return _open_exported(path, with_calibration)
    from mrl.embeddings import open_model, score_files

    network = open_model(model, weights=weights, device=device, depth=depth)
    left_early = depth is not None and getattr(network, "cut", None) is not None
    calibration = load_calibration(model) if with_calibration and path.is_dir() and not left_early else None
    return calibration, _Network(
        int(network.embed_dim), lambda first, second, dim: score_files(network, first, second, target_dim=dim), left_early
    )


def _open_exported(path: Path, with_calibration: bool) -> tuple[Calibration | None, _Network]:
    """An exported file carries its calibration, and runs without torch."""
    from mrl.embeddings.similarity import cosine_similarity
    from mrl.runtime import OnnxEmbedder

    embedder = OnnxEmbedder(path)
    carried = embedder.description.calibration if with_calibration else None

    def score(first: str | os.PathLike[str], second: str | os.PathLike[str], dim: int | None) -> float:
        embedder.check_dim(dim)
        found, reasons = [], []
        for file in (first, second):
            try:
                found.append(embedder(file, dim))
            except (AudioLoadingError, InputError) as error:
                reasons.append(str(error) if os.fspath(file) in str(error) else f"{os.fspath(file)}: {error}")
        if reasons:
            raise AudioLoadingError(f"{len(reasons)} of 2 recordings cannot be used: {'; '.join(reasons)}")
        return cosine_similarity(*found)

    return None if carried is None else Calibration.from_dict(carried), _Network(embedder.embed_dim, score)
