"""The recordings of a demonstration: synthetic voices or the user's own, split by speaker into three parts."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrl.audio.synthetic import write_synthetic_corpus
from mrl.data import Corpus, scan_speaker_folders
from mrl.errors import DataError
from mrl.files import write_text
from mrl.trials import make_trials, write_trials

PARTS = ("train", "validation", "test")
_SHARES = (0.6, 0.15, 0.25)
_FEWEST_SPEAKERS = 12
_MOST_UTTERANCES_PER_SPEAKER = 30
_MOST_SPEAKERS = 120


@dataclass(frozen=True)
class DemoCorpus:
    """Where the demonstration's recordings are and who speaks when.

    Attributes:
        root: folder that all paths start from.
        manifest: CSV with the columns path, speaker, part.
        trials: part -> trial list file, for validation and test.
        speakers: recording -> speaker, for the recordings in the lists.
        counts: part -> (speakers, utterances).
    """

    root: Path
    manifest: Path
    trials: dict[str, Path]
    speakers: dict[str, str]
    counts: dict[str, tuple[int, int]]


def synthetic_voices(folder: Path, *, num_speakers: int, utterances_per_speaker: int, seed: int) -> Path:
    """Write synthetic voices into ``folder`` unless a finished set of the same size is there; return the folder."""
    marker = folder / f".{num_speakers}x{utterances_per_speaker}-seed{seed}"
    if not marker.is_file():
        write_synthetic_corpus(
            folder, num_speakers=num_speakers, utterances_per_speaker=utterances_per_speaker, seconds=(2.0, 3.0), seed=seed
        )
        write_text(marker, "complete\n")
    return folder


def split_corpus(voices: Path, output: Path, *, seed: int) -> DemoCorpus:
    """Split recordings by speaker, so that no speaker of one part is in another; write manifest and trial lists to ``output``.

    Speakers with a single recording are left out; of very large folders a seeded part is taken, so that the demonstration ends.

    Raises:
        DataError: fewer than 12 speakers with two recordings.
    """
    corpus = scan_speaker_folders(voices)
    usable = _usable_speakers(corpus, voices)
    if len(usable) < _FEWEST_SPEAKERS:
        raise DataError(
            f"{voices} has {len(usable)} speakers with two or more recordings; expected at least {_FEWEST_SPEAKERS}, "
            "one subfolder for each"
        )
    generator = np.random.default_rng(seed)
    chosen = [list(usable)[index] for index in generator.permutation(len(usable))[:_MOST_SPEAKERS]]
    bounds = np.rint(np.cumsum((0.0, *_SHARES)) * len(chosen)).astype(int)
    rows: list[tuple[str, str, str]] = []
    trials: dict[str, Path] = {}
    counts: dict[str, tuple[int, int]] = {}
    for part, start, end in zip(PARTS, bounds[:-1], bounds[1:], strict=True):
        by_speaker = {speaker: usable[speaker] for speaker in sorted(chosen[start:end])}
        rows += [(name, speaker, part) for speaker, names in by_speaker.items() for name in names]
        counts[part] = len(by_speaker), sum(map(len, by_speaker.values()))
        if part != "train":
            trials[part] = output / f"{part}-trials.txt"
            write_trials(make_trials(by_speaker, max_targets=4000, max_nontargets=20_000, seed=seed), trials[part])
    manifest = output / "manifest.csv"
    write_text(manifest, _as_csv(rows))
    return DemoCorpus(voices, manifest, trials, {name: speaker for name, speaker, _ in rows}, counts)


def _usable_speakers(corpus: Corpus, root: Path) -> dict[str, list[str]]:
    recordings = defaultdict(list)
    for utterance in corpus.utterances:
        recordings[utterance.speaker].append(utterance.path.relative_to(root).as_posix())
    return {speaker: names[:_MOST_UTTERANCES_PER_SPEAKER] for speaker, names in recordings.items() if len(names) > 1}


def _as_csv(rows: list[tuple[str, str, str]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(("path", "speaker", "part"))
    writer.writerows(rows)
    return stream.getvalue()
