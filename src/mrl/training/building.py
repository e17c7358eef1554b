"""From the configuration to the things that a run is made of: corpus, augmentation, encoder, losses, validation."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from mrl.audio import Augmenter, RoomSimulation, find_audio_files
from mrl.backbone import ReDimNet, SpecAugment, scratch_config
from mrl.data import (
    Corpus,
    ShardSampler,
    SpeakerBalancedSampler,
    UtteranceSampler,
    read_manifest,
    read_shards,
    scan_recordings,
    scan_speaker_folders,
)
from mrl.data.overlap import overlapping_speakers
from mrl.data.samplers import Sampler
from mrl.errors import ConfigError, DataError, InputError, TrainingError
from mrl.matryoshka import MatryoshkaLoss, NoClassLoss, ReDimNetMRL, SimilarityPreservationLoss, create_mrl_from_pretrained
from mrl.training.config import AugmentationConfig, SpecAugmentConfig, TrainConfig, TrainDataConfig
from mrl.training.system import TrainingSystem
from mrl.training.validation import Validator, read_validation

_LOG = logging.getLogger(__name__)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device that ``training.device`` names; ``auto`` and ``cuda`` take the GPU of this process.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"training.device: {name!r} cannot be used here ({str(error).splitlines()[0]}); use auto or cpu"
        ) from error
    return device


def read_corpus(config: TrainDataConfig) -> Corpus:
    """Return the training corpus, every file of which is there.

    Raises:
        ConfigError: neither folder nor manifest nor shards are set.
        DataError: it cannot be read, files are missing, or it has fewer than two speakers (utterances, if they are unlabelled).
    """
    if config.manifest is not None:
        corpus = read_manifest(config.manifest, root=config.root, where=config.where, unlabelled=config.unlabelled)
    elif config.folder is not None:
        corpus = scan_recordings(config.folder) if config.unlabelled else scan_speaker_folders(config.folder)
    elif config.shards is not None:
        corpus = read_shards(config.shards)
        corpus = corpus.without_speakers() if config.unlabelled else corpus
    else:
        raise ConfigError(
            "no training data: set data.train.folder (one subfolder per speaker) or data.train.manifest or data.train.shards"
        )
    corpus.check_files()
    if config.unlabelled:
        if len(corpus) < 2:
            raise DataError(f"training without labels compares utterances; found only {corpus.utterances[0].path}")
    elif len(corpus.speakers) < 2:
        raise DataError(f"training needs at least two speakers; found only {corpus.speakers[0]!r}")
    return corpus


def build_augmenter(config: AugmentationConfig, corpus: Corpus) -> Augmenter | None:
    """Return the augmentation of crops, or None if there is none.

    Raises:
        DataError: a folder is missing, or has no recordings once the excluded ones are left out.
        ConfigError: a setting has an unusable value.
        MissingDependencyError: rooms or codecs are asked for that this installation lacks.
    """
    noise = _recordings(config.noise_folders, config.exclude, "data.augmentation.noise_folders")
    rooms = _recordings(config.rir_folders, config.exclude, "data.augmentation.rir_folders")
    rooms_config, kilobits = config.simulated_rooms, config.codec_kilobits
    voices = {one.path: one.source for one in corpus.utterances} if config.babble_probability else {}
    try:
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
            simulated_room_probability=rooms_config.probability,
            simulated_rooms=RoomSimulation(
                count=rooms_config.count,
                rt60_seconds=rooms_config.rt60_seconds,
                floor_metres=rooms_config.floor_metres,
                height_metres=rooms_config.height_metres,
                distance_metres=rooms_config.distance_metres,
                seed=rooms_config.seed,
            ),
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


def _recordings(folders: Sequence[str], exclude: Sequence[str], key: str) -> tuple[Path, ...]:
    files = sorted({path for folder in folders for path in find_audio_files(folder)})
    kept = tuple(path for path in files if not any(fnmatch.fnmatch(path.name, pattern) for pattern in exclude))
    if folders and not kept:
        raise DataError(f"{key}: no recordings in {', '.join(folders)} ({len(files)} before data.augmentation.exclude)")
    return kept


def build_sampler(config: TrainConfig, corpus: Corpus) -> Sampler:
    """Return what says which utterances are drawn in which order."""
    seed = config.training.seed
    if config.data.balance == "utterances":
        return UtteranceSampler(corpus, seed=seed)
    if config.data.balance == "shards":
        return ShardSampler(corpus, seed=seed, shuffle_buffer=config.data.shuffle_buffer)
    return SpeakerBalancedSampler(
        corpus,
        seed=seed,
        draws_per_speaker=config.data.draws_per_speaker,
        crops_per_speaker=config.data.crops_per_speaker,
        session_aware=config.data.session_aware,
    )


def build_encoder(config: TrainConfig) -> ReDimNetMRL:
    """Return the Matryoshka model that training starts from: pretrained with a data-free head, or random weights (seeded).

    Raises:
        InputError, DownloadError, CheckpointError, ConfigError: there is no such checkpoint or it cannot be used.
    """
    model, advanced = config.model, config.advanced
    if advanced.use_pretrained:
        return create_mrl_from_pretrained(
            model_name=advanced.model_name,
            train_type=advanced.train_type,
            dataset=advanced.pretrained_dataset,
            embed_dim=model.embed_dim,
            mrl_dims=model.dims,
            freeze_backbone=config.stage_1_epochs > 0,
            weights=advanced.weights,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        backbone = ReDimNet(scratch_config(advanced.model_name))
        encoder = ReDimNetMRL(backbone, model.embed_dim, model.dims)  # a random head: there is no pretrained one to rotate
    return encoder


def build_system(config: TrainConfig, encoder: ReDimNetMRL, num_classes: int) -> TrainingSystem:
    """Return encoder and losses as one module, class matrices still random (seeded)."""
    loss = config.loss
    by_dim = _per_mrl_dim(config.model.mrl_weights, config)
    set_spec_augment(config.data.augmentation.spec_augment, encoder)
    return TrainingSystem(
        encoder,
        _build_loss(config, encoder, num_classes),
        similarity=SimilarityPreservationLoss(encoder.mrl_dims, by_dim) if loss.similarity_weight else None,
        similarity_weight=loss.similarity_weight,
        teacher_pull=config.advanced.teacher_pull,
    )


def _build_loss(config: TrainConfig, encoder: ReDimNetMRL, num_classes: int) -> MatryoshkaLoss | NoClassLoss:
    loss = config.loss
    if loss.type == "none":
        return NoClassLoss()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return MatryoshkaLoss(
            encoder.mrl_dims,
            num_classes,
            loss_type=loss.type,
            margin=loss.margin,
            scale=loss.scale,
            num_subcenters=loss.num_subcenters,
            topk_penalty=loss.topk_penalty,
            topk=loss.topk,
            sphereface2_lambda=loss.sphereface2_lambda,
            sphereface2_t=loss.sphereface2_t,
            sphereface2_margin_type=loss.sphereface2_margin_type,
            dim_weights=_per_mrl_dim(config.model.mrl_weights, config),
            margins=_per_mrl_dim(loss.mrl_margins, config),
            dim_dropout=loss.dim_dropout,
            seed=config.training.seed,
            shared_classes=loss.shared_classes,
            speakers_per_batch=min(num_classes, config.training.batch_size // config.data.crops_per_speaker),
            crops_per_speaker=config.data.crops_per_speaker,
        )


def _per_mrl_dim(values: Sequence[float] | None, config: TrainConfig) -> dict[int, float] | None:
    dims = config.model.mrl_dims
    return None if values is None or dims is None else dict(zip(dims, values, strict=True))


def set_spec_augment(config: SpecAugmentConfig, encoder: ReDimNetMRL) -> None:
    """Let the front end mask its features while the backbone trains, or no longer; the teacher is another network without."""
    masks = SpecAugment(
        frequency_masks=config.frequency_masks,
        frequency_width=config.frequency_width,
        time_masks=config.time_masks,
        time_width=config.time_width,
    )
    encoder.backbone.front_end.spec_augment = masks if config.frequency_masks or config.time_masks else None
    encoder.train(encoder.training)  # a new part begins in training mode, even in a frozen backbone


def build_validator(config: TrainConfig) -> Validator | None:
    """Return the validation, or None if no trials are configured.

    Raises:
        DataError: list or recordings are missing or unusable.
    """
    found = read_validation(config.data.validation)
    if found is None:
        return None
    trials, root = found
    return Validator(
        trials,
        root,
        config.model.dims,
        max_seconds=config.data.validation.max_seconds,
        num_workers=config.training.num_workers,
    )


def weights_hash(module: torch.nn.Module) -> str:
    """Return a SHA-256 over the names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The utterances of a run.

    Attributes:
        original: as configured.
        corpus: with the speed copies as further speakers; classes are numbered by this one.
        augmenter: of crops, if any.
    """

    original: Corpus
    corpus: Corpus
    augmenter: Augmenter | None


def read_training_data(config: TrainConfig) -> TrainingData:
    """Read the corpus and its augmentation.

    Raises:
        ConfigError, DataError, InputError: see :func:`read_corpus` and :func:`build_augmenter`.
    """
    original = read_corpus(config.data.train)
    return TrainingData(
        original,
        original.with_speed_copies(config.data.speeds),
        build_augmenter(config.data.augmentation, original),
    )


def check_separate(data: TrainingData, validator: Validator | None, *, allow_overlap: bool = False) -> None:
    """Refuse to train on recordings or speakers that validation uses; warn of speakers who only have the same name.

    Args:
        data: what is trained on.
        validator: the validation, if any.
        allow_overlap: warn only (``data.allow_overlap``).

    Raises:
        TrainingError: some stand in both.
    """
    if validator is None:
        return
    training = {one.path.resolve() for one in data.original.utterances}
    both = sorted(path for path in validator.paths if path.resolve() in training)
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


def _refuse_overlap(message: str, allowed: bool) -> None:
    if not allowed:
        raise TrainingError(f"{message}; or set data.allow_overlap to true, and do not report the validation's error rates")
    _LOG.warning("%s; allowed by data.allow_overlap: do not report the validation's error rates", message)
