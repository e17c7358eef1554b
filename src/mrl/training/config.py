"""Every setting of a training run, typed, with its one default. Each key is read somewhere; an unknown key is an error.

See :func:`mrl.training.load_config` for how files, overlays and overrides become one of these.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_DIMS = (16, 32, 64, 128, 192, 256)
Scalar = str | int | float | bool


class Section(BaseModel):
    """A part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class TrainDataConfig(Section):
    """Where the training utterances are: a folder with one subfolder per speaker, or a manifest."""

    folder: str | None = Field(default=None, description="Folder with one subfolder per speaker; recordings at any depth below.")
    manifest: str | None = Field(default=None, description="CSV, TSV, JSONL or Parquet with the columns path and speaker.")
    root: str | None = Field(
        default=None, description="Folder that the manifest's relative paths start from; default: the manifest's own."
    )
    where: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="Keep only manifest rows whose column has this value, or one of these values."
    )

    @model_validator(mode="after")
    def _one_source(self) -> TrainDataConfig:
        if self.folder and self.manifest:
            raise ValueError("give folder or manifest, not both")
        if self.folder and (self.root or self.where):
            raise ValueError("root and where belong to a manifest; a folder is taken whole")
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


class AugmentationConfig(Section):
    """What is done to the crops, each kind with its own probability. Nothing is added without noise or room folders."""

    noise_folders: list[str] = Field(default_factory=list, description="Folders with noise recordings, searched at any depth.")
    noise_probability: float = Field(default=0.6, ge=0, le=1, description="Share of crops that get noise.")
    noise_snr_db: tuple[float, float] = Field(default=(0.0, 20.0), description="Range of the signal-to-noise ratio, dB.")
    rir_folders: list[str] = Field(default_factory=list, description="Folders with room impulse responses.")
    rir_probability: float = Field(default=0.4, ge=0, le=1, description="Share of crops that get a room.")
    babble_probability: float = Field(
        default=0.0, ge=0, le=1, description="Share of crops that get several other training voices."
    )
    babble_snr_db: tuple[float, float] = Field(
        default=(13.0, 20.0), description="Range of speech over all those voices together, dB."
    )
    exclude: list[str] = Field(default_factory=list, description="File name patterns left out of both, such as 'sb_esc50_*'.")

    @model_validator(mode="after")
    def _ordered(self) -> AugmentationConfig:
        for name, (low, high) in (("noise_snr_db", self.noise_snr_db), ("babble_snr_db", self.babble_snr_db)):
            if low > high:
                raise ValueError(f"{name} must be [lowest, highest] (found [{low:g}, {high:g}])")
        return self


class DataConfig(Section):
    """Which recordings are trained and validated on, and how they are cut."""

    train: TrainDataConfig = Field(default=TrainDataConfig(), description="The training utterances.")
    validation: ValidationConfig = Field(default=ValidationConfig(), description="The validation trials.")
    crop_seconds: float = Field(default=3.0, gt=0, description="Length of the training crops, seconds.")
    finetune_crop_seconds: float | None = Field(default=None, gt=0, description="The same in stage 2; default: crop_seconds.")
    speeds: list[float] = Field(
        default_factory=list, description="Copies of every speaker at these speeds, as further speakers: [0.9, 1.1]."
    )
    balance: Literal["speakers", "utterances"] = Field(
        default="speakers", description="speakers: each equally often; utterances: each once per epoch."
    )
    draws_per_speaker: int | None = Field(
        default=None,
        ge=1,
        description="Crops per speaker and epoch with balance: speakers; default: the mean number of utterances.",
    )
    augmentation: AugmentationConfig = Field(default=AugmentationConfig(), description="Noise and rooms.")


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
        chosen = [dim for dim in DEFAULT_DIMS if dim <= self.embed_dim] if self.mrl_dims is None else self.mrl_dims
        return tuple(sorted({*chosen, self.embed_dim}))

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


class LossConfig(Section):
    """What is minimised."""

    type: Literal["aam", "subcenter_aam"] = Field(
        default="aam", description="Additive angular margin, with one or several centres per speaker."
    )
    margin: float = Field(default=0.2, ge=0, lt=1.5, description="Angular margin, radians.")
    finetune_margin: float | None = Field(default=None, ge=0, lt=1.5, description="The same in stage 2; default: margin.")
    margin_warmup_epochs: float = Field(
        default=0.0, ge=0, description="The margin rises from 0 over this many first epochs of the run."
    )
    scale: float = Field(default=30.0, gt=0, description="Scale of the cosines.")
    num_subcenters: int = Field(default=3, ge=1, description="Centres per speaker, for subcenter_aam.")
    shared_classes: bool = Field(
        default=False, description="One class matrix, of which each dim uses a prefix, instead of one per dim."
    )
    similarity_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the term that makes cosines of every prefix follow the start model's full cosines.",
    )


class TrainingConfig(Section):
    """How it is minimised."""

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
    clip_norm: float | None = Field(default=5.0, gt=0, description="Longest gradient (global norm); null does not clip.")
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    device: str = Field(default="auto", description="auto (GPU if there is one), cpu, cuda, cuda:1, mps.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Of forward and backward passes; weights stay fp32."
    )
    num_workers: int = Field(default=0, ge=0, description="Processes that read and augment; 0 reads in the training process.")
    output_dir: str = Field(default="runs/mrl", description="Run folder.")
    validate_every_epochs: int = Field(default=1, ge=1, description="Validation after every so many epochs, and after the last.")
    early_stopping_validations: int | None = Field(
        default=None, ge=1, description="Stop after so many validations without a new best."
    )
    checkpoint_every_steps: int | None = Field(
        default=None, ge=1, description="Also save within an epoch, every so many optimizer steps."
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="How many of the last checkpoints stay.")
    max_nonfinite_steps: int = Field(default=20, ge=0, description="The run stops after more skipped steps than this.")
    log_every_steps: int = Field(default=20, ge=1, description="A line in metrics.jsonl every so many steps.")


class AdvancedConfig(Section):
    """The pretrained backbone and the two stages."""

    use_pretrained: bool = Field(
        default=True, description="false trains a network of this variant from random weights, in one stage."
    )
    model_name: str = Field(default="b2", description="b0 ... b6, S or M; from scratch also tiny.")
    train_type: str = Field(default="ft_lm", description="ptn, ft_lm or ft_mix.")
    pretrained_dataset: str = Field(default="vox2", description="vox2, vb2 or vb2+vox2+cnc.")
    weights: str | None = Field(default=None, description="Checkpoint file, URL or folder of such files instead of the download.")
    projection_init: Literal["rotation", "pca", "lda", "data_free"] = Field(
        default="rotation", description="Start of the head: rotation, pca or lda fitted to the training utterances, or data_free."
    )
    init_utterances_per_speaker: int = Field(
        default=20, ge=1, description="Utterances of each speaker for that fit and for the first class matrices."
    )
    freeze_backbone_epochs: int = Field(
        default=5, ge=0, description="Length of stage 1; stage 2 begins at the epoch of this number, counted from 0."
    )
    cache_pooled_statistics: bool = Field(
        default=True, description="Stage 1 computes the backbone once per view; false: anew for each crop."
    )
    cache_views: int = Field(
        default=4, ge=1, description="Views per utterance: the clean whole and so many less one augmented crops."
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

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainConfig:
        if not self.advanced.use_pretrained and (self.advanced.teacher_pull or self.loss.similarity_weight):
            raise ValueError(
                "advanced.teacher_pull and loss.similarity_weight need a pretrained start (advanced.use_pretrained: true)"
            )
        if self.advanced.use_pretrained and self.advanced.freeze_backbone_epochs > self.training.num_epochs:
            raise ValueError("advanced.freeze_backbone_epochs is more than training.num_epochs, which counts both stages")
        return self

    @property
    def stage_1_epochs(self) -> int:
        """Epochs with a frozen backbone; none without a pretrained one."""
        return self.advanced.freeze_backbone_epochs if self.advanced.use_pretrained else 0

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return self.model_dump(mode="json")
