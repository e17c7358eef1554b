"""Corpora that come as one folder per speaker (VoxCeleb, CN-Celeb and most home-made collections)."""

from __future__ import annotations

import os
from pathlib import Path

from mrl.audio import find_audio_files
from mrl.data.utterances import UNKNOWN_SPEAKER, Corpus, Utterance
from mrl.errors import DataError


def scan_speaker_folders(root: str | os.PathLike[str]) -> Corpus:
    """Return the corpus under ``root``: each direct subfolder is a speaker, with recordings at any depth below it.

    The first folder level inside a speaker's folder is taken as the session (the video, in VoxCeleb); files that lie directly in
    the speaker's folder have no session. Subfolders without recordings and hidden ones are passed over.

    Raises:
        DataError: ``root`` is not a folder, has no subfolders, or no recordings in them.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one subfolder per speaker with recordings in it")
    speakers = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not speakers:
        raise DataError(f"{folder} has no subfolders; expected one subfolder per speaker with recordings in it")
    utterances = []
    for speaker in speakers:
        for path in find_audio_files(speaker):
            inside = path.relative_to(speaker).parts
            utterances.append(Utterance(path, speaker.name, session=inside[0] if len(inside) > 1 else None))
    if not utterances:
        raise DataError(
            f"no recordings in the {len(speakers)} subfolders of {folder}; expected wav, flac, m4a or other audio files"
        )
    return Corpus.of(utterances)


def scan_recordings(root: str | os.PathLike[str]) -> Corpus:
    """Return all recordings under ``root``, at any depth, as a corpus whose speakers are not known.

    Raises:
        DataError: ``root`` does not exist or has no recordings in it.
    """
    utterances = [Utterance(path, UNKNOWN_SPEAKER) for path in find_audio_files(root)]
    if not utterances:
        raise DataError(f"no recordings in {root}; expected wav, flac, m4a or other audio files")
    return Corpus.of(utterances)
