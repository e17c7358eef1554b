"""The index of augmented examples: one HTML page with players, and the same as a table for machines."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from mrl.training.config import AugmentationConfig


@dataclass(frozen=True)
class Example:
    """One file.

    Attributes:
        file: its name in the folder.
        utterance: the recording it was cut from.
        kind: one of :data:`mrl.audio.augment.KINDS`, ``clean`` or ``configured``.
        facts: what was drawn and measured, in words, one entry per change.
    """

    file: str
    utterance: str
    kind: str
    facts: tuple[str, ...]


_STYLE = """
body { font: 15px/1.5 system-ui, "Segoe UI", Arial, sans-serif; color: #1a1a1a; max-width: 1100px;
  margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 16px; margin: 28px 0 6px; overflow-wrap: anywhere; }
p { color: #444; margin: 4px 0; } table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
td { border-top: 1px solid #ddd; padding: 4px 10px 4px 0; vertical-align: middle; } td:first-child { white-space: nowrap; }
audio { height: 32px; width: 260px; display: block; }
"""


def table(examples: Sequence[Example]) -> str:
    """Return tab-separated text: file, utterance, kind, and what was done."""
    rows = [("file", "utterance", "kind", "what was done")]
    rows += [(one.file, one.utterance, one.kind, " | ".join(one.facts)) for one in examples]
    return "".join("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row) + "\n" for row in rows)


def page(
    examples: Sequence[Example],
    left_out: Mapping[str, str],
    config: AugmentationConfig,
    *,
    crop_seconds: float,
    seed: int,
) -> str:
    """Return the page; everything that came from outside (names of files, messages) is escaped."""
    parts = [
        f"<h1>Augmented examples</h1><p>Crops of {crop_seconds:g} s, seed {seed}. "
        "Each kind of change alone, then everything with the probabilities that are configured.</p>"
    ]
    for utterance, group in groupby(examples, key=lambda one: (one.file.split("-", 1)[0], one.utterance)):
        rows = "".join(
            f"<tr><td>{html.escape(one.kind.replace('_', ' '))}</td>"
            f'<td><audio controls preload="none" src="{html.escape(one.file)}"></audio></td>'
            f"<td>{'<br>'.join(html.escape(fact) for fact in one.facts) or 'unchanged'}</td></tr>"
            for one in group
        )
        parts.append(f"<h2>{html.escape(utterance[0])}: {html.escape(utterance[1])}</h2><table>{rows}</table>")
    if left_out:
        parts.append("<h2>Not here</h2>")
        parts += [f"<p>{html.escape(kind.replace('_', ' '))}: {html.escape(reason)}.</p>" for kind, reason in left_out.items()]
    masks = config.spec_augment
    if masks.frequency_masks or masks.time_masks:
        parts.append("<p>SpecAugment masks features inside the network; there is nothing to hear of it.</p>")
    head = f'<meta charset="utf-8"><title>Augmented examples</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
