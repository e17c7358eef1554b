"""On real recordings: the Matryoshka model at step 0 has the error rate of the pretrained model, to the last digit."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.evaluation import evaluate_model
from mrl.matryoshka import create_mrl_from_pretrained
from mrl.trials import read_trials


@pytest.mark.shared
@pytest.mark.slow
def test_error_rate_at_192_equals_the_backbones(shared: Path) -> None:
    corpora = shared / "corpora"
    model = create_mrl_from_pretrained(weights=corpora / "checkpoints" / "b0-standin.pt", embed_dim=256)
    trials = read_trials(corpora / "trials" / "libri-test-other.txt.gz")
    result = evaluate_model(model, trials, corpora, max_seconds=5.0, bootstrap=0, show_progress=False)
    rates = {system.name: {figures.dim: figures.equal_error_rate for figures in system.figures} for system in result.systems}
    backbone = rates["unmodified backbone"][192]
    assert 0.005 < backbone < 0.08
    assert rates["matryoshka"][192] == backbone
    assert rates["matryoshka"][256] == backbone
    # The rotation has something to show for itself: a cut of the unrotated embedding is far worse.
    assert rates["matryoshka"][16] < 0.8 * rates["unmodified backbone"][16]
