"""Side files: derived from the store, mapped, made anew when stale or damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.embeddings.compact import EMBEDDING_FORMATS, EmbeddingFormat
from mrl.identification import ExactSearch, FunnelSearch, VoiceMatrix, VoiceStore, load_voices, voice_matrix
from mrl.identification.voice_matrix import HEAD_DIM
from tests.identification.makers import MODEL, filled_store, same_speakers, speakers


def _same(one: VoiceMatrix, two: VoiceMatrix) -> bool:
    arrays = [("numbers", one.numbers, two.numbers), ("encoded", one.encoded, two.encoded)]
    arrays += [("heads", one.heads, two.heads), ("signs", one.signs, two.signs)]
    return all((a is None and b is None) or np.array_equal(a, b) for _, a, b in arrays) and one.revision == two.revision


@pytest.mark.parametrize("form", EMBEDDING_FORMATS)
@pytest.mark.parametrize("dim", [160, 40])
def test_mapped_equals_in_memory(form: EmbeddingFormat, dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_matrix, "_BLOCK_VOICES", 7)
    store = VoiceStore.open_or_create(tmp_path / "v.sqlite", embed_dim=160, form=form)
    rows = speakers(40, 160)
    for number in range(0, 40, 2):  # two recordings each
        store.add(f"v{number}", rows[number : number + 2], [1.0, 3.0], model_hash=MODEL)
    in_memory = load_voices(store, dim)
    mapped = load_voices(store, dim, side_file_voices=1)
    assert isinstance(mapped.encoded, np.memmap) and not isinstance(in_memory.encoded, np.memmap)
    assert _same(in_memory, mapped) and len(mapped) == 20
    assert (mapped.heads is None) == (form == "binary" or dim < 2 * HEAD_DIM)
    expected = np.stack([store.embedding(f"v{number}", dim) for number in range(0, 40, 2)])
    assert np.array_equal(mapped.embeddings(slice(None)), expected)
    queries = same_speakers(rows[:3])[:, :dim]
    one, two = ExactSearch(mapped).search(queries, 4), FunnelSearch(mapped, exact=True).search(queries, 4)
    assert [hit.numbers.tolist() for hit in one] == [hit.numbers.tolist() for hit in two]


def test_blocks_of_a_scan_do_not_matter(tmp_path: Path) -> None:
    store = VoiceStore.open_or_create(tmp_path / "v.sqlite", embed_dim=12)
    rows = speakers(31, 12)
    for number, size in enumerate((1, 5, 2, 9, 1, 1, 12)):
        first = sum((1, 5, 2, 9, 1, 1, 12)[:number])
        store.add(f"v{number}", rows[first : first + size], [1.0 + i for i in range(size)], model_hash=MODEL)
    expected = np.stack([store.embedding(f"v{number}") for number in range(7)])
    for block in (1, 2, 3, 5, 100):
        _, count, blocks = store.scan(12, block_voices=block)
        found = list(blocks)
        assert count == 7 and np.concatenate([numbers for numbers, _ in found]).tolist() == list(range(1, 8))
        assert np.array_equal(np.concatenate([averages for _, averages in found]), expected)


def test_stale_and_damaged_side_files_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "v.sqlite", 12, dim=160)
    side = tmp_path / "v.sqlite.search-160"
    load_voices(store, side_file_voices=1)
    made: list[int] = []
    write = voice_matrix._write
    monkeypatch.setattr(voice_matrix, "_write", lambda store, dim: (made.append(dim), write(store, dim)))
    load_voices(store, side_file_voices=1)
    assert made == []  # still fresh
    store.add("new", speakers(1, 160, 9), [1.0], model_hash=MODEL)
    kept = load_voices(store, side_file_voices=1)
    assert made == [160] and len(kept) == 13
    whole = side.read_bytes()
    for damage in (whole[:-64], b"NOTVOICE" + whole[8:], whole[:12], b"", whole[:16] + b"\xff" + whole[17:]):
        replaced = side.with_name("replaced")  # not in place: the old file is still mapped
        replaced.write_bytes(damage)
        replaced.replace(side)
        assert _same(load_voices(store, side_file_voices=1), kept)
    assert len(made) == 6
    store.remove(["v0003"])
    assert not side.exists() and len(load_voices(store, side_file_voices=1)) == 12
    assert len(kept) == 13 and np.isfinite(kept.embeddings(slice(None))).all()  # a search under way keeps its map


def test_an_empty_store(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "v.sqlite", 0, dim=160)
    for least in (0, 10):
        voices = load_voices(store, side_file_voices=least or 1)
        assert len(voices) == 0 and len(FunnelSearch(voices).search(speakers(1, 160), 3)[0].numbers) == 0
