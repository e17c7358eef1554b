"""Gives the bundled model its starter calibration, and measures the decisions that it leads to on lists of other collections.

    OMP_NUM_THREADS=1 python benchmarks/calibrate_demo_model.py

Calibrated on Mozilla Common Voice, which the model was not trained on: every trial compares two recordings of one language and
one gender where both are known, so that neither gives the answer away. To be run again whenever the model's weights change.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from mrl.audio import audio_info
from mrl.data.trial_source import make_trials_from
from mrl.embeddings import extract, open_embedder
from mrl.evaluation.calibrating import calibrate_model
from mrl.files import write_json
from mrl.scoring.cosine import score_prefixes
from mrl.trials import read_trials

PROJECT = Path(__file__).resolve().parents[1]
PRIOR = 0.5
"""Of two recordings that somebody compares to try things out, nothing is known."""
SOURCE = "Mozilla Common Voice, 60 languages; different speakers are of one language and gender"
SPEAKERS = 400
"""With two recordings or more: the rest are left for other purposes."""
CHECKED = ("so762-adult", "libri-test-other")


def main() -> int:
    """Make the list, calibrate, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PROJECT / "src/mrl/assets/mrl-b0-demo")
    parser.add_argument("--corpora", type=Path, default=PROJECT.parent / "shared/corpora")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "common-voice.tsv"
        write_manifest(arguments.corpora / "more-speech.tsv", manifest, arguments.seed)
        trials = make_trials_from(
            manifest,
            root=arguments.corpora,
            same_gender_share=1.0,
            gender_column="group",
            max_nontargets=30_000,
            seed=arguments.seed,
        )
        calibration = calibrate_model(arguments.model, trials, arguments.corpora, prior=PRIOR)
    facts = {
        **calibration.trial_list,
        "source": "Mozilla Common Voice, 60 languages; different speakers of one language and gender",
    }
    write_json(arguments.model / "calibration.json", {**calibration.to_dict(), "trial_list": facts})
    for dim, fitted in sorted(calibration.dims.items()):
        print(
            f"{dim}: Cllr {fitted.cllr:.3f}, of speakers held out {fitted.cllr_held_out:.3f}, minimum {fitted.minimum_cllr:.3f}"
        )
    for name in CHECKED:
        check(arguments.model, arguments.corpora, name)
    return 0


def write_manifest(source: Path, target: Path, seed: int) -> None:
    """Write the rows of some speakers of Common Voice, with language and gender in one column."""
    with source.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["corpus"] == "common_voice" and row["speaker"]]
    counts = Counter(row["speaker"] for row in rows)
    chosen = set(random.Random(seed).sample(sorted(name for name, count in counts.items() if count > 1), SPEAKERS))
    rows = [row for row in rows if row["speaker"] in chosen]
    gender_of = {row["speaker"]: row["gender"] for row in rows if row["gender"]}
    language_of = {row["speaker"]: Path(row["path"]).name.split("_")[2] for row in reversed(rows)}  # of the first recording
    with target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(["path", "speaker", "group"])
        for row in rows:
            group = f"{language_of[row['speaker']]} {gender_of.get(row['speaker'], 'unknown')}"
            writer.writerow([row["path"], row["speaker"], group])


def check(model: Path, corpora: Path, name: str) -> None:
    """Print the errors that decisions at even odds make on a list that the calibration has not seen."""
    trials = read_trials(corpora / "trials" / f"{name}.txt.gz")
    embedder = open_embedder(model)
    assert embedder.calibration is not None
    dims = embedder.default_dims
    scores = score_prefixes(extract(embedder, trials.paths(corpora), on_error="raise").matrices[0], trials, dims)
    seconds = np.array([audio_info(path).seconds for path in trials.paths(corpora)])
    for dim in dims:
        ratios = embedder.calibration.log_likelihood_ratios(dim, scores[dim], seconds[trials.enrol], seconds[trials.test])
        accepted = ratios >= 0.0
        rejects, accepts = float(np.mean(~accepted[trials.labels])), float(np.mean(accepted[~trials.labels]))
        print(f"{name} at {dim}: false rejects {100 * rejects:.1f} %, false accepts {100 * accepts:.1f} %")


if __name__ == "__main__":
    sys.exit(main())
