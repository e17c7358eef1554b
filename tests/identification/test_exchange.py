"""Export and import: exact, and all or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrl.embeddings.compact import EMBEDDING_FORMATS, EmbeddingFormat
from mrl.errors import DataError
from mrl.identification import VoiceStore, export_voices, import_voices
from tests.identification.makers import MODEL, filled_store, speakers


@pytest.mark.parametrize("form", EMBEDDING_FORMATS)
def test_round_trip_is_exact(form: EmbeddingFormat, tmp_path: Path) -> None:
    store = VoiceStore.open_or_create(tmp_path / "a.sqlite", embed_dim=70, form=form)
    for number, name in enumerate(("Zoë", 'quote " and \\', "名前")):
        store.add(name, speakers(3, 70, number), [1.1, 2.7, 1 / 3], model_hash=MODEL, calibration_hash="c" * number)
    assert export_voices(store, tmp_path / "v.jsonl") == 3
    assert (tmp_path / "v.jsonl").stat().st_mode & 0o777 == 0o600
    assert import_voices(tmp_path / "b.sqlite", tmp_path / "v.jsonl") == 3
    other = VoiceStore(tmp_path / "b.sqlite")
    assert other.stored_voices() == store.stored_voices() and other.voices() == store.voices()
    assert (other.form, other.embed_dim) == (form, 70)
    assert export_voices(store, tmp_path / "one.jsonl", ["Zoë"]) == 1
    export_voices(other, tmp_path / "w.jsonl")
    assert (tmp_path / "w.jsonl").read_bytes() == (tmp_path / "v.jsonl").read_bytes()


def test_all_or_nothing(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.sqlite", 3)
    export_voices(store, tmp_path / "v.jsonl")
    other = filled_store(tmp_path / "b.sqlite", 0)
    other.add("v0002", speakers(1, 8, 7), [1.0], model_hash=MODEL)
    with pytest.raises(DataError, match="a voice 'v0002' is enrolled"):
        import_voices(other.path, tmp_path / "v.jsonl")
    assert [voice.name for voice in other.voices()] == ["v0002"]
    foreign = filled_store(tmp_path / "c.sqlite", 0)
    foreign.add("x", speakers(1, 8, 7), [1.0], model_hash="b" * 64)
    with pytest.raises(DataError, match="another model"):
        import_voices(foreign.path, tmp_path / "v.jsonl")
    with pytest.raises(DataError, match="keeps embeddings as int8"):
        import_voices(filled_store(tmp_path / "d.sqlite", 1, form="int8").path, tmp_path / "v.jsonl")
    with pytest.raises(DataError, match="there is no voice 'nobody'"):
        export_voices(store, tmp_path / "no.jsonl", ["nobody"])
    assert not (tmp_path / "no.jsonl").exists()


def test_damaged_files(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.sqlite", 3)
    export_voices(store, tmp_path / "v.jsonl")
    lines = (tmp_path / "v.jsonl").read_text().splitlines()
    voice = json.loads(lines[2])
    for number, wrong in (
        (0, lines[1:]),
        (0, []),
        (0, ['{"format": "redimnet-mrl-voices/1", "embed_dim": 8, "embedding_format": "int4"}']),
        (3, [*lines[:2], lines[2][:50], lines[3]]),
        (3, [*lines[:2], json.dumps({**voice, "recordings": [{"seconds": 1.0, "embedding": "****"}]}), lines[3]]),
        (3, [*lines[:2], json.dumps({**voice, "model_hash": 5}), lines[3]]),
        (3, [*lines[:2], json.dumps({**voice, "updated_at": "\x1b[2J"}), lines[3]]),  # moves a terminal's cursor
        (3, [*lines[:2], json.dumps({**voice, "calibration_hash": "\ud800"}), lines[3]]),
        (None, [*lines[:2], json.dumps({**voice, "recordings": [{**voice["recordings"][0], "seconds": float("inf")}]})]),
        (None, [*lines[:2], json.dumps({**voice, "recordings": [{"seconds": 1.0, "embedding": "AAAA"}]})]),
        (None, [*lines[:2], json.dumps({**voice, "recordings": []})]),
        (None, [*lines[:2], json.dumps({**voice, "recordings": [{"seconds": 1.0, "embedding": "/" * 43 + "="}]})]),
    ):
        (tmp_path / "wrong.jsonl").write_text("\n".join(wrong))
        with pytest.raises(DataError) as caught:
            import_voices(tmp_path / "b.sqlite", tmp_path / "wrong.jsonl")
        assert number in (0, None) or f"line {number}" in str(caught.value)
        assert not (tmp_path / "b.sqlite").exists() or len(VoiceStore(tmp_path / "b.sqlite")) == 0
    with pytest.raises(DataError, match="there is no file"):
        import_voices(tmp_path / "b.sqlite", tmp_path / "absent.jsonl")
