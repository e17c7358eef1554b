"""The Matryoshka model: a backbone and a head whose every prefix is a speaker embedding."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from mrl.audio import as_recordings
from mrl.backbone import Audio, Backbone, family_named
from mrl.backbone.inference import fold_norm
from mrl.backbone.size import require_size
from mrl.backbone.state_hash import state_sha256
from mrl.backbone.waveforms import as_batch, gradients
from mrl.bounded import said
from mrl.errors import CheckpointError, InputError, MRLError, TrainingError
from mrl.matryoshka.closed_form import Method, fit_projection
from mrl.matryoshka.exits import Cut, EarlyExit, checked_exit_depth, cut_backbone, read_cut
from mrl.matryoshka.projection import AffineMap, MatryoshkaProjection, pretrained_map
from mrl.matryoshka.saving import in_half_precision, read_model_folder, write_model_folder
from mrl.pretrained import Release, model_folder, push_model_folder

BatchNormStatistics = Literal["frozen", "update"]


class ReDimNetMRL(nn.Module):
    """Waveform ``(batch, samples)`` at 16 kHz -> unit-length embedding ``(batch, target_dim)``, any length up to ``embed_dim``.

    The pretrained embedding layer stays in :attr:`backbone` as it was (the teacher of training, the baseline of evaluation); the
    embedding comes from :attr:`projection`. Use :func:`mrl.create_mrl_from_pretrained` to build one.

    Args:
        backbone: the network that gives pooled statistics.
        embed_dim: length of the full embedding.
        mrl_dims: the prefix lengths that are trained and reported, in any order; the full length always belongs to them.

    Raises:
        InputError: a length outside 1..embed_dim, or none.
    """

    def __init__(self, backbone: Backbone, embed_dim: int = 256, mrl_dims: Iterable[int] = (16, 32, 64, 128, 192, 256)) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = MatryoshkaProjection(backbone.pooled_dim, embed_dim)
        self.mrl_dims = checked_dims(mrl_dims, embed_dim)
        self.exits = nn.ModuleDict()  # EarlyExit by depth, as text
        self.backbone_frozen = False
        self.batch_norm_statistics: BatchNormStatistics = "frozen"
        # Whether the backbone still is the pretrained one, and its own embedding the baseline to compare with.
        self.backbone_is_unmodified = True
        self.cut: Cut | None = None  # of which model this is the beginning; None for a whole one
        self._let_backbone_train()
        self.to(backbone.device)

    @property
    def embed_dim(self) -> int:
        """Length of the full embedding."""
        return self.projection.embed_dim

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms, in Hz."""
        return self.backbone.sample_rate

    @property
    def pooled_dim(self) -> int:
        """Length of the vector of pooled statistics."""
        return self.backbone.pooled_dim

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.projection.weight.device

    @property
    def depths(self) -> tuple[int, ...]:
        """After how many stages an embedding can be had, ascending; the last is the whole network."""
        return (*sorted(int(depth) for depth in self.exits), self.backbone.num_stages)

    @overload
    def __call__(
        self,
        audio: Audio,
        lengths: Tensor | Sequence[int] | None = None,
        target_dim: int | None = None,
        *,
        return_all_dims: Literal[True],
        depth: int | None = None,
        sample_rate: int | None = None,
    ) -> dict[int, Tensor]: ...

    @overload
    def __call__(
        self,
        audio: Audio,
        lengths: Tensor | Sequence[int] | None = None,
        target_dim: int | None = None,
        return_all_dims: Literal[False] = False,
        depth: int | None = None,
        *,
        sample_rate: int | None = None,
    ) -> Tensor: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)

    def forward(
        self,
        audio: Audio,
        lengths: Tensor | Sequence[int] | None = None,
        target_dim: int | None = None,
        return_all_dims: bool = False,
        depth: int | None = None,
        *,
        sample_rate: int | None = None,
    ) -> Tensor | dict[int, Tensor]:
        """Return speaker embeddings of unit length.

        The network runs in full for every length: a short prefix saves storage and search, not encoding time. That
        is what ``depth`` is for. In evaluation mode the result has no gradient (``model(audio).numpy()`` works), unless the
        waveforms require one.

        Args:
            audio: a path, a waveform ``(samples,)``, ``(batch, samples)``, ``(batch, 1, samples)``, or a list of waveforms.
            lengths: ``(batch,)`` samples per item of a padded batch.
            target_dim: prefix length, any from 1 to :attr:`embed_dim`; None for the full embedding.
            return_all_dims: return every length of :attr:`mrl_dims` instead.
            depth: stop after N stages (early exit), one of :attr:`depths`; None for the whole network. Early exits are there
                after :func:`mrl.fit_exits` only.
            sample_rate: of arrays and tensors, in Hz, if another one than :attr:`sample_rate`; they are resampled.

        Returns:
            ``(batch, target_dim)``, or ``(target_dim,)`` for a path or a single waveform; with ``return_all_dims`` a dictionary
            from length to such a tensor.

        Raises:
            InputError: unusable audio, or a length or depth that the model does not have.
            AudioLoadingError: a path that cannot be decoded.
        """
        if return_all_dims and target_dim is not None:
            raise InputError(f"target_dim={target_dim} and return_all_dims=True exclude each other; give one of them")
        if target_dim is not None:
            self.projection.check_dim(target_dim)
        early = None if depth is None or (type(depth) is int and depth == self.depths[-1]) else self._exit(depth)
        with gradients(self, audio):
            waveform, counts, single = as_batch(
                as_recordings(audio, sample_rate, target_rate=self.sample_rate, padded=lengths is not None),
                lengths,
                sample_rate=self.sample_rate,
                minimum_samples=self.backbone.minimum_samples,
                device=self.device,
            )
            if early is None:
                raw = self.project(self.backbone.pooled_statistics(waveform, counts), target_dim)
            else:
                raw = early(*self.backbone.early_statistics(waveform, counts, sums=[early.weighted_sum]), target_dim)
            if single:
                raw = raw.squeeze(0)
            if return_all_dims:
                return {dim: unit_prefix(raw, dim) for dim in self.mrl_dims}
            return unit_prefix(raw, raw.shape[-1])

    def pooled_statistics(self, audio: Audio, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return pooled statistics ``(batch, pooled_dim)``, before their BatchNorm: what stage 1 trains on, computed once."""
        return self.backbone.pooled_statistics(audio, lengths)

    def project(self, pooled: Tensor, target_dim: int | None = None) -> Tensor:
        """Map pooled statistics ``(batch, pooled_dim)`` to raw embeddings ``(batch, target_dim)``, not of unit length.

        Under autocast too, the head computes in the precision of its weights: it is small, and angles near zero lose their
        meaning in half precision.
        """
        if torch.is_autocast_enabled(pooled.device.type):
            with torch.autocast(pooled.device.type, enabled=False):
                return self.project(pooled.to(self.projection.weight.dtype), target_dim)
        raw: Tensor = self.projection(self.backbone.normalise_pooled(pooled), target_dim)
        return raw

    def add_exits(self, depths: Iterable[int]) -> None:
        """Make room for exits after these stages; :func:`mrl.fit_exits` does so and fits them.

        An exit that exists already is replaced. The model goes into eval mode: with exits it cannot be trained.

        Raises:
            InputError: a depth that is not from 1 to one less than the stages of the network.
            TrainingError: this model is an inference copy.
        """
        self.backbone.refuse_copy("given exits")
        for depth in [checked_exit_depth(each, self.backbone.num_stages) for each in depths]:
            self.exits[str(depth)] = EarlyExit(self.backbone, depth, self.embed_dim)
        if self.exits:
            self.eval()

    def remove_exits(self) -> None:
        """Leave the whole network alone, which may then be trained."""
        self.exits = nn.ModuleDict()

    @torch.no_grad()
    def at_depth(self, depth: int) -> ReDimNetMRL:
        """Return the first stages as a smaller model of its own (a copy), with the results of ``depth``.

        It holds no later stages and no exits, and goes wherever a whole model goes: it is saved, exported and optimised for
        inference like one. :attr:`cut` says where it comes from. The whole depth gives a copy without exits.

        Raises:
            InputError: a depth that the model does not have.
            TrainingError: this model is an inference copy; cut first.
        """
        self.backbone.refuse_copy("cut")
        if type(depth) is int and depth == self.depths[-1]:
            whole = copy.deepcopy(self)
            whole.remove_exits()
            return whole.eval()
        early = self._exit(depth)
        result = ReDimNetMRL(cut_backbone(self.backbone, early), self.embed_dim, self.mrl_dims)
        result.projection.load_state_dict(early.projection.state_dict())
        result.backbone_is_unmodified = False  # its own embedding is the exit's, not the pretrained one
        whole_sha256 = state_sha256(self, without="exits.") if self.cut is None else self.cut["whole_sha256"]
        stages = self.depths[-1] if self.cut is None else self.cut["stages"]
        result.cut = Cut(depth=depth, stages=stages, whole_sha256=whole_sha256)
        return result.eval()

    def _exit(self, depth: int) -> EarlyExit:
        early = self.exits[str(depth)] if type(depth) is int and str(depth) in self.exits else None
        if not isinstance(early, EarlyExit):
            raise InputError(
                f"depth={depth!r} is not available; this model has {', '.join(map(str, self.depths))} "
                f"({self.depths[-1]} is the whole network); mrl fit-exits, or mrl.fit_exits, adds others"
            )
        return early

    def freeze_backbone(self) -> None:
        """Keep every parameter and buffer of the backbone as it is, whatever ``train()`` says, until it is unfrozen."""
        self.backbone_frozen = True
        self.backbone.requires_grad_(False)
        self.train(self.training)

    def unfreeze_backbone(self, batch_norm_statistics: BatchNormStatistics = "frozen") -> None:
        """Let the backbone train: encoder, pooling and the BatchNorm of the pooled statistics.

        The pretrained embedding layer stays as it is, as the teacher. Running statistics of BatchNorm stay too unless
        ``batch_norm_statistics="update"``: fine-tuning on small or narrow data moves them away from what the weights expect.
        """
        self.backbone.refuse_copy("trained")
        if batch_norm_statistics not in ("frozen", "update"):
            raise InputError(f"batch_norm_statistics={batch_norm_statistics!r} is unknown; expected 'frozen' or 'update'")
        self.backbone_frozen = False
        self.batch_norm_statistics = batch_norm_statistics
        self._let_backbone_train()
        self.train(self.training)

    @property
    def updates_statistics(self) -> bool:
        """Whether training moves the running statistics of the backbone's BatchNorms."""
        return not self.backbone_frozen and self.batch_norm_statistics == "update"

    def train(self, mode: bool = True) -> ReDimNetMRL:
        """Switch between training and evaluation; what is frozen stays in evaluation mode."""
        if mode:
            self.backbone.refuse_copy("trained")
            if self.exits:
                raise TrainingError(
                    "a model with exits cannot be trained: they were fitted to the network as it is; call remove_exits(), train, "
                    "and fit them again"
                )
        super().train(mode)
        if self.backbone_frozen:
            self.backbone.eval()
            return self
        if self.batch_norm_statistics == "frozen":
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        if mode:
            self.backbone_is_unmodified = False
        return self

    def _let_backbone_train(self) -> None:
        # The pretrained embedding layer takes no part in the output; a parameter without gradient would halt DDP.
        self.backbone.requires_grad_(False)
        if self.backbone.inference_only:
            return
        for parameter in self.backbone.trainable_parameters(head=False):
            parameter.requires_grad_(True)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what training moves at this stage: the head, and the backbone's parts where it is not frozen."""
        yield from self.projection.parameters()
        if not self.backbone_frozen:
            yield from self.backbone.trainable_parameters(head=False)

    @torch.no_grad()
    def fit_projection(
        self, pooled: Tensor, labels: Tensor | None = None, *, method: Method = "rotation", **options: Any
    ) -> AffineMap:
        """Set the head in closed form from pooled statistics ``(utterances, pooled_dim)`` and speaker labels ``(utterances,)``.

        See :func:`mrl.matryoshka.fit_projection` for methods and options.

        Raises:
            InputError: unusable statistics, labels or options.
            TrainingError: the model has exits, which would still follow the old head, or is an inference copy.
        """
        self.backbone.refuse_copy("fitted")
        if self.exits:
            raise TrainingError(
                "the head of a model with exits cannot be fitted: they follow the head as it is; call remove_exits(), fit the "
                "head, and fit them again"
            )
        features = self.backbone.normalise_pooled(pooled.to(self.device)).double().cpu()
        options.setdefault("embed_dim", self.embed_dim)
        options.setdefault("base", pretrained_map(self.backbone))
        fitted = fit_projection(features, labels, method=method, **options)
        self.projection.assign(fitted)
        return fitted

    @torch.no_grad()
    def optimize_for_inference(
        self, *, dtype: torch.dtype = torch.float32, compile: bool = False, pack: bool = True
    ) -> ReDimNetMRL:
        """Return a faster copy for inference with the same results; this model stays as it is.

        See :meth:`Backbone.optimize_for_inference` for what is done and for the arguments. The copy cannot be trained or saved.
        With ``compile`` only the whole network is compiled; early exits stay as they are.

        Raises:
            InputError: a ``dtype`` that is not available on this processor.
            TrainingError: this model is such a copy already.
        """
        result = ReDimNetMRL(
            self.backbone.optimize_for_inference(dtype=dtype, compile=compile, pack=pack), self.embed_dim, self.mrl_dims
        )
        weight, bias = fold_norm(self.projection.weight, self.projection.bias, self.backbone.pooled_norm)
        result.projection.weight.copy_(weight)
        result.projection.bias.copy_(bias)
        for depth in self.depths[:-1]:
            result.exits[str(depth)] = self._exit(depth).inference_copy(self.backbone, result.backbone)
        result.backbone_frozen = True
        result.backbone_is_unmodified = self.backbone_is_unmodified
        result.cut = self.cut
        result.projection.requires_grad_(False)
        return result.eval()

    @torch.no_grad()
    def to_backbone(self) -> Backbone:
        """Return a plain backbone (a copy) whose embedding is this model's full raw embedding.

        :meth:`Backbone.to_official` then gives it in the official format: this is how a model trained from scratch becomes a
        checkpoint to start from.
        """
        self.backbone.refuse_copy("converted")
        result = self.backbone.with_embedding(self.embed_dim).to(self.device)
        kept = {
            k: v
            for k, v in self.backbone.state_dict().items()
            if not k.startswith(("embedding.", "embedding_norm.", "classifier."))
        }
        kept["embedding.weight"] = self.projection.weight.detach()
        kept["embedding.bias"] = self.projection.bias.detach()
        result.load_state_dict(kept)
        return result.eval()

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        training: dict[str, Any] | None = None,
        release: Release | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write ``model.safetensors``, ``config.json`` and a model card ``README.md`` into ``folder``, each atomically.

        Args:
            folder: made if absent.
            training: facts on the training (data, measured error rates) for the model card and ``config.json``.
            release: what is stated to others about the model, for both.
            dtype: of the weights in the file: float32, or float16 for half the size, see
                :func:`mrl.matryoshka.saving.in_half_precision`. The model that is loaded again computes in float32.

        Raises:
            InputError: another ``dtype``.
        """
        self.backbone.refuse_copy("saved")
        if dtype not in (torch.float32, torch.float16):
            raise InputError(f"dtype={dtype} cannot be saved; expected torch.float32 or torch.float16")
        tensors: dict[str, Tensor] = self.state_dict()
        if dtype == torch.float16:
            tensors = in_half_precision(tensors, {name for name, _ in self.named_buffers()})
        description = {
            "embed_dim": self.embed_dim,
            "mrl_dims": list(self.mrl_dims),
            "sample_rate": self.sample_rate,
            "weights_dtype": str(dtype).removeprefix("torch."),
            "exits": list(self.depths[:-1]),
            "cut": self.cut,
            "backbone_is_unmodified": self.backbone_is_unmodified,
            "pretrained_source": self.backbone.pretrained_source,
            "family": self.backbone.family,
            "model_config": self.backbone.config.to_model_config(),
            "training": training,
            "release": None if release is None else release.to_dict(),
        }
        write_model_folder(folder, tensors, description)

    def push_to_hub(
        self,
        repository: str,
        *,
        training: dict[str, Any] | None = None,
        release: Release | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> str:
        """Save the model and upload it to the Hugging Face Hub; return the address of the commit.

        A folder with a calibration is shared by ``mrl push``, or :func:`mrl.pretrained.push_model_folder`.

        Args:
            repository: ``"org/name"``; made if absent.
            training, release, dtype: as for :meth:`save_pretrained`.
            options: private, revision, message, token; see :func:`mrl.pretrained.push_model_folder`.

        Raises:
            InputError, DownloadError, MissingDependencyError: as for :func:`mrl.pretrained.push_model_folder`.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, training=training, release=release, dtype=dtype)
            return push_model_folder(folder, repository, **options)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | None = None,
    ) -> ReDimNetMRL:
        """Load a model that :meth:`save_pretrained` wrote, one that comes with the package, or one of the Hub, in eval mode.

        Args:
            folder: a model folder, a name of :func:`mrl.bundled_models` such as ``"mrl-b0-demo"``, or a repository ``"org/name"``
                of the Hugging Face Hub. A folder that exists wins over a name.
            device: where the model goes.
            revision, token: of a repository on the Hub, see :func:`mrl.pretrained.fetch_model_folder`.

        Raises:
            CheckpointError: no such folder or name, or the folder or a file in it is damaged or of another kind.
            InputError, DownloadError, MissingDependencyError: as for :func:`mrl.pretrained.fetch_model_folder`.
        """
        config, tensors = read_model_folder(model_folder(folder, revision=revision, token=token))
        try:
            # Version 0.1 knew one family and named none.
            network, described = family_named(config.get("family")), config["model_config"]
            require_size(lambda: cls(network.from_model_config(described), config["embed_dim"], config["mrl_dims"]), tensors)
            backbone = network.from_model_config(described)
            model = cls(backbone, config["embed_dim"], config["mrl_dims"])
            if config.get("sample_rate", model.sample_rate) != model.sample_rate:
                raise CheckpointError(f"sample_rate is {config['sample_rate']} Hz, but its network takes {model.sample_rate} Hz")
            model.add_exits(config.get("exits", ()))  # absent in folders of earlier versions
            model.cut = read_cut(config.get("cut"), model.depths[-1])
            model.load_state_dict(tensors, strict=True)  # float16 weights are copied into float32 parameters
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, MemoryError, MRLError) as error:
            # Errors of Python's own where a value is of another kind.
            detail = said(error, most=400)
            raise CheckpointError(f"{folder} does not hold the model that its config.json describes: {detail}") from error
        backbone.pretrained_source = config["pretrained_source"]
        model.backbone_is_unmodified = bool(config["backbone_is_unmodified"])
        return model.to(device).eval()


def unit_prefix(raw: Tensor, dim: int) -> Tensor:
    """Return the first ``dim`` dimensions of raw embeddings ``(..., embed_dim)``, scaled to unit length, in float32."""
    return nn.functional.normalize(raw[..., :dim].float(), dim=-1)


def checked_dims(mrl_dims: Iterable[int], embed_dim: int) -> tuple[int, ...]:
    """Return prefix lengths sorted, each once, with the full length among them.

    Raises:
        InputError: one is not a whole number from 1 to ``embed_dim``, or there is none.
    """
    dims = list(mrl_dims)
    wrong = [dim for dim in dims if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= embed_dim]
    if wrong or not dims:
        raise InputError(f"mrl_dims={dims} cannot be used; expected whole numbers from 1 to embed_dim={embed_dim}")
    return tuple(sorted({*dims, embed_dim}))
