"""The settings of augmentation, and what all sections of a configuration have in common; part of :mod:`mrl.training.config`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class SimulatedRoomsConfig(Section):
    """Rooms that are simulated at the start of a run; needs the extra rooms."""

    probability: float = Field(default=0.0, ge=0, le=1, description="Share of those crops that got no measured room.")
    count: int = Field(default=64, ge=1, description="Rooms in the pool; simulating takes about 0.2 s each.")
    rt60_seconds: tuple[float, float] = Field(default=(0.2, 0.8), description="Range of the reverberation time, seconds.")
    floor_metres: tuple[float, float] = Field(default=(3.0, 9.0), description="Range of length and width, metres.")
    height_metres: tuple[float, float] = Field(default=(2.4, 4.0), description="Range of the height, metres.")
    distance_metres: tuple[float, float] = Field(default=(0.5, 3.0), description="Range of talker to microphone, metres.")
    seed: int = Field(default=0, ge=0, description="Seed of the pool.")


class CodecKilobitsConfig(Section):
    """Ranges of the bit rate of lossy codecs, kbit/s."""

    opus: tuple[float, float] = Field(default=(8.0, 32.0), description="Of Opus.")
    aac: tuple[float, float] = Field(default=(16.0, 64.0), description="Of AAC.")
    mp3: tuple[float, float] = Field(default=(16.0, 64.0), description="Of MP3.")


class SpecAugmentConfig(Section):
    """Masks on the log-mel features of crops (arXiv 1904.08779); cached views have none."""

    frequency_masks: int = Field(default=0, ge=0, description="Band masks per crop; 0: none.")
    frequency_width: int = Field(default=8, ge=1, description="Most mel bands per mask; the width is drawn from 0 to this.")
    time_masks: int = Field(default=0, ge=0, description="Frame masks per crop; 0: none.")
    time_width: int = Field(default=20, ge=1, description="Most frames per mask (10 or 15 ms each).")


class AugmentationConfig(Section):
    """What is done to the crops, each kind with its own probability and random stream. No noise or rooms without folders."""

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
    babble_voices: tuple[int, int] = Field(default=(3, 7), description="Range of their number.")
    exclude: list[str] = Field(default_factory=list, description="File name patterns left out of both, such as 'sb_esc50_*'.")
    simulated_rooms: SimulatedRoomsConfig = Field(default=SimulatedRoomsConfig(), description="Rooms without recordings.")
    speed_probability: float = Field(
        default=0.0, ge=0, le=1, description="Share of crops at another speed, same speaker; for new speakers see data.speeds."
    )
    speed_factors: list[float] = Field(default=[0.9, 1.1], min_length=1, description="The speeds, one of which is drawn.")
    gain_probability: float = Field(default=0.0, ge=0, le=1, description="Share of crops made louder or softer.")
    gain_db: tuple[float, float] = Field(default=(-6.0, 6.0), description="Range of the gain, dB.")
    clipping_probability: float = Field(default=0.0, ge=0, le=1, description="Share of crops with clipped peaks.")
    clipping_level: tuple[float, float] = Field(default=(0.2, 0.8), description="Range of the level, as a share of the peak.")
    band_probability: float = Field(default=0.0, ge=0, le=1, description="Share of crops that lose frequencies.")
    bands: list[Literal["narrowband", "telephone"]] = Field(
        default=["narrowband", "telephone"], min_length=1, description="narrowband: up to 4 kHz; telephone: 300 to 3400 Hz."
    )
    codec_probability: float = Field(default=0.0, ge=0, le=1, description="Share of crops that are coded and decoded.")
    codecs: list[Literal["g711_mulaw", "g711_alaw", "opus", "aac", "mp3"]] = Field(
        default=["g711_mulaw", "g711_alaw", "opus", "aac"], min_length=1, description="The codecs, one of which is drawn."
    )
    codec_kilobits: CodecKilobitsConfig = Field(default=CodecKilobitsConfig(), description="Bit rates of the lossy ones.")
    spec_augment: SpecAugmentConfig = Field(default=SpecAugmentConfig(), description="Masks on the features.")

    @model_validator(mode="after")
    def _usable(self) -> AugmentationConfig:
        ranges: dict[str, tuple[float, float]] = {
            name: getattr(self, name) for name in ("noise_snr_db", "babble_snr_db", "babble_voices", "gain_db", "clipping_level")
        }
        rooms = ("rt60_seconds", "floor_metres", "height_metres", "distance_metres")
        ranges |= {f"simulated_rooms.{name}": getattr(self.simulated_rooms, name) for name in rooms}
        ranges |= {f"codec_kilobits.{name}": getattr(self.codec_kilobits, name) for name in ("opus", "aac", "mp3")}
        for name, (low, high) in ranges.items():
            if low > high:
                raise ValueError(f"{name} must be [lowest, highest] (found [{low:g}, {high:g}])")
        if any(not 0.5 <= factor <= 2.0 for factor in self.speed_factors):
            raise ValueError(f"speed_factors must lie in 0.5 to 2 (found {self.speed_factors})")
        if self.babble_voices[0] < 1:
            raise ValueError(f"babble_voices must be 1 or more (found {list(self.babble_voices)})")
        if not 0.0 < self.clipping_level[0] <= self.clipping_level[1] <= 1.0:
            raise ValueError(f"clipping_level must be shares of the peak above 0 and up to 1 (found {list(self.clipping_level)})")
        return self
