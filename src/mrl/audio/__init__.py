"""Hearing: recordings in, ``(samples,)`` float32 waveforms at 16 kHz out; augmentation; synthetic voices.

No torch here. Decoders and resamplers are imported when they are first needed.
"""

from mrl.audio.augment import Augmenter, Change
from mrl.audio.clipping import clip, clipped_share
from mrl.audio.decoded import AudioInfo
from mrl.audio.folders import AUDIO_SUFFIXES, find_audio_files
from mrl.audio.noise import add_babble, add_noise, change_gain
from mrl.audio.reading import SAMPLE_RATE, audio_info, load_audio
from mrl.audio.rooms import reverberate, reverberation_time
from mrl.audio.simulated_rooms import RoomSimulation, simulate_rooms
from mrl.audio.sources import AudioSource, FileSlice
from mrl.audio.speed import change_speed
from mrl.audio.synthetic import SyntheticVoice, write_synthetic_corpus
from mrl.audio.windows import resample

__all__ = [
    "SAMPLE_RATE",
    "load_audio",
    "audio_info",
    "AudioInfo",
    "AudioSource",
    "FileSlice",
    "AUDIO_SUFFIXES",
    "find_audio_files",
    "resample",
    "Augmenter",
    "Change",
    "add_noise",
    "add_babble",
    "change_gain",
    "clip",
    "clipped_share",
    "RoomSimulation",
    "simulate_rooms",
    "reverberate",
    "reverberation_time",
    "change_speed",
    "SyntheticVoice",
    "write_synthetic_corpus",
]
