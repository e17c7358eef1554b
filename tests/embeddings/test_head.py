"""Heads for the embeddings of any toolkit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mrl.embeddings import fit_head, load_head, project_embeddings, save_head
from mrl.embeddings.formats import EmbeddingTable
from mrl.errors import DataError, InputError
from mrl.matryoshka.trained_head import HeadTraining


def make_table(seed: int = 0, speakers: int = 40) -> tuple[EmbeddingTable, dict[str, str]]:
    """Embeddings whose speakers differ in 4 hidden directions of 24."""
    random = np.random.default_rng(seed)
    mixture = np.linalg.qr(np.random.default_rng(9).standard_normal((24, 24)))[0]
    voices = np.repeat(random.standard_normal((speakers, 24)) * ([3.0] * 4 + [0.1] * 20), 5, axis=0)
    matrix = (voices + 0.7 * random.standard_normal((5 * speakers, 24))) @ mixture + 0.2
    ids = tuple(f"s{number // 5}/{number % 5}" for number in range(5 * speakers))
    return EmbeddingTable(ids, matrix.astype(np.float32), {"toolkit": "x"}), {name: name.split("/")[0] for name in ids}


def fisher(matrix: np.ndarray, num_per_speaker: int = 5) -> float:
    """Between-speaker variance over within-speaker variance."""
    groups = matrix.reshape(-1, num_per_speaker, matrix.shape[1])
    return float(groups.mean(1).var(0).sum() / groups.var(1).mean(0).sum())


def test_a_rotation_puts_what_tells_speakers_apart_first_and_keeps_cosines() -> None:
    table, speakers = make_table()
    head = fit_head(table, speakers)
    assert head.dims == (16, 24) and head.about["speakers"] == 40 and head.about["fitted_to"] == {"toolkit": "x"}
    other, _ = make_table(1)
    projected = project_embeddings(head, other)
    np.testing.assert_allclose(projected.matrix @ projected.matrix.T, other.matrix @ other.matrix.T, rtol=1e-3, atol=1e-3)
    assert fisher(projected.matrix[:, :4]) > 10 * fisher(projected.matrix[:, 4:8])
    assert fisher(projected.matrix[:, :4]) > 3 * fisher(other.matrix[:, :4])


def test_methods_differ_and_lda_needs_speakers() -> None:
    table, speakers = make_table()
    weights = [fit_head(table, speakers, method=method).affine.weight for method in ("rotation", "pca", "lda", "trained")]
    assert {weight.shape for weight in weights} == {(24, 24)}
    for first, second in pairwise(weights):
        assert not np.allclose(first, second, atol=1e-3)
    for method in ("pca", "uncentred", "rotation"):
        fit_head(table, None, method=method)
    with pytest.raises(InputError, match="'trained' needs speaker labels"):
        fit_head(table, None, method="trained")
    with pytest.raises(InputError, match="lda"):
        fit_head(table, None, method="lda")


def test_a_trained_head_separates_new_speakers_and_says_how_it_was_trained(tmp_path: Path) -> None:
    table, speakers = make_table()
    counted: list[int] = []
    head = fit_head(table, speakers, method="trained", dims=(4, 24), training=HeadTraining(steps=80), advance=counted.append)
    other, _ = make_table(1)
    assert fisher(project_embeddings(head, other).matrix[:, :4]) > 3 * fisher(other.matrix[:, :4])
    assert len(counted) == 80 and head.about["training"]["steps"] == 80
    save_head(head, tmp_path / "head.safetensors")
    assert load_head(tmp_path / "head.safetensors").about == head.about


def test_a_head_survives_its_file(tmp_path: Path) -> None:
    table, speakers = make_table()
    head = fit_head(table, speakers, dims=(8, 4, 12))
    save_head(head, tmp_path / "head.safetensors")
    again = load_head(tmp_path / "head.safetensors")
    assert again.dims == (4, 8, 12) and again.about == head.about
    np.testing.assert_allclose(project_embeddings(again, table).matrix, project_embeddings(head, table).matrix, atol=1e-5)
    assert project_embeddings(again, table).metadata["dims"] == [4, 8, 12]


def test_errors(tmp_path: Path) -> None:
    table, speakers = make_table()
    with pytest.raises(DataError, match=r"5 of 200 embeddings have no speaker, the first is 's0/0'"):
        fit_head(table, {name: speaker for name, speaker in speakers.items() if speaker != "s0"})
    with pytest.raises(InputError, match=r"1\.\.24"):
        fit_head(table, speakers, dims=(8, 25))
    head = fit_head(table, speakers)
    with pytest.raises(InputError, match="takes embeddings of 24 numbers; these have 3"):
        project_embeddings(head, EmbeddingTable(("a",), np.ones((1, 3), np.float32), {}))
    with pytest.raises(InputError, match="safetensors"):
        save_head(head, tmp_path / "head.pt")
    with pytest.raises(DataError, match="does not exist"):
        load_head(tmp_path / "absent.safetensors")
    save_head(head, tmp_path / "head.safetensors")
    whole = (tmp_path / "head.safetensors").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"\0" * 50):
        (tmp_path / "head.safetensors").write_bytes(broken)
        with pytest.raises(DataError, match="damaged"):
            load_head(tmp_path / "head.safetensors")
