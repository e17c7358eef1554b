"""From the configuration to the things that a run is made of: device, order of the utterances, encoder, losses, validation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mrl.backbone import scratch_backbone
from mrl.data import Corpus, CorpusSampler, ShardSampler, SpeakerBalancedSampler, UtteranceSampler
from mrl.data.samplers import Sampler
from mrl.errors import ConfigError
from mrl.matryoshka import MatryoshkaLoss, NoClassLoss, ReDimNetMRL, SimilarityPreservationLoss, create_mrl_from_pretrained
from mrl.matryoshka.objectives import make_objective
from mrl.processes import ProcessPlace
from mrl.training.config import TrainConfig
from mrl.training.distillation import ClassPosteriorLoss, TeacherSpace
from mrl.training.feeds import set_spec_augment
from mrl.training.system import TrainingSystem
from mrl.training.validation import Validator, read_validation


def choose_device(name: str, place: ProcessPlace = ProcessPlace()) -> torch.device:  # noqa: B008 - frozen
    """Return the device that ``training.device`` names; ``auto`` and ``cuda`` take the GPU of this process.

    Raises:
        ConfigError: there is no such device, fewer GPUs than processes on this machine, or one GPU for several processes.
        ProcessError: nothing says which GPU belongs to this process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda:") and place.world_size > 1:
        raise ConfigError(f"training.device: {name} would be shared by {place.world_size} processes; use cuda: one GPU for each")
    if name == "cuda" and torch.cuda.is_available() and place.gpu_number >= torch.cuda.device_count():
        raise ConfigError(
            f"{place} is number {place.gpu_number} on its machine, which has {torch.cuda.device_count()} GPUs; "
            "start one process per GPU (torchrun --nproc-per-node)"
        )
    try:
        device = torch.device("cuda", place.gpu_number) if name == "cuda" else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"training.device: {name!r} cannot be used here ({str(error).splitlines()[0]}); use auto or cpu"
        ) from error
    return device


def build_sampler(config: TrainConfig, corpus: Corpus) -> Sampler:
    """Return what says which utterances are drawn in which order."""
    seed = config.training.seed
    if config.data.balance == "utterances":
        return UtteranceSampler(corpus, seed=seed)
    if config.data.balance == "corpora":
        return CorpusSampler(corpus, config.data.corpus_shares, seed=seed)
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
        # Names that were not given say nothing about the file of weights, or about which training of another network is meant.
        given = advanced.model_fields_set
        return create_mrl_from_pretrained(
            model_name=advanced.model_name if "model_name" in given else None,
            train_type=advanced.train_type if "train_type" in given else None,
            dataset=advanced.pretrained_dataset if "pretrained_dataset" in given else None,
            embed_dim=model.embed_dim,
            mrl_dims=model.dims,
            freeze_backbone=config.stage_1_epochs > 0,
            weights=advanced.weights,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        backbone = scratch_backbone(advanced.model_name)
        encoder = ReDimNetMRL(backbone, model.embed_dim, model.dims)  # a random head: there is no pretrained one to rotate
    return encoder


def build_system(
    config: TrainConfig, encoder: ReDimNetMRL, num_classes: int, *, teacher_dim: int | None = None
) -> TrainingSystem:
    """Return encoder and losses as one module, class matrices still random (seeded).

    ``teacher_dim`` is the length of the embedding of ``distillation.teacher``, where there is one.
    """
    loss, distillation = config.loss, config.distillation
    by_dim = _per_mrl_dim(config.model.mrl_weights, config)
    set_spec_augment(config.data.augmentation.spec_augment, encoder)
    similarity_weight = loss.similarity_weight if teacher_dim is None else distillation.similarity_weight
    posteriors = None
    if teacher_dim is not None and distillation.class_weight:
        posteriors = ClassPosteriorLoss(
            list(encoder.mrl_dims), num_classes, teacher_dim, scale=distillation.class_scale, dim_weights=by_dim
        )
    return TrainingSystem(
        encoder,
        _build_loss(config, encoder, num_classes),
        similarity=SimilarityPreservationLoss(encoder.mrl_dims, by_dim) if similarity_weight else None,
        similarity_weight=similarity_weight,
        teacher_pull=config.advanced.teacher_pull if teacher_dim is None else distillation.embedding_weight,
        space=None if teacher_dim is None else TeacherSpace(teacher_dim),
        posteriors=posteriors,
        posterior_weight=distillation.class_weight,
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
            make_objective(loss.type, loss.model_dump()),
            margin=loss.margin,
            dim_weights=_per_mrl_dim(config.model.mrl_weights, config),
            margins=_per_mrl_dim(loss.mrl_margins, config),
            dim_dropout=loss.dim_dropout,
            sampled_classes=loss.sampled_classes,
            seed=config.training.seed,
            shared_classes=loss.shared_classes,
            speakers_per_batch=min(num_classes, config.training.batch_size // config.data.crops_per_speaker),
            crops_per_speaker=config.data.crops_per_speaker,
        )


def _per_mrl_dim(values: Sequence[float] | None, config: TrainConfig) -> dict[int, float] | None:
    dims = config.model.mrl_dims
    return None if values is None or dims is None else dict(zip(dims, values, strict=True))


def build_validator(config: TrainConfig) -> Validator | None:
    """Return the validation, or None if no trials are configured.

    Raises:
        DataError: list or recordings are missing or unusable.
    """
    validation = read_validation(config.data.validation)
    if validation is None:
        return None
    trials, root = validation
    return Validator(
        trials,
        root,
        config.model.dims,
        max_seconds=config.data.validation.max_seconds,
        num_workers=config.training.num_workers,
    )
