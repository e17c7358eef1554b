"""Every setting of a training run, typed, with its one default. Each key is read somewhere; an unknown key is an error.

See :func:`mrl.training.load_config` for how files, overlays and overrides become one of these.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from mrl.dims import default_dims
from mrl.matryoshka.objectives import AAM_LOSSES, OBJECTIVES, PAIR_LOSSES
from mrl.training.config_augmentation import AugmentationConfig as AugmentationConfig
from mrl.training.config_augmentation import Section
from mrl.training.config_augmentation import SimulatedRoomsConfig as SimulatedRoomsConfig
from mrl.training.config_augmentation import SpecAugmentConfig as SpecAugmentConfig

Scalar = str | int | float | bool


class TrainDataConfig(Section):
    """Where the training utterances are: a folder with one subfolder per speaker, a manifest, or shards."""

    folder: str | None = Field(default=None, description="Folder with one subfolder per speaker; recordings at any depth below.")
    manifest: str | list[str] | None = Field(
        default=None, description="CSV, TSV, JSONL or Parquet with the columns path and speaker, or a list of such files."
    )
    shards: str | None = Field(default=None, description="Folder of tar shards that mrl data shard wrote.")
    root: str | None = Field(
        default=None, description="Folder that the manifest's relative paths start from; default: the manifest's own."
    )
    where: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="Keep only manifest rows whose column has this value, or one of these values."
    )
    exclude: str | None = Field(
        default=None,
        description="Text file with one recording per line that is never drawn, such as a run's bad-utterances.txt; may change "
        "on resume, because all other draws stay as they are.",
    )
    unlabelled: bool = Field(
        default=False,
        description="The speakers are not known: recordings at any depth of the folder, a manifest without the column speaker.",
    )

    @property
    def manifests(self) -> list[str]:
        """The manifests, none for a folder or shards."""
        return [self.manifest] if isinstance(self.manifest, str) else list(self.manifest or ())

    @model_validator(mode="after")
    def _one_source(self) -> TrainDataConfig:
        if self.manifest == []:
            raise ValueError("manifest is an empty list; give one file or several")
        given = [name for name in ("folder", "manifest", "shards") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(given)}, not {'both' if len(given) == 2 else 'all'}")
        if given != ["manifest"] and given and (self.root or self.where):
            raise ValueError(f"root and where belong to a manifest; {'shards are' if self.shards else 'a folder is'} taken whole")
        return self


class ValidationConfig(Section):
    """The trials that choose the best checkpoint. Report on other trials than these."""

    trials: str | None = Field(default=None, description="Trial list, one 'label path1 path2' per line; may be gzipped.")
    root: str | None = Field(default=None, description="Folder that the list's paths start from; default: the list's own folder.")
    folder: str | None = Field(
        default=None, description="Instead of a list: a folder with one subfolder per speaker; all pairs in it are trials."
    )
    max_seconds: float = Field(default=20.0, gt=0, description="Only the first seconds of longer recordings are used.")

    @model_validator(mode="after")
    def _one_source(self) -> ValidationConfig:
        if self.trials and self.folder:
            raise ValueError("give trials or folder, not both")
        if self.root and not self.trials:
            raise ValueError("root belongs to trials")
        return self


class DataConfig(Section):
    """Which recordings are trained and validated on, and how they are cut."""

    train: TrainDataConfig = Field(default=TrainDataConfig(), description="The training utterances.")
    validation: ValidationConfig = Field(default=ValidationConfig(), description="The validation trials.")
    allow_overlap: bool = Field(
        default=False, description="Train even if speakers or recordings of the validation trials are in the training data."
    )
    max_bad_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="A run stops when more than this share of an epoch's draws, or of the utterances in the cache, cannot be "
        "read; up to it, other utterances of the same speakers take their places.",
    )
    crop_seconds: float = Field(default=3.0, gt=0, description="Length of the training crops, seconds.")
    finetune_crop_seconds: float | None = Field(default=None, gt=0, description="The same in stage 2; default: crop_seconds.")
    speeds: list[float] = Field(
        default_factory=list, description="Copies of every speaker at these speeds, as further speakers: [0.9, 1.1]."
    )
    balance: Literal["speakers", "utterances", "corpora", "shards"] = Field(
        default="speakers",
        description="speakers: each equally often; utterances: each once per epoch; corpora: each corpus of a manifest by its "
        "share, its utterances in turn; shards: as utterances, reading shard after shard.",
    )
    corpus_shares: dict[str, float] = Field(
        default_factory=dict, description="With balance: corpora, how often a corpus is drawn beside the others; default: 1 each."
    )
    shuffle_buffer: int = Field(
        default=4096, ge=1, description="With balance: shards, no utterance moves this many places from its place on disk."
    )
    draws_per_speaker: int | None = Field(
        default=None,
        ge=1,
        description="Crops per speaker and epoch with balance: speakers; default: the mean number of utterances.",
    )
    crops_per_speaker: int = Field(
        default=1, ge=1, description="Number of crops of each speaker in a batch, for losses that compare pairs."
    )
    session_aware: bool = Field(default=True, description="These come from different sessions where the speaker has several.")
    augmentation: AugmentationConfig = Field(default=AugmentationConfig(), description="Noise, rooms and much else.")

    @model_validator(mode="after")
    def _draws_fit(self) -> DataConfig:
        if self.corpus_shares and self.balance != "corpora":
            raise ValueError(f"corpus_shares belong to balance: corpora (found {self.balance})")
        if self.balance == "shards" and not self.train.shards:
            raise ValueError("balance: shards needs train.shards (write them with mrl data shard)")
        if self.crops_per_speaker > 1 and self.balance != "speakers":
            raise ValueError(f"crops_per_speaker above 1 needs balance: speakers (found {self.balance})")
        if (self.draws_per_speaker or 0) % self.crops_per_speaker:
            raise ValueError(
                f"draws_per_speaker must be a multiple of crops_per_speaker (found {self.draws_per_speaker} "
                f"and {self.crops_per_speaker})"
            )
        return self

    @model_validator(mode="after")
    def _speeds_together(self) -> DataConfig:
        factors = self.augmentation.speed_factors if self.augmentation.speed_probability else []
        for speed, factor in itertools.product(self.speeds, factors):
            if not 0.5 <= speed * factor <= 2.0:
                raise ValueError(
                    f"speeds has {speed:g} and augmentation.speed_factors {factor:g}, together outside 0.5 to 2; "
                    "take one of them nearer to 1"
                )
        return self


class ModelConfig(Section):
    """The Matryoshka head."""

    embed_dim: int = Field(default=256, ge=1, description="Length of the full embedding.")
    mrl_dims: list[int] | None = Field(
        default=None,
        description="Prefix lengths that are trained and validated, with the full one; default: 16 32 64 128 192 256.",
    )
    mrl_weights: list[float] | None = Field(default=None, description="Weight of each of mrl_dims in the loss; default: equal.")

    @property
    def dims(self) -> tuple[int, ...]:
        """The prefix lengths, ascending, the full one among them."""
        return default_dims(self.embed_dim) if self.mrl_dims is None else tuple(sorted({*self.mrl_dims, self.embed_dim}))

    @model_validator(mode="after")
    def _dims_fit(self) -> ModelConfig:
        dims = self.mrl_dims
        if dims is not None and (not dims or len(set(dims)) != len(dims) or min(dims) < 1 or max(dims) > self.embed_dim):
            raise ValueError(f"mrl_dims must be distinct and lie in 1..embed_dim={self.embed_dim} (found {dims})")
        if self.mrl_weights is not None:
            if dims is None or len(self.mrl_weights) != len(dims) or self.embed_dim not in dims:
                raise ValueError(
                    f"mrl_weights needs mrl_dims with embed_dim={self.embed_dim} among them, and one weight for each"
                )
            if min(self.mrl_weights) < 0 or sum(self.mrl_weights) <= 0:
                raise ValueError("mrl_weights must be 0 or more, and not all 0")
        return self


def _known_loss(name: str) -> str:
    if name not in OBJECTIVES and name != "none":
        raise ValueError(f"expected {', '.join(map(repr, OBJECTIVES))} or 'none' (found {name!r})")
    return name


class LossConfig(Section):
    """What is minimised."""

    type: Annotated[str, AfterValidator(_known_loss)] = Field(
        default="aam",
        description="aam, subcenter_aam, sphereface2, mv_softmax: a vector for each speaker; angular_prototypical, "
        "supervised_contrastive: crops compared with each other (data.crops_per_speaker of 2 or more); none: similarity_weight "
        "alone, no labels.",
    )
    margin: float = Field(default=0.2, ge=0, lt=1.5, description="Angular margin, radians.")
    mrl_margins: list[float] | None = Field(
        default=None, description="Margin of each of model.mrl_dims, which schedules keep in proportion; default: margin for all."
    )
    finetune_margin: float | None = Field(default=None, ge=0, lt=1.5, description="The same in stage 2; default: margin.")
    margin_delay_epochs: float = Field(default=0.0, ge=0, description="The margin is 0 for this many first epochs of the run.")
    margin_warmup_epochs: float = Field(default=0.0, ge=0, description="Then it rises from 0 over this many epochs.")
    margin_schedule: Literal["linear", "exponential"] = Field(
        default="linear", description="How it rises; exponential: after a share x of the rise it is 1 - 0.001^x of the margin."
    )
    scale: float | None = Field(
        default=None,
        gt=0,
        description="Scale of the cosines; default: 30 for aam and subcenter_aam, 32 for sphereface2, 10 at the start of "
        "angular_prototypical (it is learnt), 14.3 for supervised_contrastive.",
    )
    num_subcenters: int = Field(default=3, ge=1, description="Centres per speaker, for subcenter_aam.")
    topk_penalty: float = Field(
        default=0.0, ge=0, lt=1, description="Additional margin of the most similar other speakers, radians, for both aam types."
    )
    topk: int = Field(default=5, ge=1, description="How many of them.")
    sphereface2_lambda: float = Field(
        default=0.7, gt=0, lt=1, description="Weight of the own speaker against all others together, for sphereface2."
    )
    sphereface2_t: float = Field(default=3.0, ge=1, description="Exponent of its similarities.")
    sphereface2_margin_type: Literal["C", "A"] = Field(default="C", description="Its margin: C additive, A angular.")
    mv_emphasis: float = Field(
        default=0.12, ge=0, le=1, description="Additional weight of speakers that an embedding is mistaken for, for mv_softmax."
    )
    dim_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Probability that a dim other than the full one sits out an optimizer step."
    )
    sampled_classes: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the speakers' vectors that a step compares embeddings with, drawn at random besides those of the "
        "batch (partial FC); for very many speakers.",
    )
    shared_classes: bool = Field(
        default=False, description="One class matrix, of which each dim uses a prefix, instead of one per dim."
    )
    similarity_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the term that makes cosines of every prefix follow the start model's full cosines.",
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> LossConfig:
        if self.type == "none" and (self.dim_dropout or self.mrl_margins is not None):
            raise ValueError("dim_dropout and mrl_margins have no meaning with type: none")
        if self.sampled_classes < 1 and (self.type == "none" or self.type in PAIR_LOSSES):
            raise ValueError(f"sampled_classes has no meaning with type: {self.type}, which has no vectors of speakers")
        if self.topk_penalty and self.type not in AAM_LOSSES:
            raise ValueError(f"topk_penalty belongs to aam and subcenter_aam (found type: {self.type})")
        if self.mrl_margins is not None:
            if self.margin <= 0:
                raise ValueError("mrl_margins need a margin above 0, to which schedules keep their proportion")
            largest = max(self.mrl_margins, default=0.0) * max(1.0, (self.finetune_margin or 0.0) / self.margin)
            if min(self.mrl_margins, default=0.0) < 0 or largest >= 1.5:
                raise ValueError(f"mrl_margins must stay from 0 to below 1.5, in stage 2 too (found {self.mrl_margins})")
        return self


class DistillationConfig(Section):
    """Another network that the model learns from: no labels needed. See docs/how-to/distil.md.."""

    teacher: str | None = Field(
        default=None,
        description="ONNX file (waveform at 16 kHz in, embedding out), model folder, official checkpoint, name of a model, or a "
        "file with an embedding for each recording (.npz, .parquet, .safetensors, .ark, .scp); null: no distillation.",
    )
    root: str | None = Field(
        default=None, description="Folder that the ids of such a file start from; default: data.train.root, or looked for."
    )
    audio: Literal["whole", "crop", "augmented"] = Field(
        default="whole",
        description="What the teacher hears: whole, the clean utterance, once for the run; crop, the student's crop without "
        "augmentation; augmented, the very same audio.",
    )
    centre: bool = Field(default=True, description="Take the mean of the teacher's embeddings away before comparing.")
    similarity_weight: float = Field(
        default=10.0, ge=0, description="Weight of the term that makes cosines of every prefix follow the teacher's full cosines."
    )
    embedding_weight: float = Field(
        default=1.0, ge=0, description="Weight of 1 - cosine of the full embedding and the teacher's, along its principal axes."
    )
    class_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the term that makes every prefix see the training speakers as the teacher does (needs labels).",
    )
    class_scale: float = Field(default=20.0, gt=0, description="Scale of the cosines in it.")


class WandbConfig(Section):
    """Weights & Biases."""

    project: str | None = Field(default=None, description="Name of the project there; null: no such log.")
    name: str | None = Field(default=None, description="Name of the run there; null: wandb makes one up.")
    mode: Literal["offline", "online", "disabled"] = Field(
        default="offline", description="offline writes files for `wandb sync`, online sends at once, disabled does nothing."
    )


class TrainingConfig(Section):
    """How the loss is minimised."""

    num_epochs: int = Field(default=20, ge=1, description="Epochs of both stages together.")
    batch_size: int = Field(default=64, ge=1, description="Crops per forward pass and process.")
    accumulation_steps: int = Field(default=1, ge=1, description="Forward passes per optimizer step.")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="AdamW, or SGD with Nesterov momentum 0.9.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate of stage 1, or of a run from scratch.")
    finetune_learning_rate: float = Field(default=2e-4, gt=0, description="Peak learning rate of stage 2, of head and classes.")
    warmup_epochs: float = Field(
        default=0.5, ge=0, description="The rate rises linearly over this many epochs at the start of each stage."
    )
    schedule: Literal["cosine", "exponential", "constant"] = Field(
        default="cosine", description="How the rate falls after the warm-up."
    )
    final_learning_rate_ratio: float = Field(default=0.01, gt=0, le=1, description="Last rate of a stage as a share of its peak.")
    weight_decay: float = Field(default=1e-4, ge=0, description="Of matrices and kernels; biases and norms have none.")
    class_weight_decay_ratio: float = Field(
        default=1.0, ge=0, description="Weight decay of the speakers' vectors as a share of weight_decay."
    )
    clip_norm: float | None = Field(default=5.0, gt=0, description="Longest gradient (global norm); null does not clip.")
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    device: str = Field(default="auto", description="auto (GPU if there is one), cpu, cuda, cuda:1, mps.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Of forward and backward passes; weights stay fp32."
    )
    compile: bool = Field(
        default=False, description="Compile the network (torch.compile) for training on waveforms; needs a compiler."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute the backbone's stages again in the backward pass, which saves memory and costs time."
    )
    num_workers: int = Field(default=0, ge=0, description="Processes that read and augment; 0 reads in the training process.")
    output_dir: str = Field(default="runs/mrl", description="Run folder.")
    validate_every_epochs: int = Field(default=1, ge=1, description="Validate every this many epochs, and after the last.")
    early_stopping_validations: int | None = Field(
        default=None,
        ge=1,
        description="A stage ends after this many validations without a new best; the last one ends the run.",
    )
    checkpoint_every_steps: int | None = Field(
        default=None, ge=1, description="Also save within an epoch, every this many optimizer steps."
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="How many of the last checkpoints stay.")
    max_nonfinite_steps: int = Field(default=20, ge=0, description="The run stops after more skipped steps than this.")
    process_timeout_minutes: float = Field(
        default=30.0, gt=0, le=1440, description="A run of several processes ends when one has not answered for this long."
    )
    log_every_steps: int = Field(default=20, ge=1, description="A line in metrics.jsonl every this many steps.")
    tensorboard: bool = Field(default=False, description="Also write the curves for TensorBoard, into the run folder.")
    wandb: WandbConfig = Field(default=WandbConfig(), description="Also write them for Weights & Biases.")


class AdvancedConfig(Section):
    """The pretrained backbone and the two stages."""

    use_pretrained: bool = Field(
        default=True, description="false trains a network of this variant from random weights, in one stage."
    )
    model_name: str = Field(
        default="b2", description="b0 ... b6, S, M, or redimnet2-b0 ... redimnet2-b6; from scratch also tiny and redimnet2-tiny."
    )
    train_type: str = Field(
        default="ft_lm", description="ptn, ft_lm or ft_mix; of redimnet2 ptn, lm or dis. Not given: the fine-tuned one."
    )
    pretrained_dataset: str = Field(
        default="vox2",
        description="vox2, vb2 or vb2+vox2+cnc; of redimnet2 vox2, vb2+vox2_v0 or vb2+vox2+cnc2_v0. Not given: the first.",
    )
    weights: str | None = Field(default=None, description="Checkpoint file, URL or folder of such files instead of the download.")
    projection_init: Literal["rotation", "pca", "lda", "data_free", "teacher"] = Field(
        default="rotation",
        description="Start of the head: rotation, pca or lda fitted to the training utterances, data_free, or teacher: the "
        "regression of distillation.teacher's embeddings on the pooled statistics.",
    )
    init_utterances_per_speaker: int = Field(
        default=20, ge=1, description="Utterances of each speaker for that fit and for the first class matrices."
    )
    freeze_backbone_epochs: int = Field(
        default=5, ge=0, description="Length of stage 1; stage 2 begins at the epoch of this number, counted from 0."
    )
    cache_pooled_statistics: bool = Field(
        default=True, description="Stage 1 runs the backbone once per view; false: for every crop of every epoch."
    )
    cache_views: int = Field(
        default=4, ge=1, description="Views per utterance: the clean whole utterance, and augmented crops for the rest."
    )
    cache_storage: Literal["float32", "float16"] = Field(
        default="float32", description="Data type of the cache; float16 takes half the space."
    )
    cache_read_ahead_megabytes: int = Field(
        default=64, ge=1, description="How much of the cache is read ahead of training; the most that it holds in memory."
    )
    cache_max_seconds: float = Field(
        default=20.0, gt=0, description="Only the first seconds of longer utterances are used in the clean view."
    )
    cache_dir: str | None = Field(
        default=None, description="Where caches are kept, to be shared by runs; default: cache in the run folder."
    )
    batch_norm_statistics: Literal["frozen", "update"] = Field(
        default="frozen", description="Of the backbone in stage 2; from scratch they always update."
    )
    backbone_learning_rate_ratio: float = Field(
        default=0.1, gt=0, le=10, description="The backbone's rate in stage 2 as a share of the head's."
    )
    teacher_init: Literal["rotation", "pca", "lda", "data_free"] | None = Field(
        default=None,
        description="Head of the teacher whose cosines loss.similarity_weight preserves; null: the start model itself.",
    )
    teacher_pull: float = Field(
        default=0.0, ge=0, description="Weight of the term that keeps full embeddings near those of the start model."
    )
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="Averaging of weights over steps for validation and the result; 0: none."
    )


class TrainConfig(Section):
    """A whole run."""

    data: DataConfig = Field(default=DataConfig())
    model: ModelConfig = Field(default=ModelConfig())
    loss: LossConfig = Field(default=LossConfig())
    training: TrainingConfig = Field(default=TrainingConfig())
    advanced: AdvancedConfig = Field(default=AdvancedConfig())
    distillation: DistillationConfig = Field(default=DistillationConfig())

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainConfig:
        if not self.advanced.use_pretrained and (self.advanced.teacher_pull or self.loss.similarity_weight):
            raise ValueError(
                "advanced.teacher_pull and loss.similarity_weight need a pretrained start (advanced.use_pretrained: true)"
            )
        self._distillation_fits()
        if self.advanced.teacher_init is not None and not self.loss.similarity_weight:
            raise ValueError("advanced.teacher_init has no use without loss.similarity_weight")
        if self.advanced.teacher_init is not None and self.advanced.teacher_pull:
            raise ValueError(
                "advanced.teacher_pull keeps the dimensions of the start model, which another advanced.teacher_init rotates; "
                "choose one"
            )
        if self.advanced.use_pretrained and self.advanced.freeze_backbone_epochs > self.training.num_epochs:
            raise ValueError("advanced.freeze_backbone_epochs is more than training.num_epochs, which counts both stages")
        if self.loss.type in PAIR_LOSSES and self.data.crops_per_speaker < 2:
            raise ValueError(
                f"loss.type: {self.loss.type} compares crops of one speaker; set data.crops_per_speaker to 2 or more "
                f"(found {self.data.crops_per_speaker})"
            )
        if self.loss.mrl_margins is not None and len(self.loss.mrl_margins) != len(self.model.mrl_dims or ()):
            raise ValueError(f"loss.mrl_margins needs model.mrl_dims, and one margin for each (found {self.loss.mrl_margins})")
        if self.data.train.unlabelled:
            if self.distillation.class_weight:
                raise ValueError("distillation.class_weight needs labels (data.train.unlabelled is true)")
            if self.loss.type != "none":
                raise ValueError(
                    "data.train.unlabelled needs loss.type: none with loss.similarity_weight above 0 or distillation.teacher "
                    f"(found type: {self.loss.type})"
                )
            for key in ("projection_init", "teacher_init"):
                if getattr(self.advanced, key) == "lda":
                    raise ValueError(f"data.train.unlabelled cannot use advanced.{key}: lda; use rotation, pca or data_free")
        if self.training.batch_size % self.data.crops_per_speaker:
            raise ValueError(
                f"training.batch_size must be a multiple of data.crops_per_speaker (found {self.training.batch_size} "
                f"and {self.data.crops_per_speaker})"
            )
        return self

    def _distillation_fits(self) -> None:
        own, taught = self.distillation, self.distillation.teacher is not None
        if self.loss.type == "none" and not self.loss.similarity_weight and not taught:
            raise ValueError(
                "loss.type: none leaves nothing to minimise; set loss.similarity_weight above 0, or distillation.teacher"
            )
        if self.advanced.projection_init == "teacher" and not (taught and self.advanced.use_pretrained):
            raise ValueError("advanced.projection_init: teacher needs distillation.teacher and a pretrained start")
        if not taught:
            return
        if self.loss.similarity_weight or self.advanced.teacher_pull or self.advanced.teacher_init is not None:
            raise ValueError(
                "loss.similarity_weight, advanced.teacher_pull and advanced.teacher_init follow the start model; with "
                "distillation.teacher use distillation.similarity_weight and embedding_weight"
            )
        if not (own.similarity_weight or own.embedding_weight or own.class_weight):
            raise ValueError("distillation has no weight above 0; set similarity_weight, embedding_weight or class_weight")
        if own.audio == "whole" and self.data.augmentation.speed_probability:
            raise ValueError(
                "distillation.audio: whole with data.augmentation.speed_probability: another speed is another voice, which the "
                "teacher would not hear; use audio: crop or augmented, or data.speeds"
            )

    @property
    def stage_1_epochs(self) -> int:
        """Epochs with a frozen backbone; none without a pretrained one."""
        return self.advanced.freeze_backbone_epochs if self.advanced.use_pretrained else 0

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return self.model_dump(mode="json")
