"""Teachers of a distillation: networks with the waveform in and an embedding out, and files of embeddings computed before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mrl.audio import SAMPLE_RATE, Augmenter
from mrl.backbone.state_hash import state_sha256
from mrl.data import Batch, Corpus, CropDataset, Draw, PooledCache, View, ViewSettings, cache_key, load_batches
from mrl.data.crops import ChangesSpeed, Waveform
from mrl.distribution import Processes
from mrl.embeddings import load_embeddings
from mrl.embeddings.formats import holds_embeddings
from mrl.embeddings.opening import EXPORTED_SUFFIX, open_model
from mrl.errors import CheckpointError, ConfigError, DataError
from mrl.files import sha256_of
from mrl.runtime.session import open_session
from mrl.training.config import TrainConfig
from mrl.training.data import TrainingData
from mrl.training.stages import FollowFunction
from mrl.training.starting import fill_cache, first_members, of_whole_utterances
from mrl.training.system import TrainingSystem

_SHORTEST_SECONDS = 0.5
_NAMES_SHOWN = 3


class TeacherNetwork(Protocol):
    """Waveforms at 16 kHz -> raw embeddings, without gradient.

    Attributes:
        dim: length of its embedding.
        fingerprint: changes whenever its embeddings may change; part of the key of caches.
    """

    dim: int
    fingerprint: str

    def __call__(self, audio: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """``(batch, samples)``, and ``(batch,)`` samples per item where they differ -> ``(batch, dim)``."""
        ...


class OnnxTeacher:
    """An ONNX file of anyone's: one input ``(batch, samples)``, the first output ``(batch, dim)``, batch and length free.

    It need not know of padding: recordings of unequal length are computed one length at a time.

    Args:
        path: the file.
        threads: of ONNX Runtime; PyTorch's number when None.

    Raises:
        CheckpointError: the file is damaged, or takes or gives something else.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, threads or torch.get_num_threads())
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise CheckpointError(f"{self.path} takes {found}; a teacher takes one float input (batch, samples) at 16 kHz")
        self._input = inputs[0].name
        self._output = self._session.get_outputs()[0].name
        probe = self._run(np.random.default_rng(0).standard_normal((1, SAMPLE_RATE)).astype(np.float32) * 0.1)
        if probe.ndim != 2 or len(probe) != 1:
            raise CheckpointError(f"{self.path} gives {probe.shape} for one second; a teacher gives (batch, dim)")
        self.dim = int(probe.shape[1])
        self.fingerprint = sha256_of(self.path)

    def __call__(self, audio: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        waveforms = audio.detach().float().cpu().numpy()
        rows = torch.empty(len(waveforms), self.dim)
        counts = [waveforms.shape[1]] * len(waveforms) if lengths is None else lengths.tolist()
        for count, places in _by_length(counts):
            rows[places] = torch.from_numpy(self._run(waveforms[places, :count]))
        return rows.to(audio.device)

    def _run(self, waveforms: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        # Shorter ones give no frames, or too few for the layers of usual networks: repeated, as crops are.
        shortest = round(_SHORTEST_SECONDS * SAMPLE_RATE)
        if waveforms.shape[1] < shortest:
            waveforms = np.tile(waveforms, (1, -(-shortest // waveforms.shape[1])))[:, :shortest]
        try:
            (found,) = self._session.run([self._output], {self._input: np.ascontiguousarray(waveforms)})
        except Exception as error:  # ONNX Runtime's classes derive from Exception only and differ between versions
            detail = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{self.path} cannot take waveforms {waveforms.shape} ({detail}); a teacher takes any batch and length"
            ) from error
        return np.asarray(found, dtype=np.float32)


class ModelTeacher:
    """A model folder, an official checkpoint, or a model by its name: anything that ``mrl embed --model`` takes but ``.onnx``.

    Raises:
        InputError, CheckpointError, DownloadError: see :func:`mrl.embeddings.opening.open_model`.
    """

    def __init__(self, spec: str, device: torch.device) -> None:
        network = open_model(spec, device=device)
        assert isinstance(network, torch.nn.Module)  # exported files are taken by OnnxTeacher
        self._network: Any = network.requires_grad_(False)
        self.dim = int(self._network.embed_dim)
        self.fingerprint = state_sha256(self._network)

    @torch.no_grad()
    def __call__(self, audio: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        network = self._network
        pooled = (network if not hasattr(network, "backbone") else network.backbone).pooled_statistics(audio, lengths)
        raw: torch.Tensor = network.project(pooled) if hasattr(network, "project") else network.embed_pooled(pooled)
        return raw


def open_teacher(spec: str, device: torch.device) -> TeacherNetwork:
    """Open the network that ``distillation.teacher`` names.

    Raises:
        InputError, CheckpointError, DownloadError, MissingDependencyError: it cannot be had or used.
    """
    if spec.lower().endswith(EXPORTED_SUFFIX):
        return OnnxTeacher(spec)
    return ModelTeacher(spec, device)


def read_teacher_embeddings(path: str, corpus: Corpus, root: str | None) -> npt.NDArray[np.float32]:
    """Return the teacher's embedding of each utterance ``(utterances, dim)``, from a file with one row per recording.

    Ids are matched as paths: as they stand, and relative to ``root``, which is by default found by trying the folders above the
    first recording.

    Raises:
        DataError: the file lacks an utterance, or holds something that is not finite.
        ConfigError: an utterance is a part of a recording, or a speed copy, for which such a file has no row.
    """
    table = load_embeddings(path)
    rows = {name: row for row, name in enumerate(table.ids)}
    parts = [one for one in corpus.utterances if one.speed != 1.0 or one.start]
    if parts:
        raise ConfigError(
            f"distillation.teacher: {path} has one row per recording, but {parts[0].path} is trained on at speed "
            f"{parts[0].speed:g} from {parts[0].start:g} s; take a network as the teacher, or leave out data.speeds and stretches"
        )
    base = Path(root).absolute() if root is not None else _common_root(corpus, rows)
    chosen: list[int] = []
    missing: list[str] = []
    for one in corpus.utterances:
        row = next((rows[name] for name in _names(one.path, base) if name in rows), None)
        if row is None:
            missing.append(str(one.path))
        else:
            chosen.append(row)
    if missing:
        shown = ", ".join(missing[:_NAMES_SHOWN])
        raise DataError(
            f"{path} has no embedding of {len(missing)} of {len(corpus)} training utterances ({shown}); its ids are such as "
            f"{table.ids[0]!r}: set distillation.root to the folder they start from, or filter data.train.where"
        )
    found = table.matrix[chosen]
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1) | ~found.any(axis=1))
    if len(bad):
        raise DataError(
            f"{path}: {len(bad)} embeddings are zero or not finite, the first is of {corpus.utterances[int(bad[0])].path}; "
            "compute them again"
        )
    return found


def _names(path: Path, base: Path | None) -> Iterator[str]:
    yield str(path)
    absolute = path.absolute()
    if base is not None and absolute.is_relative_to(base):
        yield absolute.relative_to(base).as_posix()


def _common_root(corpus: Corpus, rows: dict[str, int]) -> Path | None:
    first = corpus.utterances[0].path.absolute()
    return next((folder for folder in first.parents if first.relative_to(folder).as_posix() in rows), None)


def _by_length(counts: Sequence[int]) -> list[tuple[int, list[int]]]:
    groups: dict[int, list[int]] = {}
    for place, count in enumerate(counts):
        groups.setdefault(count, []).append(place)
    return sorted(groups.items())


class SameSpeed(ChangesSpeed):
    """Leaves a crop as it is, but takes it at the speed that an augmentation takes it at: another speed is another voice."""

    def __init__(self, augmenter: Augmenter) -> None:
        self._augmenter = augmenter

    def __call__(self, waveform: Waveform, seed: int, /) -> Waveform:
        return waveform

    def draw_speed(self, rng: np.random.Generator) -> float:
        return self._augmenter.draw_speed(rng)


class DistillationTeacher:
    """Gives the teacher's raw embedding for whatever the student is given: of whole utterances, clean crops, or the same audio.

    What does not change from epoch to epoch (whole utterances; the cached views of stage 1) is computed once and kept in the
    cache of the run; a file of embeddings is read as it is.

    Args:
        config: all settings; ``distillation.teacher`` is set.
        data: what is trained on.
        device: where a torch teacher goes.

    Raises:
        ConfigError, DataError, InputError, CheckpointError, DownloadError, MissingDependencyError: the teacher cannot be had, or
            does not fit the data.
    """

    def __init__(self, config: TrainConfig, data: TrainingData, device: torch.device) -> None:
        self._config = config
        self._data = data
        self._audio = config.distillation.audio
        spec = config.distillation.teacher
        assert spec is not None
        self._table: npt.NDArray[np.float32] | None = None
        self._network: TeacherNetwork | None = None
        if holds_embeddings(spec):
            root = config.distillation.root or config.data.train.root
            self._table = read_teacher_embeddings(spec, data.corpus, root)
            self.dim = int(self._table.shape[1])
        else:
            self._network = open_teacher(spec, device)
            self.dim = self._network.dim
        self._whole: PooledCache | None = None
        self._views: PooledCache | None = None
        self._device = device

    def prepare(self, run_folder: Path, processes: Processes, *, cached_views: bool) -> None:
        """Compute what is kept: the whole utterances, and with ``cached_views`` those of stage 1."""
        if self._network is None:
            return
        advanced = self._config.advanced
        base = Path(advanced.cache_dir) if advanced.cache_dir is not None else run_folder / "cache"
        if self._audio == "whole":
            self._whole = self._cache(base, processes, views=1)
        elif cached_views:
            self._views = self._cache(base, processes, views=advanced.cache_views)

    def of_utterances(self, members: Sequence[int]) -> torch.Tensor:
        """Return raw embeddings ``(len(members), dim)`` of whole utterances, at most ``advanced.cache_max_seconds`` of each."""
        if self._table is not None:
            return torch.from_numpy(self._table[list(members)])
        if self._whole is not None or self._views is not None:
            cache = self._whole or self._views
            assert cache is not None
            return torch.from_numpy(cache.read([View(index, 0) for index in members]))
        assert self._network is not None
        return of_whole_utterances(
            self._network,
            self.dim,
            self._data.corpus,
            members,
            max_seconds=self._config.advanced.cache_max_seconds,
            num_workers=self._config.training.num_workers,
            what="the teacher's embeddings",
        )

    def of_views(self, views: Sequence[View]) -> torch.Tensor:
        """Return raw embeddings ``(len(views), dim)`` for the cached views of stage 1."""
        if self._views is not None:
            return torch.from_numpy(self._views.read(list(views)))
        return self.of_utterances([view.utterance for view in views])

    @torch.no_grad()
    def fit(self, system: TrainingSystem) -> None:
        """Fit the space that embeddings are compared in, and the classes in it, to training utterances."""
        assert system.space is not None
        corpus = self._data.corpus
        members = first_members(self._config, corpus)
        raw = self.of_utterances(members)
        system.space.fit(raw, centre=self._config.distillation.centre)
        if system.posteriors is not None:
            device = system.space.mean.device
            labels = torch.tensor([corpus.labels[index] for index in members], device=device)
            system.posteriors.fit(system.space(raw.to(device)), labels)

    def targets_in(self, system: TrainingSystem) -> Callable[[Sequence[int]], torch.Tensor]:
        """Return what gives the teacher's embeddings of utterances in its space."""
        space = system.space
        assert space is not None
        return lambda members: space(self.of_utterances(members).to(space.mean.device))

    def following(self, crops: CropDataset) -> FollowFunction:
        """Return what gives each batch of these crops with the teacher's raw embeddings ``(batch, dim)``."""
        network, augmenter, workers = self._network, self._data.augmenter, self._config.training.num_workers

        def of_whole(batches: Sequence[Sequence[Draw]], loaded: Iterator[Batch]) -> Iterator[tuple[Batch, torch.Tensor]]:
            for draws, batch in zip(batches, loaded, strict=True):
                yield batch, self.of_utterances([draw.utterance for draw in draws])

        def of_same(batches: Sequence[Sequence[Draw]], loaded: Iterator[Batch]) -> Iterator[tuple[Batch, torch.Tensor]]:
            assert network is not None
            for batch in loaded:
                yield batch, network(batch.audio.to(self._device))

        def of_clean(batches: Sequence[Sequence[Draw]], loaded: Iterator[Batch]) -> Iterator[tuple[Batch, torch.Tensor]]:
            assert network is not None and augmenter is not None
            seconds = crops.crop_samples / SAMPLE_RATE
            clean = CropDataset(self._data.corpus, seconds, seed=crops.seed, augment=SameSpeed(augmenter))
            for batch, heard in zip(loaded, load_batches(clean, batches, num_workers=workers), strict=True):
                yield batch, network(heard.audio.to(self._device))

        if self._audio == "whole" or network is None:
            return of_whole
        return of_same if self._audio == "augmented" or augmenter is None else of_clean

    def _cache(self, base: Path, processes: Processes, *, views: int) -> PooledCache:
        assert self._network is not None
        config, augmenter = self._config, self._data.augmenter
        settings = ViewSettings(
            views=views,
            max_seconds=config.advanced.cache_max_seconds,
            crop_seconds=config.data.crop_seconds,
            seed=config.training.seed,
        )
        heard = SameSpeed(augmenter) if augmenter is not None and self._audio == "crop" else augmenter
        described = {"teacher_hears": self._audio, **(augmenter.settings() if augmenter else {})}
        key = cache_key(f"teacher {self._network.fingerprint}", self._data.corpus, settings, described)
        return fill_cache(
            base / key,
            self._data.corpus,
            settings,
            self._network,
            self.dim,
            augment=heard,
            num_workers=config.training.num_workers,
            processes=processes,
            what="the teacher's embeddings",
        )
