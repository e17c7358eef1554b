"""The exact ReDimNet: waveform in, raw speaker embedding out, numbers as the official network gives them.

Paper: Yakovlev et al., "Reshape Dimensions Network for Speaker Recognition", Interspeech 2024, https://arxiv.org/abs/2407.18223.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mrl.backbone.config import ReDimNetConfig
from mrl.backbone.encoder import FrameEncoder, WeightedSum
from mrl.backbone.frontend import LogMelFrontEnd, frame_mask
from mrl.backbone.grouping import pool_in_groups
from mrl.backbone.inference import InferenceAttentiveStatistics, InferenceEncoder, InferenceWeightedSum
from mrl.backbone.inference_copy import inference_copy, refuse_copy
from mrl.backbone.official import load_official, to_official_state_dict
from mrl.backbone.pooling import Pooling, build_pooling
from mrl.backbone.waveforms import Audio, as_batch

StageSum = WeightedSum | InferenceWeightedSum
"""A weighted sum of the outputs of stem and stages, of a network or of its inference copy."""


class ReDimNet(nn.Module):
    """Waveform ``(batch, samples)`` -> front end -> encoder -> pooled statistics -> raw embedding ``(batch, embed_dim)``.

    Build one from a released file with :func:`mrl.load_pretrained_redimnet`, from an official pair of configuration and weights
    with :meth:`from_official`, or untrained from a :class:`ReDimNetConfig`.

    Recordings of unequal length may share a batch (a list, or ``lengths=``): padding is masked in every normalisation,
    convolution, attention and pooling, so each result in eval mode is that of the recording alone. (In training mode BatchNorm
    takes its statistics over the whole batch, so there the items depend on each other and on padding: train on equal crops.)

    For inference on a CPU (eval mode, no gradient) a batch is worked off in groups that fit the cache, like lengths together.
    """

    def __init__(self, config: ReDimNetConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end = LogMelFrontEnd(config.front_end)
        self.encoder: FrameEncoder | InferenceEncoder = FrameEncoder(config)
        pooling = build_pooling(config.pooling, self.encoder.frame_dim, global_context=config.global_context_attention)
        self.pooling: Pooling | InferenceAttentiveStatistics = pooling
        self.pooled_norm = nn.BatchNorm1d(self.pooling.pooled_dim)
        self.embedding = nn.Linear(self.pooling.pooled_dim, config.embed_dim)
        self.embedding_norm = nn.BatchNorm1d(config.embed_dim) if config.embedding_norm else None
        self.classifier = _classifier(config)
        self.pretrained_source: dict[str, Any] | None = None
        self.inference_only = False  # true for what optimize_for_inference returned

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms, in Hz."""
        return self.config.front_end.sample_rate

    @property
    def embed_dim(self) -> int:
        """Length of the raw embedding (192 in every released model)."""
        return self.config.embed_dim

    @property
    def pooled_dim(self) -> int:
        """Length of the vector of pooled statistics, before its BatchNorm."""
        return self.pooling.pooled_dim

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform that the front end can take, in samples."""
        return self.config.front_end.minimum_samples

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

        A sum of ``n`` inputs weighs the outputs of the stem and of the first ``n - 1`` stages; stages that none of them needs are
        not run. Frame projection, where there is one, and pooling are those of the whole network.

        Raises:
            InputError: unusable type, shape or length.
        """
        waveform, counts, _ = self._batch(audio, lengths)
        depth = max(one.num_inputs for one in sums) - 1

        def pool(features: Tensor, mask: Tensor | None) -> Tensor:
            outputs = self.encoder.stage_outputs(features, mask, depth)
            summed = (one(outputs[: one.num_inputs]) for one in sums)
            return torch.cat([self.pooling(self.encoder.project_frames(each), mask) for each in summed], dim=1)

        features, num_frames = self._log_mel(waveform, counts)
        if self._may_split(features):
            pooled = pool_in_groups(pool, features, num_frames, self.encoder.numbers_per_frame)
        else:
            pooled = pool(features, None if num_frames is None else frame_mask(num_frames, features.shape[1]))
        return list(pooled.chunk(len(sums), dim=1))

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

    def optimize_for_inference(self, *, dtype: torch.dtype = torch.float32, compile: bool = False, pack: bool = True) -> ReDimNet:
        """Return a faster copy for inference with the same results; this network stays as it is.

        BatchNorms are folded into the convolutions and the head (exactly, at the edges too), the weights of the aggregation are
        computed once, bias, activation and residual become part of the convolution before them, and on a CPU the weights lie in
        the layout in which oneDNN computes. The copy cannot be trained, saved or converted; it may be moved and pickled.

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
        return inference_copy(self, dtype=dtype, compile=compile, pack=pack)

    def train(self, mode: bool = True) -> ReDimNet:
        """Switch between training and evaluation.

        Raises:
            TrainingError: training of an inference copy.
        """
        if mode:
            refuse_copy(self, "trained")
        super().train(mode)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> ReDimNet:
        """Say whether the parameters shall receive a gradient.

        Raises:
            TrainingError: a gradient for an inference copy.
        """
        if requires_grad:
            refuse_copy(self, "trained")
        super().requires_grad_(requires_grad)
        return self

    @classmethod
    def from_official(cls, model_config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> ReDimNet:
        """Build the network that an official file describes, in eval mode.

        Raises:
            ConfigError: ``model_config`` has an unknown key or an unsupported value.
            CheckpointError: the weights lack an entry, have one too many, or one of another shape.
        """
        model = cls(ReDimNetConfig.from_model_config(model_config))
        load_official(model, model.config, state_dict)
        return model.eval()

    def to_official(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return ``(model_config, state_dict)`` with the official names and shapes; the inverse of :meth:`from_official`.

        Raises:
            TrainingError: this is an inference copy, whose weights are folded.
        """
        refuse_copy(self, "converted")
        return self.config.to_model_config(), to_official_state_dict(self, self.config)


def _classifier(config: ReDimNetConfig) -> nn.Sequential | None:
    if config.num_classes is None:
        return None
    activations: dict[str | None, nn.Module] = {
        None: nn.Identity(),
        "nn.Identity()": nn.Identity(),
        "nn.ReLU()": nn.ReLU(),
        "nn.GELU()": nn.GELU(),
        "nn.Sigmoid()": nn.Sigmoid(),
        "nn.Tanh()": nn.Tanh(),
        "nn.Softmax(dim=1)": nn.Softmax(dim=1),
        "nn.LogSoftmax(dim=1)": nn.LogSoftmax(dim=1),
    }
    layers = [nn.ReLU(), nn.Dropout(config.class_dropout), nn.Linear(config.embed_dim, config.num_classes)]
    return nn.Sequential(*layers, activations[config.head_activation])
