"""Teachers of a distillation: networks with the waveform in and an embedding out, and files of embeddings computed before."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mrl.audio import SAMPLE_RATE, Augmenter
from mrl.backbone.state_hash import state_sha256
from mrl.data import Batch, Corpus, CropDataset, Draw, PooledCache, View, ViewSettings, cache_key
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
from mrl.training.starting import cache_base, fill_cache, start_members
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
            described = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise CheckpointError(f"{self.path} takes {described}; a teacher takes one float input (batch, samples) at 16 kHz")
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
            (embeddings,) = self._session.run([self._output], {self._input: np.ascontiguousarray(waveforms)})
        except Exception as error:  # ONNX Runtime's classes derive from Exception only and differ between versions
            detail = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{self.path} cannot take waveforms {waveforms.shape} ({detail}); a teacher takes any batch and length"
            ) from error
        return np.asarray(embeddings, dtype=np.float32)


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

    Ids are matched as paths: as given, and relative to ``root``, which is by default found by trying the folders above the
    first recording.

    Raises:
        DataError: the file lacks an utterance, or holds something that is not finite.
        ConfigError: an utterance is a part of a recording, or a speed copy, for which such a file has no row.
    """
    table = load_embeddings(path)
    rows = {name: row for row, name in enumerate(table.ids)}
    parts = [utterance for utterance in corpus.utterances if utterance.speed != 1.0 or utterance.start]
    if parts:
        raise ConfigError(
            f"distillation.teacher: {path} has one row per recording, but {parts[0].path} is trained on at speed "
            f"{parts[0].speed:g} from {parts[0].start:g} s; take a network as the teacher, or leave out data.speeds and stretches"
        )
    base = Path(root).absolute() if root is not None else _common_root(corpus, rows)
    chosen: list[int] = []
    missing: list[str] = []
    for utterance in corpus.utterances:
        row = next((rows[name] for name in _names(utterance.path, base) if name in rows), None)
        if row is None:
            missing.append(str(utterance.path))
        else:
            chosen.append(row)
    if missing:
        shown = ", ".join(missing[:_NAMES_SHOWN])
        raise DataError(
            f"{path} has no embedding of {len(missing)} of {len(corpus)} training utterances ({shown}); its ids are such as "
            f"{table.ids[0]!r}: set distillation.root to the folder they start from, or filter data.train.where"
        )
    matrix = table.matrix[chosen]
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1) | ~matrix.any(axis=1))
    if len(bad):
        raise DataError(
            f"{path}: {len(bad)} embeddings are zero or not finite, the first is of {corpus.utterances[int(bad[0])].path}; "
            "compute them again"
        )
    return matrix


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


class _BothSides(SameSpeed):
    """Augments, and puts the clean crop behind the result."""

    def __call__(self, waveform: Waveform, seed: int, /) -> Waveform:
        return np.concatenate([self._augmenter(waveform, seed), waveform])


class TaughtCrops(CropDataset):
    """Crops labelled by their utterance in place of its speaker; one that cannot be read is replaced by another.

    With ``both_sides`` a crop comes with its clean self behind it, twice as long.
    """

    def __init__(self, *settings: Any, both_sides: bool, **more: Any) -> None:
        super().__init__(*settings, **more)
        if both_sides:
            assert isinstance(self.augment, Augmenter)
            self.augment = _BothSides(self.augment)

    def __getitem__(self, draw: Draw) -> tuple[Waveform, int]:
        return super().__getitem__(draw)[0], draw.utterance


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
            if self._audio != "whole":
                raise ConfigError(
                    f"distillation.audio: {self._audio} needs a network to hear crops; {spec} has an embedding per recording"
                )
            root = config.distillation.root or config.data.train.root
            self._table = read_teacher_embeddings(spec, data.corpus, root)
            self.dim = int(self._table.shape[1])
        else:
            self._network = open_teacher(spec, device)
            self.dim = self._network.dim
        self._cache: PooledCache | None = None
        self._kept = data  # what the cache is of
        self._places: dict[int, int] | None = None  # of utterances in it, where it is of some only
        self._clean_side = self._audio == "crop" and data.augmenter is not None
        self._labels = torch.as_tensor(np.asarray(data.corpus.labels, dtype=np.int64))
        self._device = device

    def prepare(self, run_folder: Path, processes: Processes, *, cached_views: bool) -> None:
        """Compute what is kept, all processes together.

        With ``audio: whole`` that is all utterances; with ``cached_views`` all views of stage 1; otherwise the utterances that
        the start is fitted to.
        """
        if self._network is None:
            return
        config, augmenter = self._config, self._data.augmenter
        if self._audio != "whole" and not cached_views:
            members = start_members(config, self._data.corpus)
            self._places = {index: place for place, index in enumerate(members)}
            excluded = frozenset(self._places[index] for index in members if index in self._data.excluded)
            chosen = Corpus.in_order(self._data.corpus.utterances[index] for index in members)
            self._kept = TrainingData(self._data.original, chosen, None, excluded)
        views = config.advanced.cache_views if self._audio != "whole" and cached_views else 1
        settings = ViewSettings(views, config.advanced.cache_max_seconds, config.data.crop_seconds, config.training.seed)
        described = {"teacher_hears": self._audio, **(augmenter.settings() if augmenter else {})}
        key = cache_key(
            f"teacher {self._network.fingerprint}",
            self._kept.corpus,
            settings,
            described,
            storage=config.advanced.cache_storage,
            excluded=self._kept.excluded,
        )
        self._cache = fill_cache(
            config,
            cache_base(config, run_folder) / key,
            self._kept,
            settings,
            self._network,
            self.dim,
            augment=SameSpeed(augmenter) if augmenter is not None and self._clean_side else augmenter,
            processes=processes,
            what="the teacher's embeddings",
        )

    @torch.no_grad()
    def fit(self, system: TrainingSystem) -> None:
        """Fit the space that embeddings are compared in, and the classes in it, to training utterances."""
        assert system.space is not None
        bad = set() if self._cache is None else {view.utterance for view in self._cache.bad if view.view == 0}
        members = start_members(self._config, self._data.corpus)
        places = self._places or {index: index for index in members}
        members = [index for index in members if index not in self._data.excluded and places[index] not in bad]
        raw = self.of_utterances(members)
        system.space.fit(raw, centre=self._config.distillation.centre)
        if system.posteriors is not None:
            device = system.space.mean.device
            system.posteriors.fit(system.space(raw.to(device)), self._labels[members].to(device))

    def targets_in(self, system: TrainingSystem) -> Callable[[Sequence[int]], torch.Tensor]:
        """Return what gives the teacher's embeddings of utterances in its space."""
        space = system.space
        assert space is not None
        return lambda members: space(self.of_utterances(members).to(space.mean.device))

    def of_utterances(self, members: Sequence[int]) -> torch.Tensor:
        """Return raw embeddings ``(len(members), dim)`` of whole utterances, at most ``advanced.cache_max_seconds`` of each.

        Raises:
            DataError: the teacher has none of an utterance.
        """
        if self._table is not None:
            return torch.from_numpy(self._table[list(members)])
        return self._read([View(index, 0) for index in members])

    def of_views(self, views: Sequence[View]) -> torch.Tensor:
        """Return raw embeddings ``(len(views), dim)`` for the cached views of stage 1."""
        if self._audio == "whole":
            return self.of_utterances([view.utterance for view in views])
        return self._read(views)

    def crops(self, corpus: Corpus, crop_seconds: float, **settings: Any) -> TaughtCrops:
        """Return the crops of which :meth:`of_batch` knows the embeddings; settings are those of a CropDataset."""
        return TaughtCrops(corpus, crop_seconds, both_sides=self._clean_side, **settings)

    def of_batch(self, batch: Batch) -> tuple[Batch, torch.Tensor]:
        """Return the batch to learn from, and raw embeddings ``(batch, dim)``, for a batch of :meth:`crops`."""
        utterances = batch.labels
        audio = heard = batch.audio
        if self._clean_side:
            audio, heard = batch.audio.chunk(2, dim=1)
        learnt = dataclasses.replace(
            batch, audio=audio, lengths=torch.full_like(batch.lengths, audio.shape[1]), labels=self._labels[utterances]
        )
        if self._audio == "whole":
            return learnt, self.of_utterances(utterances.tolist())
        assert self._network is not None
        return learnt, self._network(heard.to(self._device))

    def _read(self, views: Sequence[View]) -> torch.Tensor:
        assert self._cache is not None  # prepare() has been called
        if self._places is not None:
            views = [View(self._places[view.utterance], view.view) for view in views]
        missing = next((view for view in views if view in self._cache.bad), None)
        if missing is not None:
            path = self._kept.corpus.utterances[missing.utterance].path
            raise DataError(f"the teacher has no embedding of {path} ({self._cache.bad[missing]}); put it on data.train.exclude")
        return torch.from_numpy(self._cache.read(list(views)))
