"""From the configuration to the things that a run is made of: corpus, augmentation, encoder, losses, validation."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from mrl.audio import Augmenter, find_audio_files
from mrl.backbone import ReDimNet, scratch_config
from mrl.data import Corpus, read_manifest, scan_speaker_folders
from mrl.errors import ConfigError, DataError, TrainingError
from mrl.matryoshka import MatryoshkaLoss, ReDimNetMRL, SimilarityPreservationLoss, create_mrl_from_pretrained
from mrl.training.config import AugmentationConfig, TrainConfig, TrainDataConfig
from mrl.training.system import TrainingSystem
from mrl.training.validation import Validator, read_validation


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
        ConfigError: neither folder nor manifest is set.
        DataError: it cannot be read, files are missing, or it has fewer than two speakers.
    """
    if config.manifest is not None:
        corpus = read_manifest(config.manifest, root=config.root, where=config.where)
    elif config.folder is not None:
        corpus = scan_speaker_folders(config.folder)
    else:
        raise ConfigError("no training data: set data.train.folder (one subfolder per speaker) or data.train.manifest")
    corpus.check_files()
    if len(corpus.speakers) < 2:
        raise DataError(f"training needs at least two speakers; found only {corpus.speakers[0]!r}")
    return corpus


def build_augmenter(config: AugmentationConfig, corpus: Corpus) -> Augmenter | None:
    """Return the augmentation of crops, or None if there is none.

    Raises:
        DataError: a folder is missing, or has no recordings once the excluded ones are left out.
    """
    noise = _recordings(config.noise_folders, config.exclude, "data.augmentation.noise_folders")
    rooms = _recordings(config.rir_folders, config.exclude, "data.augmentation.rir_folders")
    voices = tuple(sorted({one.path for one in corpus.utterances})) if config.babble_probability else ()
    augmenter = Augmenter(
        noise_files=noise,
        noise_probability=config.noise_probability if noise else 0.0,
        noise_snr_db=config.noise_snr_db,
        babble_files=voices,
        babble_probability=config.babble_probability,
        babble_snr_db=config.babble_snr_db,
        room_files=rooms,
        room_probability=config.rir_probability if rooms else 0.0,
    )
    active = augmenter.noise_probability or augmenter.room_probability or augmenter.babble_probability
    return augmenter if active else None


def _recordings(folders: Sequence[str], exclude: Sequence[str], key: str) -> tuple[Path, ...]:
    files = sorted({path for folder in folders for path in find_audio_files(folder)})
    kept = tuple(path for path in files if not any(fnmatch.fnmatch(path.name, pattern) for pattern in exclude))
    if folders and not kept:
        raise DataError(f"{key}: no recordings in {', '.join(folders)} ({len(files)} before data.augmentation.exclude)")
    return kept


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
    dims, weights = config.model.mrl_dims, config.model.mrl_weights
    by_dim = None if weights is None or dims is None else dict(zip(dims, weights, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        classes = MatryoshkaLoss(
            encoder.mrl_dims,
            num_classes,
            loss_type=loss.type,
            margin=loss.margin,
            scale=loss.scale,
            num_subcenters=loss.num_subcenters,
            dim_weights=by_dim,
            shared_classes=loss.shared_classes,
        )
    return TrainingSystem(
        encoder,
        classes,
        similarity=SimilarityPreservationLoss(encoder.mrl_dims, by_dim) if loss.similarity_weight else None,
        similarity_weight=loss.similarity_weight,
        teacher_pull=config.advanced.teacher_pull,
    )


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


def check_separate(data: TrainingData, validator: Validator | None) -> None:
    """Refuse to train on recordings that validation uses.

    Raises:
        TrainingError: some stand in both.
    """
    if validator is None:
        return
    training = {one.path.resolve() for one in data.original.utterances}
    both = sorted(path for path in validator.paths if path.resolve() in training)
    if both:
        raise TrainingError(
            f"{len(both)} validation recordings are also in the training data, the first is {both[0]}; "
            "validation must be on other speakers: filter data.train.where or choose other trials"
        )
