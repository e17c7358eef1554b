"""Exporting a model: written to a temporary folder, compared with the PyTorch network, and only then put in place."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mrl.deployment.checks import (
    CHECKED_SHAPES,
    ParityPoint,
    Reference,
    TrialParity,
    calibration_waveforms,
    check_parity,
    compare_on_trials,
    exported_embeddings,
    network_embeddings,
    require_cosine,
    require_same_rates,
    shapes_that_fit,
    write_self_test,
)
from mrl.deployment.comparison import TrialData, Variant, compare_variants, count_candidates
from mrl.deployment.formats import FormatName, Runner, card_of, files_of, format_of, open_runner, self_test_of
from mrl.deployment.network import INPUT_KINDS, InputKind, Model, backbone_of
from mrl.deployment.onnx_graph import MINIMUM_COSINE, PRECISIONS, Precision, precisions_of
from mrl.deployment.writing import GraphBuilder
from mrl.embeddings import open_embedder, weights_sha256
from mrl.embeddings.networks import NetworkEmbedder
from mrl.errors import InputError
from mrl.files import atomic_path, sha256_of, write_json
from mrl.hardware import hardware_line
from mrl.matryoshka import ReDimNetMRL
from mrl.progress import progress_bar
from mrl.runtime.description import Description
from mrl.scoring.calibration import Calibration
from mrl.trials.lists import TrialList
from mrl.version import __version__

# What there is to say about a model that is about to be exported.


def describe(
    model: Model, kind: InputKind, precision: Precision, *, opset: int | None, calibration: Calibration | None
) -> Description:
    """Return the description of a model in one form; ``model_hash`` is that of the weights."""
    backbone = backbone_of(model)
    source = _shareable(backbone.pretrained_source)
    sha256 = weights_sha256(model)
    cut = model.cut if isinstance(model, ReDimNetMRL) else None
    return Description(
        version=__version__,
        kind="matryoshka" if isinstance(model, ReDimNetMRL) else "backbone",
        input=kind,
        precision=precision,
        sample_rate=backbone.sample_rate,
        minimum_samples=backbone.minimum_samples,
        embed_dim=model.embed_dim,
        mrl_dims=model.mrl_dims if isinstance(model, ReDimNetMRL) else (model.embed_dim,),
        front_end=backbone.front_end.facts(),
        model_config=backbone.config.to_model_config(),
        weights_sha256=sha256,
        model_hash=sha256,
        source=source,
        licence=str((source or {}).get("licence") or "not stated"),
        calibration=None if calibration is None else calibration.to_dict(),
        opset=opset,
        cut=None if cut is None else dict(cut),
    )


def _shareable(source: dict[str, Any] | None) -> dict[str, Any] | None:
    """Keep the file's name, not where it lay on the machine that exports the model."""
    return {**source, "file": Path(source["file"]).name} if source and source.get("file") else source


logger = logging.getLogger(__name__)


PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with the network.

    Attributes:
        path: the exported file.
        description: what it says about itself.
        num_bytes: of it and its companions.
        points: comparisons on synthetic voices.
        rates: equal error rates on the trial list; None without one.
        variants: all forms measured, where that was asked for.
    """

    path: Path
    description: Description
    num_bytes: int
    points: tuple[ParityPoint, ...]
    rates: TrialParity | None
    variants: tuple[Variant, ...]

    @property
    def cosine(self) -> float:
        """The smallest cosine with the network."""
        return min(point.cosine for point in self.points)


def export_model(
    spec: PathLike,
    output: PathLike,
    *,
    weights: PathLike | None = None,
    depth: int | None = None,
    kind: InputKind = "waveform",
    precision: Precision = "fp32",
    calibration_audio: PathLike | None = None,
    trials: TrialList | None = None,
    root: PathLike | None = None,
    compare: bool = False,
    show_progress: bool = True,
) -> ExportReport:
    """Export a model to the format that the suffix of ``output`` means: .onnx, .xml (OpenVINO) or .pt2 (torch.export).

    The file is compared with the PyTorch network at 0.3 s to 60 s, alone and in batches of eight (but for batches that might need
    more than half of the free memory), and must reach :data:`MINIMUM_COSINE`; with a trial list, an fp32 file must have the
    network's equal error rates. Beside it are written ``OUTPUT.json`` (what the file says about itself, its hash, all figures)
    and ``OUTPUT.check.safetensors`` (a self-test). When anything fails, what was there before is still there.

    Args:
        spec: a model folder, an official checkpoint, or the name of a released model.
        output: the file to write.
        weights: for a released name, where its file is.
        depth: stop a model folder's network after this many stages: the early exit is exported as a network of its own,
            without the folder's calibration, which is for the whole network.
        kind: "waveform" with the front end inside, or "features" for toolkits with their own.
        precision: "fp32", "fp16" (weights stored in 16 bit), "int8-dynamic" or "int8-static".
        calibration_audio: folder with recordings like those to come, for "int8-static".
        trials: compare equal error rates on this list.
        root: folder that its paths are relative to.
        compare: measure all forms that can be made here and put the figures into ``OUTPUT.json``.
        show_progress: draw bars (on a terminal only).

    Raises:
        InputError: arguments that do not go together, or as :func:`mrl.embeddings.open_model`.
        ExportError: the network cannot be written in this form, or the file does not give what the network gives.
        DataError: recordings that cannot be used.
        CheckpointError: a damaged model.
        MissingDependencyError: a package is not installed.
        OSError: the folder cannot be written to or the disk is full.
    """
    target = Path(output).expanduser()
    format_name = format_of(target)
    _check_arguments(format_name, kind, precision, calibration_audio, trials, root)
    embedder = _open(spec, weights, depth)
    reference = Reference(embedder.network, kind)
    description = describe(embedder.network, kind, "fp32", opset=None, calibration=embedder.calibration)
    speech = [] if calibration_audio is None else calibration_waveforms(Path(calibration_audio), description.minimum_samples)
    builder = GraphBuilder(reference, description, speech)
    data = None
    if trials is not None and root is not None:
        trials.require_both_classes()
        data = TrialData(trials, root, network_embeddings(reference, trials, root), description.mrl_dims)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        staged = Path(folder) / target.name
        description = builder.write(format_name, precision, staged)
        runner = open_runner(staged)
        points = _checked(reference, runner, precision, show_progress)
        rates = None if data is None else _rates(reference, runner, data, required=precision == "fp32")
        variants: tuple[Variant, ...] = ()
        if compare:
            forms = Path(folder) / "forms"
            forms.mkdir()
            total = count_candidates(bool(speech))
            with progress_bar("measuring forms", total, unit="forms", enabled=show_progress) as advance:
                variants = compare_variants(
                    builder, reference, forms, with_calibration=bool(speech), trial_data=data, advance=advance
                )
        report = ExportReport(target, description, sum(part.stat().st_size for part in files_of(staged)), points, rates, variants)
        card = _card(report, {part.suffix: sha256_of(part) for part in files_of(staged)})
        write_self_test(reference, self_test_of(staged))
        staged_files = (*files_of(staged), self_test_of(staged))
        for source, place in zip(staged_files, (*files_of(target), self_test_of(target)), strict=True):
            with atomic_path(place) as temporary:
                source.replace(temporary)
    # It goes last and holds the hashes, so that files that do not belong together are noticed.
    write_json(card_of(target), card)
    return report


def _check_arguments(
    format_name: FormatName,
    kind: str,
    precision: str,
    calibration_audio: PathLike | None,
    trials: TrialList | None,
    root: PathLike | None,
) -> None:
    if kind not in INPUT_KINDS:
        raise InputError(f"input {kind!r} is unknown; expected {' or '.join(INPUT_KINDS)}")
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; expected one of {', '.join(PRECISIONS)}")
    if precision not in precisions_of(format_name):
        raise InputError(
            f"{format_name} files are written in {', '.join(precisions_of(format_name))}, not in {precision}; "
            "choose another precision or extension"
        )
    if precision == "int8-static" and calibration_audio is None:
        raise InputError("int8-static needs recordings that show the range of activations (--calibration-audio FOLDER)")
    if (trials is None) != (root is None):
        raise InputError("a trial list (--trials) and the folder of its recordings (--root) go together; found only one")


def _open(spec: PathLike, weights: PathLike | None, depth: int | None) -> NetworkEmbedder:
    embedder = open_embedder(spec, weights=weights, depth=depth)
    if not isinstance(embedder, NetworkEmbedder):
        raise InputError(f"{os.fspath(spec)} is an exported file already; export the model folder or checkpoint it was made from")
    return embedder


def _checked(reference: Reference, runner: Runner, precision: Precision, show_progress: bool) -> tuple[ParityPoint, ...]:
    shapes = shapes_that_fit(reference, CHECKED_SHAPES)
    for batch, seconds in sorted(set(CHECKED_SHAPES) - set(shapes)):
        logger.warning("a batch of %d x %g s is not compared with PyTorch: too little memory is free", batch, seconds)
    with progress_bar("comparing with PyTorch", len(shapes), unit="batches", enabled=show_progress) as advance:
        points = check_parity(reference, runner, shapes=shapes, advance=advance)
    require_cosine(points, MINIMUM_COSINE[precision])
    return points


def _rates(reference: Reference, runner: Runner, data: TrialData, *, required: bool) -> TrialParity:
    exported = exported_embeddings(reference, runner, data.trials, data.root)
    rates = compare_on_trials(data.network, exported, data.trials, data.dims)
    if required:
        require_same_rates(rates)
    return rates


def _card(report: ExportReport, hashes: dict[str, str]) -> dict[str, Any]:
    rates = report.rates
    return {
        **report.description.to_dict(),
        "files": hashes,
        "num_bytes": report.num_bytes,
        "comparison_with_pytorch": [asdict(point) for point in report.points],
        "equal_error_rates": None
        if rates is None
        else {
            "trial_list": Path(rates.source).name,
            "trials": rates.trials,
            "network": {str(dim): rate for dim, rate in rates.network.items()},
            "exported": {str(dim): rate for dim, rate in rates.exported.items()},
        },
        "variants": [variant.to_dict() for variant in report.variants],
        "measured_on": hardware_line(),
    }


# An export's figures in lines of text.


def export_lines(report: ExportReport) -> Iterator[str]:
    """Yield the lines that the command line prints about an export."""
    about = report.description
    yield f"{report.path}: {about.kind}, {about.input} in, {about.embed_dim} dimensions out, {about.precision}"
    if about.cut is not None:
        yield f"the first {about.cut['depth']} of {about.cut['stages']} stages, by an early exit"
    yield f"{report.num_bytes:,} bytes"
    seconds = [point.seconds for point in report.points]
    lengths = f"{min(seconds):g} s to {max(seconds):g} s"
    yield f"compared with PyTorch on {len(report.points)} batches of {lengths}: smallest cosine {report.cosine:.7f}"
    if report.rates is not None:
        for dim, rate in report.rates.network.items():
            change = 100 * (report.rates.exported[dim] - rate)
            yield f"equal error rate at dim {dim}: {100 * rate:.3f} %, change {change:+.4f} points"
    if report.variants:
        yield from _table(report.variants)


def _table(variants: tuple[Variant, ...]) -> Iterator[str]:
    yield f"{'format':<9} {'precision':<13} {'bytes':>11} {'speed':>6} {'cosine':>8} {'EER change':>10}  keep"
    for variant in variants:
        change = "-" if variant.rate_change is None else f"{100 * variant.rate_change:+.3f}"
        yield (
            f"{variant.format:<9} {variant.precision:<13} {variant.num_bytes:>11,} {variant.speed:>5.2f}x {variant.cosine:>8.5f} "
            f"{change:>10}  {'yes' if variant.worth_keeping else 'no'}: {variant.reason}"
        )
