"""What every backbone family has in common: waveform in, pooled statistics and raw speaker embedding out.

A family brings a configuration, a front end, an encoder and the names of its official weights; all else is here. The rest of the
package works with :class:`Backbone` and names no family.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.audio import as_recordings
from mrl.backbone.config import BackboneConfig
from mrl.backbone.conversion import Entry, load_official, to_official_state_dict
from mrl.backbone.encoder import Encoder, StageSum
from mrl.backbone.folding import InferenceConv, Kernel, affine_of, can_pack
from mrl.backbone.frontend import FrontEnd, frame_mask
from mrl.backbone.grouping import pool_in_groups
from mrl.backbone.inference import assign, inference_pooling
from mrl.backbone.sums import WeightedSum
from mrl.backbone.waveforms import Audio, as_batch, gradients
from mrl.errors import InputError, TrainingError

if TYPE_CHECKING:
    from typing_extensions import Self

INFERENCE_DTYPES = (torch.float32, torch.bfloat16)


class Backbone(nn.Module):
    """Waveform ``(batch, samples)`` -> front end -> encoder -> pooled statistics -> raw embedding ``(batch, embed_dim)``.

    Recordings of unequal length may share a batch (a list, or ``lengths=``): padding is masked in every normalisation,
    convolution, attention and pooling, so each result in eval mode is that of the recording alone. (In training mode BatchNorm
    takes its statistics over the whole batch, so there the items depend on each other and on padding: train on equal crops.)

    For inference on a CPU (eval mode, no gradient) a batch is processed in groups that fit the cache, similar lengths together.

    Args:
        config: of the family.
    """

    family: ClassVar[str]
    """Name of the family, as in ``config.json`` and in the records of released files."""

    config_class: ClassVar[type[BackboneConfig]]

    variants: ClassVar[Mapping[str, BackboneConfig]]
    """Configurations of untrained networks, by name, such as ``b2``."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end, self.encoder, self.pooling = self.parts()
        self.pooled_norm = nn.BatchNorm1d(self.pooled_dim)
        self.embedding = nn.Linear(self.pooled_dim, config.embed_dim)
        self.embedding_norm = nn.BatchNorm1d(config.embed_dim) if config.embedding_norm else None
        self.classifier: nn.Module | None = None
        self.pretrained_source: dict[str, Any] | None = None
        self.inference_only = False  # true for what optimize_for_inference returned

    def parts(self) -> tuple[FrontEnd, Encoder, nn.Module]:
        """Return front end, encoder and pooling as :attr:`config` describes them; pooling has the attribute ``pooled_dim``."""
        raise NotImplementedError

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms, in Hz."""
        return self.front_end.config.sample_rate

    @property
    def embed_dim(self) -> int:
        """Length of the raw embedding (192 in every released model)."""
        return self.config.embed_dim

    @property
    def pooled_dim(self) -> int:
        """Length of the vector of pooled statistics, before its BatchNorm."""
        dim = self.pooling.pooled_dim
        assert isinstance(dim, int)
        return dim

    @property
    def num_stages(self) -> int:
        """How many stages the encoder has."""
        return self.config.num_stages

    @property
    def time_stride(self) -> int:
        """The encoder takes a multiple of this many frames; trailing frames are dropped."""
        return 1

    @property
    def padded_samples(self) -> int:
        """Zeros that are appended to every waveform."""
        return 0

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform that the network can take, in samples."""
        return self.front_end.minimum_samples

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.embedding.weight.device

    def trainable_parameters(self, *, head: bool = True) -> Iterator[nn.Parameter]:
        """Yield the parameters that receive a gradient.

        Args:
            head: with the layers after the pooled statistics' BatchNorm (embedding and classifier), or only those up to it.
        """
        parts = ["encoder", "pooling", "pooled_norm"] + (["embedding", "embedding_norm", "classifier"] if head else [])
        for name, parameter in self.named_parameters():
            # The front end computes without gradient; the sum of a single input has a logit without influence.
            single = name.endswith("weighted_sum.logits") and parameter.shape[0] == 1
            if name.split(".", 1)[0] in parts and not single:
                yield parameter

    def frame_features(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-mel features ``(batch, frames, bands)`` -> frame features ``(batch, frames, frame_dim)``.

        ``mask`` is ``(batch, frames)``, true for each item's own frames; None: nothing is padded. What is beyond a multiple of
        :attr:`time_stride` is left out.
        """
        stride = self.time_stride
        if stride > 1:
            used = features.shape[1] // stride * stride
            features = features[:, :used]
            mask = None if mask is None else frame_mask(mask.sum(dim=1) // stride * stride, used)
        frames: Tensor = self.encoder(features.to(self.embedding.weight.dtype), mask)[0]
        return frames

    def pooled_statistics(self, audio: Audio, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return the pooled statistics ``(batch, pooled_dim)``, before their BatchNorm; a single waveform is a batch of one.

        Raises:
            InputError: unusable type, shape or length.
        """
        waveform, counts, _ = self._batch(audio, lengths)
        return self._pooled(waveform, counts)[0]

    def early_statistics(
        self, audio: Audio, lengths: Tensor | Sequence[int] | None = None, *, sums: Sequence[StageSum]
    ) -> list[Tensor]:
        """Return pooled statistics of the network's first stages, one ``(batch, pooled_dim)`` for each of ``sums``.

        A sum of ``n`` inputs weighs the first ``n`` outputs of stem and stages (see :meth:`early_sum`); stages that none of them
        needs are not run. Frame projection, where there is one, and pooling are those of the whole network.

        Raises:
            InputError: unusable type, shape or length.
        """
        waveform, counts, _ = self._batch(audio, lengths)
        depth = self.encoder.depth_of(max(each.num_inputs for each in sums))

        def pool(features: Tensor, mask: Tensor | None) -> Tensor:
            outputs = self.encoder.stage_outputs(features, mask, depth)
            summed = (each(outputs[: each.num_inputs]) for each in sums)
            return torch.cat([self.pooling(self.encoder.project_frames(each), mask) for each in summed], dim=1)

        features, num_frames = self._log_mel(waveform, counts)
        if self._may_split(features):
            pooled = pool_in_groups(pool, features, num_frames, self.encoder.numbers_per_frame)
        else:
            pooled = pool(features, None if num_frames is None else frame_mask(num_frames, features.shape[1]))
        return list(pooled.chunk(len(sums), dim=1))

    @torch.no_grad()
    def early_sum(self, depth: int) -> WeightedSum:
        """Return a weighted sum of what there is after ``depth`` stages, with the weights that the network's last layer gives it.

        Raises:
            TrainingError: this is an inference copy, which has no weights to begin with.
        """
        final = self.encoder.final_sum
        if not isinstance(final, WeightedSum):
            raise TrainingError("an inference copy cannot be given exits; use the model it was made from")
        count = self.encoder.outputs_after[depth]
        result = WeightedSum(count, final.logits.shape[1], final.strides[:count])
        result.logits.copy_(final.logits[:count])
        return result

    def normalise_pooled(self, pooled: Tensor) -> Tensor:
        """BatchNorm of the pooled statistics, ``(batch, pooled_dim)``: what embedding and Matryoshka head are affine maps of.

        An inference copy has that norm in its head and leaves the statistics as they are.
        """
        normalised: Tensor = self.pooled_norm(pooled.to(self.embedding.weight.dtype))
        return normalised

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """Pooled statistics ``(batch, pooled_dim)`` -> raw embedding ``(batch, embed_dim)``, not of unit length."""
        embedding: Tensor = self.embedding(self.normalise_pooled(pooled))
        return embedding if self.embedding_norm is None else self.embedding_norm(embedding)

    def forward(
        self, audio: Audio, lengths: Tensor | Sequence[int] | None = None, *, sample_rate: int | None = None
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Return what the official network returns: the raw embedding, not of unit length.

        In evaluation mode without a gradient, unless the waveforms require one.

        Args:
            audio: a path, a waveform ``(samples,)``, ``(batch, samples)``, ``(batch, 1, samples)`` at :attr:`sample_rate` Hz,
                or a list of waveforms of unequal lengths.
            lengths: ``(batch,)`` samples per item of a padded batch.
            sample_rate: of arrays and tensors, in Hz, if another one; they are resampled.

        Returns:
            ``(batch, embed_dim)``, or ``(embed_dim,)`` for a path or a single waveform. With ``num_classes`` in the
            configuration the class logits instead; with ``return_all_outputs`` a pair with the list of 1-D outputs
            ``(batch, features, frames)``.

        Raises:
            InputError: unusable type, shape or length.
            AudioLoadingError: a path that cannot be decoded.
        """
        with gradients(self, audio):
            waveform, counts, single = self._batch(
                as_recordings(audio, sample_rate, target_rate=self.sample_rate, padded=lengths is not None), lengths
            )
            pooled, outputs = self._pooled(waveform, counts)
            result = self.embed_pooled(pooled)
            if self.classifier is not None:
                result = self.classifier(result)
            if single:
                result = result.squeeze(0)
            if self.config.return_all_outputs:
                return result, [output.transpose(1, 2) for output in self.encoder.at_full_resolution(outputs)]
            return result

    def _batch(self, audio: Audio, lengths: Tensor | Sequence[int] | None) -> tuple[Tensor, Tensor | None, bool]:
        return as_batch(audio, lengths, sample_rate=self.sample_rate, minimum_samples=self.minimum_samples, device=self.device)

    def _pooled(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        features, num_frames = self._log_mel(waveform, lengths)
        if not self.config.return_all_outputs and self._may_split(features):
            return pool_in_groups(self._pool_features, features, num_frames, self.encoder.numbers_per_frame), []
        mask = None if num_frames is None else frame_mask(num_frames, features.shape[1])
        frames, outputs = self.encoder(features, mask)
        return self.pooling(frames, mask), outputs

    def _log_mel(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return ``(batch, frames, bands)`` and the frames of each item where they differ, both as the encoder takes them."""
        padding, stride = self.padded_samples, self.time_stride
        if padding:
            if lengths is not None:
                waveform = torch.where(frame_mask(lengths, waveform.shape[1]), waveform, 0.0)
                lengths = lengths + padding
            waveform = functional.pad(waveform, (0, padding))
        features = self.front_end(waveform, lengths).to(self.embedding.weight.dtype)
        num_frames = None if lengths is None else self.front_end.num_frames(lengths)
        if stride > 1:
            features = features[:, : features.shape[1] // stride * stride]
            num_frames = None if num_frames is None else num_frames // stride * stride
        return features, num_frames

    def _pool_features(self, features: Tensor, mask: Tensor | None) -> Tensor:
        pooled: Tensor = self.pooling(self.encoder(features, mask)[0], mask)
        return pooled

    def _may_split(self, features: Tensor) -> bool:
        # With gradient, all activations are kept anyway; a compiler wants one graph; a GPU wants large batches.
        keeps_activations = self.training or torch.is_grad_enabled()
        if torch.compiler.is_compiling() or (keeps_activations and not self.inference_only):
            return False
        return features.device.type == "cpu"

    def optimize_for_inference(self, *, dtype: torch.dtype = torch.float32, compile: bool = False, pack: bool = True) -> Backbone:
        """Return a faster copy for inference with the same results; this network stays as it is.

        BatchNorms are folded into the convolutions and the head (exactly, at the edges too), the weights of the aggregation are
        computed once, bias, activation and residual become part of the convolution before them, and on a CPU the weights are
        stored in oneDNN's own layout. The copy cannot be trained, saved or converted; it may be moved and pickled.

        Args:
            dtype: float32, or bfloat16 for encoder and pooling layers where the processor has it (front end, statistics and
                head stay in float32).
            compile: compile encoder and pooling with ``torch.compile`` (needs a C++ compiler). The first call takes minutes, and
                so do the first few new shapes; call under ``torch.inference_mode()``.
            pack: use oneDNN's own operations and layouts; False for plain operations that can be traced and exported.

        Raises:
            InputError: another ``dtype``, or bfloat16 on a processor without it.
            TrainingError: this network is such a copy already.
        """
        self.refuse_copy("optimised again")
        if dtype not in INFERENCE_DTYPES:
            raise InputError(f"dtype={dtype} is not available for inference; expected torch.float32 or torch.bfloat16")
        on_cpu = self.device.type == "cpu"
        if dtype == torch.bfloat16 and on_cpu and not can_pack(dtype):
            raise InputError(
                "this processor has no bfloat16 arithmetic that oneDNN could use (AVX-512 or AMX); use dtype=torch.float32"
            )
        result = copy.deepcopy(self).eval().requires_grad_(False)
        result.front_end, result.encoder = result.folded_front_end(), result.folded_encoder(dtype)
        result.pooling = inference_pooling(result.pooling).to(dtype)
        head = Kernel.of(self.embedding)
        if self.embedding_norm is not None:
            head = head.then(affine_of(self.embedding_norm))
            result.embedding_norm = None
        assign(result.embedding, head.after(affine_of(self.pooled_norm)))
        result.pooled_norm = cast(nn.BatchNorm1d, nn.Identity())  # all that asks it for statistics refuses a copy
        if compile:
            # The compiler packs the weights itself, and knows best what to fuse.
            for part in (result.encoder, result.pooling):
                part.compile(options={"freezing": True})
        elif pack and on_cpu and can_pack(dtype):
            for module in result.modules():
                if isinstance(module, InferenceConv):
                    module.pack()
        result.inference_only = True
        return result.eval()

    def folded_front_end(self) -> FrontEnd:
        """Return the front end of an inference copy; a family may have a faster one."""
        return self.front_end

    def folded_encoder(self, dtype: torch.dtype) -> Encoder:
        """Return the encoder of an inference copy, its weights folded and converted to ``dtype``."""
        raise NotImplementedError

    @classmethod
    def claims(cls, model_config: Mapping[str, Any]) -> bool:
        """Whether an official ``model_config`` without a family's name can be of this family only."""
        raise NotImplementedError

    @classmethod
    def from_model_config(cls, model_config: Mapping[str, Any]) -> Self:
        """Build the untrained network that an official ``model_config`` describes.

        Raises:
            ConfigError: ``model_config`` has an unknown key or an unsupported value.
        """
        return cls(cls.config_class.from_model_config(model_config))

    def size_name(self) -> str | None:
        """Return which published size this network has, such as ``b2``; None for any other network."""
        return next((name for name, config in self.variants.items() if config.size == self.config.size), None)

    @classmethod
    def from_official(cls, model_config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Self:
        """Build the network that an official file describes, in eval mode.

        Raises:
            ConfigError: ``model_config`` has an unknown key or an unsupported value.
            CheckpointError: the weights lack an entry, have one too many, or one of another shape.
        """
        model = cls.from_model_config(model_config)
        load_official(model, model.official_entries(), state_dict)
        return model.eval()

    def to_official(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return ``(model_config, state_dict)`` with the official names and shapes; the inverse of :meth:`from_official`.

        Raises:
            TrainingError: this is an inference copy, whose weights are folded.
        """
        self.refuse_copy("converted")
        return self.config.to_model_config(), to_official_state_dict(self, self.official_entries())

    def official_entries(self) -> list[Entry]:
        """Return every tensor of the network with its official names."""
        raise NotImplementedError

    def with_embedding(self, embed_dim: int, *, num_stages: int | None = None) -> Backbone:
        """Return an untrained network like the first stages of this one (None: all) with another plain affine embedding."""
        return type(self).from_model_config(self.config.with_embedding(embed_dim, num_stages=num_stages).to_model_config())

    def train(self, mode: bool = True) -> Backbone:
        """Switch between training and evaluation.

        Raises:
            TrainingError: training of an inference copy.
        """
        if mode:
            self.refuse_copy("trained")
        super().train(mode)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Backbone:
        """Set whether the parameters receive a gradient.

        Raises:
            TrainingError: a gradient for an inference copy.
        """
        if requires_grad:
            self.refuse_copy("trained")
        super().requires_grad_(requires_grad)
        return self

    def refuse_copy(self, what: str) -> None:
        """Raise a TrainingError if this is an inference copy, which cannot be ``what`` (a participle)."""
        if self.inference_only:
            raise TrainingError(
                f"an inference copy cannot be {what}: its norms are folded into its weights; use the model it was made from"
            )
