"""An export's figures in lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from mrl.deployment.comparison import Variant
from mrl.deployment.exporting import ExportReport


def export_lines(report: ExportReport) -> Iterator[str]:
    """Yield what the command line tells about an export."""
    about = report.description
    yield f"{report.path}: {about.kind}, {about.input} in, {about.embed_dim} numbers out, {about.precision}"
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
