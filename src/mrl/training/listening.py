"""Augmented examples to listen to: the crops of a training run as they would come out, kind by kind, with what was measured."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mrl.audio import SAMPLE_RATE, Augmenter, Change, find_audio_files
from mrl.audio.augment import KINDS, measure
from mrl.audio.decoded import Waveform
from mrl.data import Corpus, Utterance, read_manifest, read_shards
from mrl.data.crops import augmented_crop
from mrl.data.shards import holds_shards
from mrl.errors import DataError, InputError, MissingDependencyError
from mrl.files import atomic_path, write_text
from mrl.progress import progress_bar
from mrl.training.config import AugmentationConfig
from mrl.training.data import build_augmenter

# The index of augmented examples: one HTML page with players, and the same as a table for machines.


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
    rows += [(example.file, example.utterance, example.kind, " | ".join(example.facts)) for example in examples]
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
    for utterance, group in groupby(examples, key=lambda example: (example.file.split("-", 1)[0], example.utterance)):
        rows = "".join(
            f"<tr><td>{html.escape(example.kind.replace('_', ' '))}</td>"
            f'<td><audio controls preload="none" src="{html.escape(example.file)}"></audio></td>'
            f"<td>{'<br>'.join(html.escape(fact) for fact in example.facts) or 'unchanged'}</td></tr>"
            for example in group
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


CLEAN, CONFIGURED = "clean", "configured"


@dataclass(frozen=True)
class ListeningFolder:
    """What was written.

    Attributes:
        folder: with the recordings, ``index.html`` and ``examples.tsv``.
        examples: in order.
        left_out: kinds that there are no examples of, and why.
    """

    folder: Path
    examples: tuple[Example, ...]
    left_out: Mapping[str, str]


def write_examples(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    config: AugmentationConfig,
    *,
    root: str | os.PathLike[str] | None = None,
    crop_seconds: float = 3.0,
    count: int = 8,
    seed: int = 0,
) -> ListeningFolder:
    """Write crops of a few utterances: clean, with each kind of change alone, and with everything as configured.

    The crops are those of draws 0, 1, ... of the first epoch of a run with this seed that drew these utterances. The same
    arguments and recordings give the same files, byte for byte.

    Args:
        source: a manifest, a folder of shards, or a folder with recordings at any depth.
        folder: made if absent; files of the same names are replaced.
        config: the settings; each kind is also shown where its probability is 0, if it has what it needs.
        root: folder that the manifest's relative paths start from.
        crop_seconds: length of the crops, seconds.
        count: how many utterances; all, if there are fewer.
        seed: of the choice of utterances, crops and changes.

    Raises:
        InputError, DataError: unusable arguments; no recordings.
        AudioLoadingError: a recording cannot be read.
        MissingDependencyError: what is configured needs a package that is not installed.
    """
    if count < 1 or seed < 0:
        raise InputError(f"count is {count} and seed {seed}, expected 1 or more and 0 or more")
    corpus = _read(Path(source), root)
    order = np.random.default_rng(seed).permutation(len(corpus))[:count]
    utterances = [corpus.utterances[index] for index in sorted(order.tolist())]
    augmenters, left_out = augmenters_by_kind(config, corpus)
    samples = round(crop_seconds * SAMPLE_RATE)
    place = Path(folder)
    examples: list[Example] = []
    with progress_bar("examples", len(utterances), unit="utterances") as advance:
        for number, utterance in enumerate(utterances):
            for kind, augmenter in augmenters.items():
                recorder = _Recorder(augmenter)
                crop = augmented_crop(utterance, samples, (seed, 0, number), recorder)
                name = f"{number + 1:03d}-{kind.replace('_', '-')}.wav"
                _write_wav(place / name, crop)
                examples.append(Example(name, _name_of(utterance, source), kind, recorder.facts()))
            advance(1)
    write_text(place / "examples.tsv", table(examples))
    write_text(place / "index.html", page(examples, left_out, config, crop_seconds=crop_seconds, seed=seed))
    return ListeningFolder(place, tuple(examples), left_out)


@dataclass
class _Recorder:
    """An augmentation that remembers what it did; without an augmenter it does nothing."""

    augmenter: Augmenter | None
    speed: float = 1.0
    changes: Sequence[Change] = field(default_factory=list)

    def draw_speed(self, rng: np.random.Generator) -> float:
        self.speed = 1.0 if self.augmenter is None else self.augmenter.draw_speed(rng)
        return self.speed

    def __call__(self, waveform: Waveform, seed: int, /) -> Waveform:
        if self.augmenter is None:
            return waveform
        changed, self.changes = self.augmenter.trace(waveform, seed)
        return changed

    def facts(self) -> tuple[str, ...]:
        speed = [f"speed: x {self.speed:g}"] if self.speed != 1.0 else []
        return (*speed, *(measure(change) for change in self.changes))


def augmenters_by_kind(config: AugmentationConfig, corpus: Corpus) -> tuple[dict[str, Augmenter | None], dict[str, str]]:
    """Return an augmenter for each kind alone, None for the clean crop before and the whole after; and what is left out, why."""
    augmenters: dict[str, Augmenter | None] = {CLEAN: None}
    left_out: dict[str, str] = {}
    configured = build_augmenter(config, corpus)
    needs = {"noise": ("noise_folders", config.noise_folders), "room": ("rir_folders", config.rir_folders)}
    for kind in KINDS:
        key, folders = needs.get(kind, ("", ["none needed"]))
        if not folders:
            left_out[kind] = f"data.augmentation.{key} is empty"
            continue
        try:
            augmenters[kind] = build_augmenter(_alone(config, kind), corpus)
        except MissingDependencyError as error:
            left_out[kind] = str(error)
    if configured is None:
        left_out[CONFIGURED] = "every probability is 0, or its folders are missing"
    else:
        augmenters[CONFIGURED] = configured
    return augmenters, left_out


def _alone(config: AugmentationConfig, kind: str) -> AugmentationConfig:
    """The same settings with this kind always and no other; what is drawn for it stays as it was."""
    names = {name: "rir_probability" if name == "room" else f"{name}_probability" for name in KINDS if name != "simulated_room"}
    changes: dict[str, Any] = {field: float(name == kind) for name, field in names.items()}
    rooms = config.simulated_rooms.model_copy(update={"probability": float(kind == "simulated_room")})
    return config.model_copy(update={**changes, "simulated_rooms": rooms})


def _read(source: Path, root: str | os.PathLike[str] | None) -> Corpus:
    if not source.is_dir():
        return read_manifest(source, root=root)
    if holds_shards(source):
        return read_shards(source)
    files = find_audio_files(source)
    if not files:
        raise DataError(f"{source}: no recordings in it; give a manifest, a folder of shards, or a folder with audio files")
    return Corpus.of(Utterance(file, file.parent.name) for file in files)


def _name_of(utterance: Utterance, source: str | os.PathLike[str]) -> str:
    base = Path(source)
    return str(utterance.path.relative_to(base)) if utterance.path.is_relative_to(base) else utterance.path.name


def _write_wav(path: Path, samples: Waveform) -> None:
    import soundfile

    with atomic_path(path) as temporary:
        soundfile.write(str(temporary), samples, SAMPLE_RATE, subtype="PCM_16")
