"""The voice store: enrolling, adding, deleting without a trace, refusing what does not fit."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.embeddings.compact import EMBEDDING_FORMATS, EmbeddingFormat, cosine_error_bound, encode_embeddings
from mrl.errors import DataError, InputError
from mrl.identification import VoiceStore, load_voices
from mrl.identification.database import StoredRecording, StoredVoice, connection, remove_side_files, side_path, transaction
from tests.identification.makers import MODEL, filled_store, speakers, unit


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    return VoiceStore.open_or_create(tmp_path / "voices.sqlite", embed_dim=16)


def test_a_voice_is_the_mean_weighted_by_duration(store: VoiceStore) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 16)) * [[1], [5], [0.1]]
    seconds = [2.0, 1.0, 7.5]
    voice = store.add(" Zoë ", rows, seconds, model_hash=MODEL, calibration_hash="c")
    assert (voice.name, voice.recordings, voice.seconds, voice.model_hash, voice.calibration_hash) == ("Zoë", 3, 10.5, MODEL, "c")
    for dim in (16, 5, 1):
        mean = unit((unit(rows[:, :dim]).astype(float) * np.array(seconds)[:, None]).sum(axis=0))
        assert store.embedding("Zoe\u0308", dim) == pytest.approx(mean, abs=1e-6)  # the same name, decomposed
    assert store.voices() == [voice] and "Zoë" in store and "Zoe" not in store and len(store) == 1


@pytest.mark.parametrize("form", EMBEDDING_FORMATS)
def test_adding_later_equals_enrolling_at_once(form: EmbeddingFormat, tmp_path: Path) -> None:
    rows, seconds = np.random.default_rng(1).standard_normal((4, 70)), [1.5, 2.25, 3.0, 0.7]
    at_once = VoiceStore.open_or_create(tmp_path / "a.sqlite", embed_dim=70, form=form)
    later = VoiceStore.open_or_create(tmp_path / "b.sqlite", embed_dim=70, form=form)
    at_once.add("x", rows, seconds, model_hash=MODEL)
    later.add("x", rows[:1], seconds[:1], model_hash=MODEL)
    later.add("x", rows[1:3], seconds[1:3], model_hash=MODEL, extend=True)
    later.add("x", rows[3:], seconds[3:], model_hash=MODEL, extend=True)
    for dim in (70, 33):
        assert np.array_equal(at_once.embedding("x", dim), later.embedding("x", dim))
    assert at_once.stored_voices()[0].recordings == later.stored_voices()[0].recordings


@given(form=st.sampled_from(["float32", "float16", "int8"]), seed=st.integers(0, 50))
@settings(max_examples=8, deadline=None)
def test_formats_hold_a_voice_within_their_bound(
    form: EmbeddingFormat, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = VoiceStore.open_or_create(tmp_path_factory.mktemp("f") / "v.sqlite", embed_dim=64, form=form)
    row = speakers(1, 64, seed)
    store.add("x", row, [1.0], model_hash=MODEL)
    assert store.embedding("x").astype(float) @ row[0] >= 1 - 2 * cosine_error_bound(form, 64)


def test_models_are_not_mixed(store: VoiceStore) -> None:
    store.add("a", speakers(1, 16), [1.0], model_hash=MODEL)
    with pytest.raises(DataError, match="enrolled with another model \\(aaaaaaaaaaaa, this one is bbbbbbbbbbbb\\)"):
        store.add("b", speakers(1, 16, 1), [1.0], model_hash="b" * 64)
    with pytest.raises(DataError, match="another model"):
        store.require_model("b" * 64)
    store.require_model(MODEL)
    with pytest.raises(DataError, match="holds embeddings of 16 numbers, this model gives 32"):
        VoiceStore.open_or_create(store.path, embed_dim=32)
    with pytest.raises(DataError, match="keeps embeddings as float32, not int8"):
        VoiceStore.open_or_create(store.path, embed_dim=16, form="int8")
    store.remove(["a"])
    assert store.model_hash() is None
    store.add("b", speakers(1, 16, 1), [1.0], model_hash="b" * 64)  # an empty store takes any model


def test_refusals_change_nothing(store: VoiceStore) -> None:
    row = speakers(1, 16)
    store.add("a", row, [1.0], model_hash=MODEL)
    revision = store.revision()
    add = store.add
    for expected, call in (
        (DataError, lambda: add("a", speakers(1, 16, 5), [1.0], model_hash=MODEL)),
        (DataError, lambda: add("b", row, [1.0], model_hash=MODEL, extend=True)),
        (DataError, lambda: add("a", row, [1.0], model_hash=MODEL, extend=True)),  # that very recording again
        (InputError, lambda: add("b", np.full((1, 16), np.nan), [1.0], model_hash=MODEL)),
        (InputError, lambda: add("b", np.zeros((1, 16)), [1.0], model_hash=MODEL)),
        (InputError, lambda: add("b", row[:, :15], [1.0], model_hash=MODEL)),
        (InputError, lambda: add("b", row, [0.0], model_hash=MODEL)),
        (InputError, lambda: add("b", row, [float("nan")], model_hash=MODEL)),
        (InputError, lambda: add("  ", row, [1.0], model_hash=MODEL)),
        (InputError, lambda: add("a\nb", row, [1.0], model_hash=MODEL)),
        (InputError, lambda: add("x" * 201, row, [1.0], model_hash=MODEL)),
        (DataError, lambda: store.remove(["a", "nobody"])),
        (DataError, lambda: store.embedding("nobody")),
        (InputError, lambda: store.embedding("a", 17)),
    ):
        with pytest.raises(expected):
            call()
    assert store.revision() == revision and len(store) == 1


def _traces(folder: Path, wanted: bytes) -> list[str]:
    return [file.name for file in folder.iterdir() if wanted in file.read_bytes()]


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_deleted_voices_leave_no_trace_in_any_file(form: EmbeddingFormat, tmp_path: Path) -> None:
    store = VoiceStore.open_or_create(tmp_path / "voices.sqlite", embed_dim=256, form=form)
    rows = speakers(32)
    for number, row in enumerate(rows):
        store.add(f"person-{number}-name", row[None], [1.0], model_hash=MODEL)
    load_voices(store, side_file_voices=1)
    load_voices(store, 128, side_file_voices=1)
    left = tmp_path / "voices.sqlite.search-64.unfinished"
    secret = encode_embeddings(rows[17:18], form).tobytes()
    left.write_bytes(secret)  # what a killed process left
    piece = secret[8:72]
    assert len(_traces(tmp_path, piece)) == (3 if form == "float32" else 4)
    assert _traces(tmp_path, b"person-17-name") == ["voices.sqlite"]
    store.remove(["person-17-name", "person-30-name"])
    assert _traces(tmp_path, piece) == [] == _traces(tmp_path, b"person-17-name")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["voices.sqlite", "voices.sqlite.search-lock"]
    assert len(store) == 30
    assert _traces(tmp_path, encode_embeddings(rows[18:19], form).tobytes()[8:72]) == ["voices.sqlite"]


def test_deletion_that_was_cut_short_is_finished_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 20, dim=64)
    piece = encode_embeddings(speakers(20, 64)[3:4], "float32").tobytes()[:64]
    load_voices(store, side_file_voices=1)
    with monkeypatch.context() as patched:
        patched.setattr("mrl.identification.store.remove_side_files", _fail)
        with pytest.raises(DataError, match="1 voices are deleted, but traces of them may be left"):
            store.remove(["v0003"])
    assert "v0003" not in store and _traces(tmp_path, piece) == ["voices.sqlite.search-64"]
    load_voices(store, side_file_voices=1_000)
    assert _traces(tmp_path, piece) == []


def test_a_deletion_during_the_cleaning_of_another_is_cleaned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 20, dim=64)
    piece = encode_embeddings(speakers(20, 64)[3:4], "float32").tobytes()[:64]
    calls: list[Path] = []

    def meanwhile(path: Path) -> None:
        remove_side_files(path)
        calls.append(path)
        if len(calls) == 1:  # the first cleaning has overwritten what it came for; another process deletes, and is killed
            load_voices(store, 32, side_file_voices=1_000)
            with connection(path, write=True) as opened, transaction(opened, write=True):
                opened.execute("DELETE FROM voices WHERE name = 'v0003'")
                opened.execute("INSERT OR REPLACE INTO facts VALUES ('cleaning_due', 'of the other')")
            side_path(path, 64).write_bytes(piece)

    monkeypatch.setattr("mrl.identification.store.remove_side_files", meanwhile)
    store.remove(["v0007"])
    assert _traces(tmp_path, piece) == ["voices.sqlite.search-64"]
    store.finish_deletion()
    assert _traces(tmp_path, piece) == []


def test_recordings_that_cancel_out_are_refused(store: VoiceStore, tmp_path: Path) -> None:
    row = speakers(1, 16)
    store.add("anna", row, [2.0], model_hash=MODEL)
    before = store.voices()
    with pytest.raises(DataError, match="'anna' cannot be stored, nothing was changed: .*has no length"):
        store.add("anna", -row, [2.0], model_hash=MODEL, extend=True)
    recordings = tuple(StoredRecording(2.0, encode_embeddings(one, "float32").tobytes()) for one in (row, -row))
    with pytest.raises(DataError, match="'bert' cannot be stored, nothing was changed: .*has no length"):
        store.add_voices([StoredVoice("bert", MODEL, "", "", "", recordings)])
    assert store.voices() == before and len(load_voices(store)) == 1


def test_voices_page_by_page(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 7)
    store.add("v0003", speakers(2, 8, 5), [2.0, 3.0], model_hash=MODEL, extend=True)
    whole = store.voices()
    assert [voice.recordings for voice in whole] == [1, 1, 1, 3, 1, 1, 1]
    assert store.voices(2, 3) == whole[2:5] and store.voices(5) == whole[5:] and store.voices(9, 3) == []


def test_names_and_seconds_of_very_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 7)
    monkeypatch.setattr("mrl.identification.store._NUMBERS_PER_QUERY", 3)
    assert store.names([*range(1, 8), 99]) == {number: f"v{number - 1:04d}" for number in range(1, 8)}
    assert store.seconds([7, 99, 2]) == {7: 7.0, 2: 2.0} and store.names([]) == {}


def _fail(store: Path) -> None:
    raise OSError(5, "Input/output error")


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "folder" / "voices.sqlite", 3)
    load_voices(store, side_file_voices=1)
    for file in (store.path, tmp_path / "folder" / "voices.sqlite.search-8"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


def test_every_connection_overwrites_and_syncs(store: VoiceStore) -> None:
    with connection(store.path, write=True) as opened:
        pragmas = {
            name: opened.execute(f"PRAGMA {name}").fetchone()[0] for name in ("secure_delete", "synchronous", "journal_mode")
        }
    assert pragmas == {"secure_delete": 1, "synchronous": 3, "journal_mode": "delete"}
    with connection(store.path) as opened, pytest.raises(sqlite3.OperationalError, match="readonly"):
        opened.execute("DELETE FROM voices")
