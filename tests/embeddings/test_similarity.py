"""The score of two embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from mrl.embeddings import cosine_similarity
from mrl.errors import InputError


def test_known_angles_at_any_scale() -> None:
    assert cosine_similarity([3.0, 0.0], [1.0, 1.0]) == pytest.approx(2**-0.5, abs=1e-15)
    assert cosine_similarity([1e-20, 0.0], [-1e20, 0.0]) == -1.0
    same = np.random.default_rng(0).standard_normal(192)
    assert cosine_similarity(same, 7 * same) == pytest.approx(1.0, abs=1e-12)
    assert cosine_similarity(same, 7 * same) <= 1.0


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, 2.0], [1.0], "one length"),
        ([[1.0]], [[1.0]], "one length"),
        ([], [], "one length"),
        ([0.0, 0.0], [1.0, 0.0], "all zeros"),
        ([np.nan, 0.0], [1.0, 0.0], "NaN"),
    ],
)
def test_no_score_is_made_up(first: list[float], second: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cosine_similarity(first, second)
