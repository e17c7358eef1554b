"""The PyTorch network as what an exported file is held against, and the inputs for both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mrl.audio import SAMPLE_RATE, SyntheticVoice, find_audio_files, load_audio
from mrl.deployment.front_end import ConvolutionalLogMel
from mrl.deployment.network import InputKind, Model, backbone_of
from mrl.errors import AudioLoadingError, DataError, InputError
from mrl.matryoshka import ReDimNetMRL

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
        self._log_mel = ConvolutionalLogMel(backbone_of(model).front_end) if kind == "features" else None

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms, in Hz."""
        return self.model.sample_rate

    def raw(self, batch: Matrix) -> Matrix:
        """``(batch, samples)`` -> raw embeddings ``(batch, embed_dim)`` by PyTorch."""
        with torch.inference_mode():
            pooled = self.model.pooled_statistics(torch.from_numpy(batch))
            embedded = self.model.project(pooled) if isinstance(self.model, ReDimNetMRL) else self.model.embed_pooled(pooled)
            raw: Matrix = embedded.numpy()
        return raw

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
