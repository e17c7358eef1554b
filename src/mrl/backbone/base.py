"""What every backbone family has in common: waveform in, pooled statistics and raw speaker embedding out.

A family brings a configuration, a front end, an encoder and the names of its official weights; all else is here. The rest of the
package works with :class:`Backbone` and names no family.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from mrl.backbone.frontend import FrontEnd, frame_mask
from mrl.backbone.grouping import pool_in_groups
from mrl.backbone.sums import FixedSum, WeightedSum
from mrl.backbone.waveforms import Audio, as_batch
from mrl.errors import TrainingError

StageSum = WeightedSum | FixedSum
"""A weighted sum of the outputs of stem and stages, of a network or of its inference copy."""


class BackboneConfig(Protocol):
    """What is asked of the configuration of any family."""

    @property
    def embed_dim(self) -> int: ...

    @property
    def bands(self) -> int: ...

    @property
    def stages(self) -> Sequence[Any]: ...

    @property
    def return_all_outputs(self) -> bool: ...

    def to_model_config(self) -> dict[str, Any]:
        """Return the official ``model_config``, every key spelled out."""
        ...

    def with_embedding(self, embed_dim: int, *, num_stages: int | None = None) -> BackboneConfig:
        """Return the configuration of the first stages with another plain affine embedding and no classes."""
        ...


class Encoder(nn.Module):
    """Log-mel features ``(batch, frames, bands)`` -> frame features ``(batch, frames, frame_dim)``, of a network or its copy.

    Attributes:
        frame_dim: numbers per frame that are pooled.
        numbers_per_frame: how many numbers the largest map holds per frame of the features.
        outputs_after: how many outputs there are before the first stage and after each.
        final_sum: the last weighted sum.
        stages: one module per stage.
    """

    frame_dim: int
    numbers_per_frame: int
    outputs_after: tuple[int, ...]
    final_sum: StageSum
    stages: nn.ModuleList

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the frame features, and the 1-D outputs of stem, stages and final sum, each ``(batch, frames, volume)``."""
        outputs = self.stage_outputs(features, mask)
        outputs.append(self.final_sum(outputs))
        return self.project_frames(outputs[-1]), outputs

    def stage_outputs(self, features: Tensor, mask: Tensor | None = None, depth: int | None = None) -> list[Tensor]:
        """Return the outputs of the stem and of the first ``depth`` stages (None: all)."""
        raise NotImplementedError

    def project_frames(self, summed: Tensor) -> Tensor:
        """Turn a weighted sum of outputs ``(batch, frames, volume)`` into frame features ``(batch, frames, frame_dim)``."""
        raise NotImplementedError

    def depth_of(self, num_outputs: int) -> int:
        """Return after how many stages there are so many outputs."""
        return next(depth for depth, count in enumerate(self.outputs_after) if count >= num_outputs)


class Backbone(nn.Module):
    """Waveform ``(batch, samples)`` -> front end -> encoder -> pooled statistics -> raw embedding ``(batch, embed_dim)``.

    Recordings of unequal length may share a batch (a list, or ``lengths=``): padding is masked in every normalisation,
    convolution, attention and pooling, so each result in eval mode is that of the recording alone. (In training mode BatchNorm
    takes its statistics over the whole batch, so there the items depend on each other and on padding: train on equal crops.)

    For inference on a CPU (eval mode, no gradient) a batch is worked off in groups that fit the cache, like lengths together.

    Args:
        config: of the family.
        front_end, encoder, pooling: of the family; pooling has the attribute ``pooled_dim``.
        embedding_norm: end with a BatchNorm.
    """

    family: ClassVar[str]
    """Name of the family, as in ``config.json`` and in the records of released files."""

    def __init__(
        self, config: BackboneConfig, front_end: FrontEnd, encoder: Encoder, pooling: nn.Module, *, embedding_norm: bool
    ) -> None:
        super().__init__()
        self.config = config
        self.front_end = front_end
        self.encoder = encoder
        self.pooling = pooling
        self.pooled_norm: nn.Module = nn.BatchNorm1d(self.pooled_dim)
        self.embedding = nn.Linear(self.pooled_dim, config.embed_dim)
        self.embedding_norm = nn.BatchNorm1d(config.embed_dim) if embedding_norm else None
        self.classifier: nn.Module | None = None
        self.pretrained_source: dict[str, Any] | None = None
        self.inference_only = False  # true for what optimize_for_inference returned

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
        return len(self.config.stages)

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform that the network can take, in samples."""
        return self.front_end.minimum_samples

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
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

        ``mask`` is ``(batch, frames)``, true for each item's own frames; None: nothing is padded.
        """
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

    def forward(self, audio: Audio, lengths: Tensor | Sequence[int] | None = None) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Return what the official network returns: the raw embedding, not of unit length.

        Args:
            audio: a path, a waveform ``(samples,)``, ``(batch, samples)``, ``(batch, 1, samples)`` at :attr:`sample_rate` Hz,
                or a list of waveforms of unequal lengths.
            lengths: ``(batch,)`` samples per item of a padded batch.

        Returns:
            ``(batch, embed_dim)``, or ``(embed_dim,)`` for a path or a single waveform. With ``num_classes`` in the
            configuration the class logits instead; with ``return_all_outputs`` a pair with the list of 1-D outputs
            ``(batch, features, frames)``.

        Raises:
            InputError: unusable type, shape or length.
            AudioLoadingError: a path that cannot be decoded.
        """
        waveform, counts, single = self._batch(audio, lengths)
        pooled, outputs = self._pooled(waveform, counts)
        result = self.embed_pooled(pooled)
        if self.classifier is not None:
            result = self.classifier(result)
        if single:
            result = result.squeeze(0)
        if self.config.return_all_outputs:
            return result, [output.transpose(1, 2) for output in outputs]
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
        """Return ``(batch, frames, bands)`` and the frames of each item where they differ."""
        features = self.front_end(waveform, lengths).to(self.embedding.weight.dtype)
        return features, None if lengths is None else self.front_end.num_frames(lengths)

    def _pool_features(self, features: Tensor, mask: Tensor | None) -> Tensor:
        pooled: Tensor = self.pooling(self.encoder(features, mask)[0], mask)
        return pooled

    def _may_split(self, features: Tensor) -> bool:
        # With gradient, all activations are kept anyway; a compiler wants one graph; a GPU wants large batches.
        keeps_activations = self.training or torch.is_grad_enabled()
        if torch.compiler.is_compiling() or (keeps_activations and not self.inference_only):
            return False
        return features.device.type == "cpu"

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
        """Say whether the parameters shall receive a gradient.

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
