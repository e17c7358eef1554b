"""From the configuration to the training data: corpus, augmentation, and a check that validation is on other people."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from mrl.audio import Augmenter, RoomSimulation, find_audio_files
from mrl.audio.simulated_rooms import check_rooms
from mrl.bounded import read_text, said
from mrl.data import Corpus, read_manifest, read_shards, scan_recordings, scan_speaker_folders
from mrl.data.overlap import overlapping_speakers
from mrl.errors import ConfigError, DataError, InputError, TrainingError
from mrl.training.config import AugmentationConfig, SimulatedRoomsConfig, TrainConfig, TrainDataConfig
from mrl.training.validation import Validator

_LOG = logging.getLogger(__name__)


def read_corpus(config: TrainDataConfig) -> Corpus:
    """Return the training corpus, every file of which is there.

    Raises:
        ConfigError: neither folder nor manifest nor shards are set.
        DataError: it cannot be read, files are missing, or it has fewer than two speakers (utterances, if they are unlabelled).
    """
    if config.manifest is not None:
        parts = [
            read_manifest(manifest, root=config.root, where=config.where, unlabelled=config.unlabelled)
            for manifest in config.manifests
        ]
        corpus = parts[0] if len(parts) == 1 else Corpus.of(utterance for part in parts for utterance in part.utterances)
    elif config.folder is not None:
        corpus = scan_recordings(config.folder) if config.unlabelled else scan_speaker_folders(config.folder)
    elif config.shards is not None:
        corpus = read_shards(config.shards)
        corpus = corpus.without_speakers() if config.unlabelled else corpus
    else:
        raise ConfigError(
            "no training data: set data.train.folder (one subfolder per speaker) or data.train.manifest or data.train.shards"
        )
    corpus.check_files(excluded_utterances(config, corpus))
    if config.unlabelled:
        if len(corpus) < 2:
            raise DataError(f"training without labels compares utterances; found only {corpus.utterances[0].path}")
    elif len(corpus.speakers) < 2:
        raise DataError(f"training needs at least two speakers; found only {corpus.speakers[0]!r}")
    return corpus


def excluded_utterances(config: TrainDataConfig, corpus: Corpus) -> frozenset[int]:
    """Return the positions of the utterances that ``data.train.exclude`` names.

    A line holds a path, absolute or from the folder that the corpus starts from; whatever follows a tab is ignored, and so are
    empty lines and those that begin with ``#``.

    Raises:
        DataError: the list cannot be read, or names every utterance.
    """
    if config.exclude is None:
        return frozenset()
    try:
        lines = read_text(config.exclude).splitlines()
    except (OSError, DataError) as error:
        raise DataError(f"data.train.exclude: {config.exclude} cannot be read ({said(error)})") from error
    root = config.root or config.folder or config.shards
    bases = [Path(root)] if root is not None else [Path(manifest).parent for manifest in config.manifests]
    named = {line.partition("\t")[0].strip() for line in lines if line.strip() and not line.startswith("#")}
    wanted = {os.path.normpath(base / name) for base in bases for name in named}
    excluded = frozenset(index for index, utterance in enumerate(corpus.utterances) if os.path.normpath(utterance.path) in wanted)
    if len(excluded) == len(corpus):
        raise DataError(f"data.train.exclude: {config.exclude} leaves no utterance of {len(corpus)}")
    _LOG.info("%d utterances are excluded by %s (%d lines)", len(excluded), config.exclude, len(named))
    return excluded


def build_augmenter(config: AugmentationConfig, corpus: Corpus, *, simulate: bool = True) -> Augmenter | None:
    """Return the augmentation of crops, or None if there is none.

    Args:
        config: its settings.
        corpus: the training utterances, for babble.
        simulate: False checks that rooms could be simulated, and leaves them out.

    Raises:
        DataError: a folder is missing, or has no recordings once the excluded ones are left out.
        ConfigError: a setting has an unusable value.
        MissingDependencyError: rooms or codecs are asked for that this installation lacks.
    """
    noise = _recordings(config.noise_folders, config.exclude, "data.augmentation.noise_folders")
    rooms = _recordings(config.rir_folders, config.exclude, "data.augmentation.rir_folders")
    kilobits = config.codec_kilobits
    voices = {utterance.path: utterance.source for utterance in corpus.utterances} if config.babble_probability else {}
    try:
        pool = _room_simulation(config.simulated_rooms)
        if config.simulated_rooms.probability and not simulate:
            check_rooms(pool)
        augmenter = Augmenter(
            noise_files=noise,
            noise_probability=config.noise_probability if noise else 0.0,
            noise_snr_db=config.noise_snr_db,
            babble_files=tuple(source for _, source in sorted(voices.items())),
            babble_probability=config.babble_probability,
            babble_voices=config.babble_voices,
            babble_snr_db=config.babble_snr_db,
            room_files=rooms,
            room_probability=config.rir_probability if rooms else 0.0,
            simulated_room_probability=config.simulated_rooms.probability if simulate else 0.0,
            simulated_rooms=pool,
            speed_probability=config.speed_probability,
            speed_factors=tuple(config.speed_factors),
            gain_probability=config.gain_probability,
            gain_db=config.gain_db,
            clipping_probability=config.clipping_probability,
            clipping_level=config.clipping_level,
            band_probability=config.band_probability,
            bands=tuple(config.bands),
            codec_probability=config.codec_probability,
            codecs=tuple(config.codecs),
            codec_kilobits={"opus": kilobits.opus, "aac": kilobits.aac, "mp3": kilobits.mp3},
        )
    except InputError as error:
        raise ConfigError(f"data.augmentation: {error}") from error
    return augmenter if augmenter.active_kinds else None


def _room_simulation(config: SimulatedRoomsConfig) -> RoomSimulation:
    return RoomSimulation(
        count=config.count,
        rt60_seconds=config.rt60_seconds,
        floor_metres=config.floor_metres,
        height_metres=config.height_metres,
        distance_metres=config.distance_metres,
        seed=config.seed,
    )


def _recordings(folders: Sequence[str], exclude: Sequence[str], key: str) -> tuple[Path, ...]:
    files = sorted({path for folder in folders for path in find_audio_files(folder)})
    kept = tuple(path for path in files if not any(fnmatch.fnmatch(path.name, pattern) for pattern in exclude))
    if folders and not kept:
        raise DataError(f"{key}: no recordings in {', '.join(folders)} ({len(files)} before data.augmentation.exclude)")
    return kept


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The utterances of a run.

    Attributes:
        original: as configured.
        corpus: with the speed copies as further speakers; classes are numbered by this one.
        augmenter: of crops, if any.
        excluded: positions in ``corpus`` that are never drawn.
    """

    original: Corpus
    corpus: Corpus
    augmenter: Augmenter | None
    excluded: frozenset[int] = frozenset()


def read_training_data(config: TrainConfig, *, simulate_rooms: bool = True) -> TrainingData:
    """Read the corpus and its augmentation.

    Args:
        config: all settings.
        simulate_rooms: False only checks the settings of simulated rooms, for a dry run.

    Raises:
        ConfigError, DataError, InputError: see :func:`read_corpus` and :func:`build_augmenter`.
    """
    original = read_corpus(config.data.train)
    corpus = original.with_speed_copies(config.data.speeds)
    return TrainingData(
        original,
        corpus,
        build_augmenter(config.data.augmentation, original, simulate=simulate_rooms),
        excluded_utterances(config.data.train, corpus),
    )


def check_separate(data: TrainingData, validator: Validator | None, *, allow_overlap: bool = False) -> None:
    """Refuse to train on recordings or speakers that validation uses; warn of speakers who only have the same name.

    Args:
        data: what is trained on.
        validator: the validation, if any.
        allow_overlap: warn only (``data.allow_overlap``).

    Raises:
        TrainingError: some are in both.
    """
    if validator is None:
        return
    both = _also_in_training(validator.paths, data.original)
    if both:
        _refuse_overlap(
            f"{len(both)} validation recordings are also in the training data, the first is {both[0]}; "
            "validation must be on other speakers: filter data.train.where or choose other trials",
            allow_overlap,
        )
    overlap = overlapping_speakers(data.original, [path.absolute() for path in validator.paths])
    if overlap.certain:
        _refuse_overlap(overlap.describe(overlap.certain), allow_overlap)
    if overlap.by_name:
        _LOG.warning(
            "%s, by the names of their folders: if these are the same people, the validation's error rates are too good",
            overlap.describe(overlap.by_name),
        )


def _also_in_training(paths: Sequence[Path], corpus: Corpus) -> list[Path]:
    """Return the recordings that the corpus has too, under whatever name: the same file by its number on the disk."""
    ours: dict[tuple[int, int], Path] = {}
    for path in paths:
        with contextlib.suppress(OSError):  # a missing one is for the reader to report
            status = path.stat()
            ours[status.st_dev, status.st_ino] = path
    shared = set()
    for file in set(corpus.files()):
        with contextlib.suppress(OSError):  # a missing one that is excluded
            status = os.stat(file)  # noqa: PTH116 - a million of them
            if (status.st_dev, status.st_ino) in ours:
                shared.add(ours[status.st_dev, status.st_ino])
    return sorted(shared)


def _refuse_overlap(message: str, allowed: bool) -> None:
    if not allowed:
        raise TrainingError(f"{message}; or set data.allow_overlap to true, and do not report the validation's error rates")
    _LOG.warning("%s; allowed by data.allow_overlap: do not report the validation's error rates", message)
