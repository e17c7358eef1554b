"""What a log-mel front end is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrl.backbone.reading import LONGEST_FFT, ConfigReader, is_count
from mrl.errors import ConfigError

FEATURE_NORMALISATIONS = ("mn", "mvn", "bn")


@dataclass(frozen=True)
class FrontEndConfig:
    """The log-mel front end. Frequencies in Hz, window and hop in samples."""

    sample_rate: int = 16000
    n_fft: int = 512
    window_length: int = 400
    hop_length: int = 160
    lowest_frequency: float = 20
    highest_frequency: float = 7600
    bands: int = 72
    normalise_signal: bool = False
    signal_epsilon: float = 1e-6
    pre_emphasis: bool = True
    normalisation: str = "mn"
    spec_augment: bool = False
    spec_augment_repeats: int = 1
    spec_augment_lowest_band: int = 0
    band_mask_width: tuple[int, int] = (0, 6)
    frame_mask_width: tuple[int, int] = (0, 8)

    def to_spec_params(self) -> dict[str, Any]:
        """Return the official ``spec_params``, every key spelled out."""
        return {
            "sample_rate": self.sample_rate,
            "n_fft": self.n_fft,
            "win_length": self.window_length,
            "f_min": self.lowest_frequency,
            "f_max": self.highest_frequency,
            "do_spec_aug": self.spec_augment,
            "norm_signal": self.normalise_signal,
            "do_preemph": self.pre_emphasis,
            "spec_norm": self.normalisation,
            "freq_start_bin": self.spec_augment_lowest_band,
            "num_apply_spec_aug": self.spec_augment_repeats,
            "freq_mask_width": list(self.band_mask_width),
            "time_mask_width": list(self.frame_mask_width),
        }


def read_front_end(spec_params: Mapping[str, Any], where: str, bands: int, hop_length: int) -> FrontEndConfig:
    """Read the official ``spec_params``; errors begin with ``where``.

    Raises:
        ConfigError: an unknown key, or a value that the official front end cannot have.
    """
    reader = ConfigReader(spec_params, where)
    own = {
        "normalisation": reader.choice("spec_norm", "mn", FEATURE_NORMALISATIONS),
        "spec_augment_repeats": reader.positive("num_apply_spec_aug", 1),
    }
    return FrontEndConfig(**own, **read_rest(reader, bands, hop_length))


def read_rest(reader: ConfigReader, bands: int, hop_length: int, *, shortest_window: int = 1) -> dict[str, Any]:
    """Read the fields that all front ends have; what ``reader`` holds besides is unknown.

    Raises:
        ConfigError: an unknown key, or a value that no official front end can have.
    """
    sample_rate = reader.positive("sample_rate", 16000)
    n_fft = reader.take("n_fft", 512, lambda v: is_count(v) and v <= LONGEST_FFT, f"a whole number up to {LONGEST_FFT}")
    fields = {
        "sample_rate": sample_rate,
        "n_fft": n_fft,
        "window_length": reader.take(
            "win_length",
            400,
            lambda v: is_count(v) and shortest_window <= v <= n_fft,
            f"a whole number from {shortest_window} up to n_fft={n_fft}",
        ),
        "hop_length": hop_length,
        "lowest_frequency": reader.number("f_min", 20, 0, sample_rate / 2),
        "highest_frequency": reader.number("f_max", 7600, 0, sample_rate / 2),
        "bands": bands,
        "normalise_signal": reader.boolean("norm_signal", False),
        "pre_emphasis": reader.boolean("do_preemph", True),
        "spec_augment": reader.boolean("do_spec_aug", False),
        "spec_augment_lowest_band": reader.take("freq_start_bin", 0, lambda v: is_count(v, zero=True), "a whole number"),
        "band_mask_width": reader.pair("freq_mask_width", (0, 8)),
        "frame_mask_width": reader.pair("time_mask_width", (0, 10)),
    }
    reader.finish()
    low, high = fields["lowest_frequency"], fields["highest_frequency"]
    if low >= high:
        raise ConfigError(f"{reader.where}: f_min={low} must lie below f_max={high}")
    return fields
