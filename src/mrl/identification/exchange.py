"""Taking voices out of a store and into another one: a text file with one JSON object per line, exact to the last bit.

The first line says what the file is: ``{"format", "embed_dim", "embedding_format"}``. Every further line is one voice:
``{"name", "model_hash", "calibration_hash", "enrolled_at", "updated_at", "recordings": [{"seconds", "embedding"}]}`` with the
bytes of the embedding in base64. The file holds voice prints; keep it as safe as the store.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mrl.bounded import brief, lines_of, open_regular, parse_json, said
from mrl.embeddings.compact import EMBEDDING_FORMATS
from mrl.errors import DataError
from mrl.files import atomic_path
from mrl.identification.database import StoredRecording, StoredVoice
from mrl.identification.store import VoiceStore

logger = logging.getLogger(__name__)

FORMAT = "redimnet-mrl-voices/1"
_LARGEST_DIM = 1 << 20


def export_voices(store: VoiceStore, path: str | os.PathLike[str], names: Sequence[str] | None = None) -> int:
    """Write voices to a file, atomically, readable by its owner only; return how many.

    Args:
        store: the store.
        path: the file.
        names: which voices; all by default.

    Raises:
        DataError: a voice is not there.
        OSError: the file cannot be written.
    """
    voices = store.stored_voices(names)
    head = {"format": FORMAT, "embed_dim": store.embed_dim, "embedding_format": store.form}
    # A process that is killed leaves voice prints in a temporary file: the store remembers where, and removes them.
    note = store.note_export(path)
    try:
        with atomic_path(path, private=True) as temporary, temporary.open("w", encoding="utf-8") as stream:
            for line in (head, *map(_to_json, voices)):
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    finally:
        store.forget_export(note)
    return len(voices)


def import_voices(store_path: str | os.PathLike[str], path: str | os.PathLike[str], *, merge: bool = False) -> int:
    """Add all voices of a file to a store, which is made if it is not there, or none; return how many.

    Args:
        store_path: the store.
        path: the file.
        merge: leave out those whose names are taken; the store keeps its own.

    Raises:
        DataError: the file is missing, damaged or of another kind; or its voices do not fit the store (another model, length or
            format, or a name that is taken).
    """
    file = Path(path)
    head, voices = _read(file)
    store = VoiceStore.open_or_create(store_path, embed_dim=head["embed_dim"], form=head["embedding_format"])
    if merge:
        taken = [voice.name for voice in voices if voice.name in store]
        if taken:
            logger.warning("%d voices are left out, since their names are taken: %s", len(taken), ", ".join(taken[:20]))
        voices = [voice for voice in voices if voice.name not in taken]
    if voices:
        store.add_voices(voices)
    return len(voices)


def _to_json(voice: StoredVoice) -> dict[str, Any]:
    recordings = [
        {"seconds": recording.seconds, "embedding": base64.b64encode(recording.embedding).decode("ascii")}
        for recording in voice.recordings
    ]
    facts = {key: getattr(voice, key) for key in ("name", "model_hash", "calibration_hash", "enrolled_at", "updated_at")}
    return {**facts, "recordings": recordings}


def _read(file: Path) -> tuple[dict[str, Any], list[StoredVoice]]:
    if not file.is_file():
        raise DataError(f"there is no file {file} to import voices from")
    number, lines = 0, _lines(file)
    try:
        head: dict[str, Any] = parse_json(next(lines, b"null"), f"{file}, line 1")
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise DataError(
                f"{file} is no export of voices (its first line does not say {FORMAT!r}); write one with mrl voices export"
            )
        form, dim = head["embedding_format"], head["embed_dim"]
        if form not in EMBEDDING_FORMATS or type(dim) is not int or not 1 <= dim <= _LARGEST_DIM:
            raise ValueError(f"embedding format {brief(head['embedding_format'])}, embed_dim {brief(head['embed_dim'])}")
        voices = []
        for number, line in enumerate(lines, start=1):
            voices.append(_from_json(parse_json(line, f"{file}, line {number + 1}")))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        where = f"line {number + 1}"
        raise DataError(f"{file}, {where}: damaged ({type(error).__name__}: {said(error)}); export the voices again") from error
    return head, voices


def _lines(file: Path) -> Iterator[bytes]:
    with open_regular(file) as stream:
        yield from lines_of(stream, str(file))


def _from_json(values: dict[str, Any]) -> StoredVoice:
    recordings = tuple(
        StoredRecording(float(recording["seconds"]), base64.b64decode(recording["embedding"], validate=True))
        for recording in values["recordings"]
    )
    facts = [values[key] for key in ("name", "model_hash", "calibration_hash", "enrolled_at", "updated_at")]
    if not all(isinstance(fact, str) and fact.isprintable() for fact in facts):
        raise ValueError("a name, hash or date is no text, or holds control characters")
    name, model_hash, calibration_hash, enrolled_at, updated_at = facts
    return StoredVoice(name, model_hash, calibration_hash, enrolled_at, updated_at, recordings)
