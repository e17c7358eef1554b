"""Whether an exported file gives what the PyTorch network gives: over lengths and batch sizes, and on a trial list."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mrl.audio import SAMPLE_RATE, SyntheticVoice, find_audio_files, load_audio
from mrl.backbone import Backbone
from mrl.bounded import read_json_object, read_safetensors, require_floats
from mrl.deployment.formats import Runner, card_of, files_of, open_runner, self_test_of
from mrl.deployment.network import ConvolutionalLogMel, InputKind, Model, backbone_of
from mrl.deployment.onnx_graph import MINIMUM_COSINE
from mrl.embeddings import Extraction
from mrl.embeddings.networks import NetworkEmbedder
from mrl.errors import AudioLoadingError, CheckpointError, DataError, ExportError, InputError
from mrl.files import sha256_of, write_safetensors
from mrl.scoring.cosine import score_prefixes
from mrl.scoring.metrics import equal_error_rate
from mrl.trials.lists import TrialList

# The PyTorch network as what an exported file is held against, and the inputs for both.


Matrix = npt.NDArray[np.float32]


_VOICE_SECONDS = 12.0


_CALIBRATION_RECORDINGS = 64


_CALIBRATION_SECONDS = 4.0


class Reference:
    """A model's own embeddings, computed by PyTorch, and the input that an exported form of it takes for the same recordings.

    Args:
        model: the network, in eval mode on the CPU.
        kind: what goes into the exported form.
    """

    def __init__(self, model: Model, kind: InputKind) -> None:
        self.model = model
        self.kind = kind
        self._embedder = NetworkEmbedder(model)
        self._log_mel = ConvolutionalLogMel(backbone_of(model)) if kind == "features" else None

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms, in Hz."""
        return self.model.sample_rate

    def raw(self, batch: Matrix) -> Matrix:
        """``(batch, samples)`` -> raw embeddings ``(batch, embed_dim)`` by PyTorch."""
        return self._embedder.raw(list(batch))

    def feed(self, batch: Matrix) -> Matrix:
        """``(batch, samples)`` -> the input of the exported form: the same, or features ``(batch, frames, bands)``."""
        if self._log_mel is None:
            return batch
        with torch.inference_mode():
            features: Matrix = self._log_mel(torch.from_numpy(batch)).contiguous().numpy()
        return features


def synthetic_speech(batch: int, seconds: float, *, sample_rate: int = SAMPLE_RATE, seed: int = 0) -> Matrix:
    """Return ``(batch, samples)`` of different synthetic voices, on the grid of 16-bit samples; long ones repeat themselves."""
    samples = round(seconds * sample_rate)
    rows = []
    for row in range(batch):
        rng = np.random.default_rng((seed, row))
        said = SyntheticVoice.random(rng).say(rng, min(_VOICE_SECONDS, samples / SAMPLE_RATE + 0.1))
        rows.append(np.resize(said, samples))
    return np.stack([np.round(row * 2.0**15) / 2.0**15 for row in rows]).astype(np.float32)


def calibration_waveforms(folder: Path, minimum_samples: int) -> list[Matrix]:
    """Return the beginnings (samples,), 4 s at most, of up to 64 recordings from all over a folder.

    Raises:
        DataError: the folder does not exist or holds no recording that can be used.
        InputError: it is not a folder.
    """
    if folder.is_file():
        raise InputError(f"calibration audio {folder} is a file; give a folder with recordings like those to come")
    files = find_audio_files(folder)
    step = max(1, len(files) // _CALIBRATION_RECORDINGS)
    waveforms = []
    reason = "it holds none"
    for file in files[::step][:_CALIBRATION_RECORDINGS]:
        try:
            waveform = load_audio(file, duration=_CALIBRATION_SECONDS)
        except AudioLoadingError as error:
            reason = str(error)
            continue
        if len(waveform) >= minimum_samples:
            waveforms.append(waveform)
    if not waveforms:
        raise DataError(f"no recording below {folder} can be used for calibration ({reason})")
    return waveforms


# How much memory a comparison needs, and how much there is: so that a check never brings the machine down.


_FLOAT_BYTES = 4


# Measured with ONNX Runtime for b0, b2 and b5 at 60 s: 6 to 15 maps of the widest stage, and two products over pairs of frames.
_MAPS = 16


_PAIRS = 2


_SHARE = 0.5


_WITHOUT_KNOWLEDGE = 2**31


_MEMORY = Path("/proc/meminfo")


_GROUP = Path("/sys/fs/cgroup")


def estimated_bytes(backbone: Backbone, batch: int, seconds: float) -> int:
    """Return about how many bytes a runtime without fused attention takes at most for ``batch`` recordings of ``seconds``."""
    frames = 1 + round(seconds * backbone.sample_rate) // backbone.front_end.config.hop_length
    per_recording = _MAPS * backbone.encoder.numbers_per_frame * frames + _PAIRS * frames * frames
    return _FLOAT_BYTES * batch * per_recording


def fits_memory(num_bytes: int) -> bool:
    """Return whether ``num_bytes`` are at most half of the memory that is free; where that is unknown, whether they are 2 GiB."""
    free = free_bytes()
    return num_bytes <= (_WITHOUT_KNOWLEDGE if free is None else _SHARE * free)


def free_bytes() -> int | None:
    """Return how much memory this process may still take, with the limit of its container; None where Linux does not say."""
    limits = []
    if _MEMORY.is_file():
        for line in _MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(1024 * int(line.split()[1]))
    limit, used = _number(_GROUP / "memory.max"), _number(_GROUP / "memory.current")
    if limit is not None and used is not None:
        limits.append(max(0, limit - used))
    return min(limits, default=None)


def _number(file: Path) -> int | None:
    text = file.read_text(encoding="ascii").strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None


CHECKED_SHAPES = tuple((batch, seconds) for seconds in (0.3, 1.0, 3.0, 10.0, 60.0) for batch in (1, 8))
"""(recordings, seconds) of the comparisons."""


SAME_RATE = 5e-6
"""Equal error rates this near are the same to 0.001 percentage points, the last digit that anybody reports."""


_UNIT_LENGTH_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ParityPoint:
    """One comparison.

    Attributes:
        batch: recordings in the batch.
        seconds: length of each.
        cosine: smallest cosine between the file's embedding and the network's.
    """

    batch: int
    seconds: float
    cosine: float


@dataclass(frozen=True)
class TrialParity:
    """Equal error rates on a list, in 0..1, by prefix length: of the network, and of the file."""

    source: str
    trials: int
    network: dict[int, float]
    exported: dict[int, float]

    def largest_change(self) -> float:
        """Return the difference of largest size, exported minus network."""
        return max((self.exported[dim] - self.network[dim] for dim in self.network), key=abs)


def check_parity(
    reference: Reference,
    runner: Runner,
    *,
    shapes: Sequence[tuple[int, float]] = CHECKED_SHAPES,
    advance: Callable[[int], None] | None = None,
) -> tuple[ParityPoint, ...]:
    """Compare a file with the network on synthetic voices.

    Args:
        reference: the network.
        runner: the file.
        shapes: (recordings, seconds) of every comparison.
        advance: called after each comparison.

    Raises:
        ExportError: the file fails, gives another shape, NaN, or embeddings that are not of unit length.
    """
    points = []
    for batch, length in shapes:
        waveforms = synthetic_speech(batch, length, sample_rate=reference.sample_rate)
        expected = reference.raw(waveforms)
        try:
            outputs = runner(reference.feed(waveforms))
        except Exception as error:
            # Runtimes raise errors of their own kinds.
            detail = " ".join(str(error).split())[:160]
            raise ExportError(f"the exported file fails on a batch of {batch} x {length:g} s: {detail}") from error
        lengths = np.linalg.norm(outputs.embedding, axis=1)
        if outputs.embedding.shape != expected.shape or not np.allclose(lengths, 1.0, atol=_UNIT_LENGTH_TOLERANCE):
            raise ExportError(
                f"the exported file gives {outputs.embedding.shape} with lengths around {float(lengths.mean()):g} on a batch "
                f"of {batch} x {length:g} s; expected {expected.shape} of unit length"
            )
        smallest = min(row_cosines(expected, outputs.raw).min(), row_cosines(expected, outputs.embedding).min())
        points.append(ParityPoint(batch, length, float(smallest)))
        if advance is not None:
            advance(1)
    return tuple(points)


def shapes_that_fit(reference: Reference, shapes: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return the shapes, (recordings, seconds), whose comparison is sure not to take more than half of the free memory."""
    backbone = backbone_of(reference.model)
    return tuple(shape for shape in shapes if fits_memory(estimated_bytes(backbone, *shape)))


def require_cosine(points: Sequence[ParityPoint], minimum: float) -> None:
    """Raise :class:`ExportError` where a cosine lies below ``minimum``, NaN included."""
    failed = [point for point in points if not point.cosine >= minimum]
    if failed:
        worst = min(failed, key=lambda point: -np.inf if np.isnan(point.cosine) else point.cosine)
        raise ExportError(
            f"the exported file differs from the network in {len(failed)} of {len(points)} comparisons: cosine "
            f"{worst.cosine:.6f} on a batch of {worst.batch} x {worst.seconds:g} s, at least {minimum:g} is required; "
            "nothing was written"
        )


def row_cosines(first: Matrix, second: Matrix) -> npt.NDArray[np.float64]:
    """Return the cosine of each pair of rows, in float64."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    cosines: npt.NDArray[np.float64] = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosines


def network_embeddings(reference: Reference, trials: TrialList, root: str | os.PathLike[str]) -> Matrix:
    """Return the network's raw embeddings (utterances, embed_dim) of a trial list.

    Raises:
        DataError: missing or unreadable recordings (all counted).
    """
    return _embeddings(lambda batch: reference.raw(batch), trials, root, "embedding with PyTorch")


def exported_embeddings(reference: Reference, runner: Runner, trials: TrialList, root: str | os.PathLike[str]) -> Matrix:
    """Return a file's raw embeddings (utterances, embed_dim) of a trial list.

    Raises:
        DataError: missing or unreadable recordings (all counted).
    """
    return _embeddings(lambda batch: runner(reference.feed(batch)).raw, trials, root, "embedding with the exported file")


def compare_on_trials(network: Matrix, exported: Matrix, trials: TrialList, dims: Sequence[int]) -> TrialParity:
    """Return the equal error rates of two sets of embeddings (utterances, embed_dim) at each prefix length."""
    rates: list[Mapping[int, float]] = []
    for matrix in (network, exported):
        scores = score_prefixes(matrix, trials, dims)
        rates.append({dim: equal_error_rate(scores[dim], trials.labels) for dim in dims})
    return TrialParity(trials.source, len(trials), dict(rates[0]), dict(rates[1]))


def require_same_rates(parity: TrialParity) -> None:
    """Raise :class:`ExportError` where an equal error rate of the file is another one than the network's."""
    for dim, rate in parity.network.items():
        if abs(parity.exported[dim] - rate) > SAME_RATE:
            raise ExportError(
                f"on {parity.source} the exported file has an equal error rate of {100 * parity.exported[dim]:.4f} % at dim "
                f"{dim}, the network {100 * rate:.4f} %; they must be the same, nothing was written"
            )


def _embeddings(run: Callable[[Matrix], Matrix], trials: TrialList, root: str | os.PathLike[str], description: str) -> Matrix:
    trials.require_files(root)

    def one_by_one(waveforms: list[Matrix]) -> Matrix:
        return np.concatenate([run(waveform[None]) for waveform in waveforms])

    return Extraction().map(one_by_one, trials.paths(root), on_error="raise", description=description).matrices[0]


# A pair of inputs and expected embeddings beside every exported file, and the check that runs it again.


SELF_TEST_FORMAT = "redimnet-mrl-self-test/1"


_SECONDS = (1.0, 2.5)


_SEED = 1


@dataclass(frozen=True)
class CheckedFile:
    """What a check of an exported file found.

    Attributes:
        path: the file.
        precision: its precision.
        cosine: smallest cosine with the embeddings that the network gave when the file was written.
        minimum: the smallest that is accepted.
    """

    path: Path
    precision: str
    cosine: float
    minimum: float


def write_self_test(reference: Reference, path: Path) -> None:
    """Write inputs and the embeddings that PyTorch gives for them, as safetensors, atomically.

    ``input_N`` is what the file takes, ``(1, samples)`` or ``(1, frames, bands)``, ``expected_N`` the raw embedding ``(1, dim)``.
    """
    tensors: dict[str, npt.NDArray[Any]] = {}
    for number, seconds in enumerate(_SECONDS):
        waveform = synthetic_speech(1, seconds, sample_rate=reference.sample_rate, seed=_SEED + number)
        tensors[f"input_{number}"] = np.ascontiguousarray(reference.feed(waveform))
        tensors[f"expected_{number}"] = np.ascontiguousarray(reference.raw(waveform))
    write_safetensors(path, tensors, {"format": SELF_TEST_FORMAT})


def check_export(path: str | os.PathLike[str]) -> CheckedFile:
    """Check an exported file: that it is the one that was written, and that it still gives the embeddings of its self-test.

    Raises:
        InputError: no such file.
        CheckpointError: the file, or what belongs beside it, is missing, damaged or of another export.
        ExportError: the embeddings are others.
        MissingDependencyError: the runtime of this format is not installed.
    """
    file = Path(path).expanduser()
    parts = files_of(file)
    absent = [part for part in parts if not part.is_file()]
    if absent:
        raise InputError(f"{absent[0]} does not exist or is not a file; give a file written by mrl export")
    card = _read_card(card_of(file))
    for part in parts:
        files = card.get("files")
        if not isinstance(files, dict) or files.get(part.suffix) != sha256_of(part):
            raise CheckpointError(
                f"{part} is not the file that {card_of(file).name} beside it describes (SHA-256 differs); "
                "copy both again, or export the model again"
            )
    runner = open_runner(file)
    minimum = MINIMUM_COSINE[runner.description.precision]  # type: ignore[index]
    smallest = 1.0
    for fed, expected in _read_pairs(self_test_of(file)):
        outputs = runner(fed)
        if outputs.raw.shape != expected.shape:
            raise ExportError(f"{file} gives {outputs.raw.shape}; its self-test expects {expected.shape}")
        cosines = [row_cosines(expected, rows).min() for rows in (outputs.raw, outputs.embedding)]
        smallest = float(np.min([smallest, *cosines]))
    if not smallest >= minimum:
        raise ExportError(
            f"{file} gives other embeddings than when it was written: cosine {smallest:.6f}, at least {minimum:g} is required; "
            "the runtime on this machine computes wrongly, or the self-test is of another model"
        )
    return CheckedFile(file, runner.description.precision, smallest, minimum)


def _read_card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy it together with the exported file")
    return read_json_object(path, error=CheckpointError, advice="copy it again")


def _read_pairs(path: Path) -> list[tuple[Matrix, Matrix]]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy it together with the exported file")
    tensors = read_safetensors(path, error=CheckpointError, advice="copy it again").tensors
    require_floats(tensors, str(path), error=CheckpointError, advice="copy it again")
    count = sum(name.startswith("input_") for name in tensors)
    wanted = [(f"input_{number}", f"expected_{number}") for number in range(count)]
    if not all(each in tensors and tensors[each].ndim > 1 for pair in wanted for each in pair):
        raise CheckpointError(f"{path} does not hold pairs of inputs and expected embeddings; copy it again")
    pairs = [(tensors[fed], tensors[expected]) for fed, expected in wanted]
    if not pairs:
        raise CheckpointError(f"{path} holds no self-test; copy it again")
    return pairs
