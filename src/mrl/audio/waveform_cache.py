"""Recordings of noise, voices and rooms kept in memory, so that augmentation does not read them anew for every crop."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypeAlias

from mrl.audio.reading import audio_info, load_audio
from mrl.audio.sources import FileSlice
from mrl.audio.windows import Waveform

AudioFile: TypeAlias = Path | FileSlice
"""A file of its own, or a recording inside a shard."""


class WaveformCache:
    """Recordings read lately, whole, up to a total size; safe to use from several threads, and empty after pickling."""

    def __init__(self, sample_rate: int, megabytes: float) -> None:
        self._sample_rate = sample_rate
        self._megabytes = megabytes
        self._seconds: dict[AudioFile, float] = {}
        self._waveforms: OrderedDict[AudioFile, Waveform] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def seconds(self, path: AudioFile) -> float:
        """Return the length of a recording, from its header the first time."""
        if path not in self._seconds:
            self._seconds[path] = audio_info(path).seconds
        return self._seconds[path]

    def read(self, path: AudioFile) -> Waveform:
        """Return the recording, read-only, from the cache or from its file."""
        with self._lock:
            if path in self._waveforms:
                self._waveforms.move_to_end(path)
                return self._waveforms[path]
        waveform = load_audio(path, sample_rate=self._sample_rate)
        waveform.setflags(write=False)
        with self._lock:
            if path not in self._waveforms:
                self._waveforms[path] = waveform
                self._bytes += waveform.nbytes
            while self._bytes > self._megabytes * 1e6 and self._waveforms:
                self._bytes -= self._waveforms.popitem(last=False)[1].nbytes
        return waveform

    def __getstate__(self) -> dict[str, Any]:
        return {"sample_rate": self._sample_rate, "megabytes": self._megabytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
