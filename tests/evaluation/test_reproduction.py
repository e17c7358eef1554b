"""Published figures measured again, on a miniature VoxCeleb."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mrl.audio import write_synthetic_corpus
from mrl.embeddings import Extraction, embed_files, open_model
from mrl.errors import DataError, InputError
from mrl.evaluation import evaluate_embeddings, reproduce_voxceleb
from mrl.pretrained import find_checkpoint
from mrl.scoring import adaptive_symmetric_norm, equal_error_rate, score_prefixes, speaker_means
from mrl.trials import TrialList, read_trials
from tests.pretrained.small import write_small_checkpoint

QUIET = Extraction(num_workers=0, show_progress=False)
B0 = (("b0", "ft_lm", "vox2"),)


@pytest.fixture(autouse=True)
def own_checkpoint_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of first use go into the test's folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.delenv("MRL_MIRROR", raising=False)


def write_voxceleb(root: Path, *, dev_from: int = 4) -> list[str]:
    """Write ``test/wav/id10000/video/00001.flac`` and so on, later speakers below ``dev/wav``; return the lists' names."""
    files = write_synthetic_corpus(root / "made", num_speakers=6, utterances_per_speaker=3, seconds=(0.4, 0.6), seed=0)
    names = []
    for number, file in enumerate(files):
        speaker, utterance = divmod(number, 3)
        name = f"id1{speaker:04d}/video{utterance % 2}/{utterance:05d}.wav"
        target = root / ("test" if speaker < dev_from else "dev") / "wav" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target)  # the contents tell the format, not the name
        names.append(name)
    shutil.rmtree(root / "made")
    return names


def write_lists(folder: Path, names: list[str]) -> dict[str, TrialList]:
    """Write O over the first four speakers, E and H over all, under their official names or WeSpeaker's, one of them gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(a.split("/")[0] == b.split("/")[0], a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    lists = {"O": [pair for pair in pairs if max(pair[1], pair[2]) < "id10005"], "E": pairs, "H": pairs[::2]}
    text = {name: "".join(f"{int(same)} {a} {b}\n" for same, a, b in chosen) for name, chosen in lists.items()}
    (folder / "veri_test2.txt").write_text(text["O"])
    (folder / "vox1_E_cleaned.trial").write_text(text["E"])
    (folder / "list_test_hard2.txt.gz").write_bytes(gzip.compress(text["H"].encode()))
    files = {"O": "veri_test2.txt", "E": "vox1_E_cleaned.trial", "H": "list_test_hard2.txt.gz"}
    return {name: read_trials(folder / file) for name, file in files.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voxceleb")
    write_lists(folder / "vox1" / "meta", write_voxceleb(folder / "vox1"))
    # The names of released files whose hash is not published, so that a small network may stand in for them.
    write_small_checkpoint(folder / "b0-vox2-ft_lm.pt")
    return folder


def test_every_row_of_the_published_table(place: Path) -> None:
    rows = reproduce_voxceleb(
        place / "vox1", models=B0, weights=str(place), any_list=True, bootstrap=100, tolerance=0.3, extraction=QUIET
    )
    published = find_checkpoint("b0", "ft_lm", "vox2").eer
    assert published is not None
    assert [(row.checkpoint, row.trial_list, row.published) for row in rows] == [
        ("b0-vox2-ft_lm", "O", published.original),
        ("b0-vox2-ft_lm", "E", published.extended),
        ("b0-vox2-ft_lm", "H", published.hard),
    ]
    lists = {"O": "veri_test2.txt", "E": "vox1_E_cleaned.trial", "H": "list_test_hard2.txt.gz"}
    model = open_model("b0", weights=str(place))
    for row in rows:
        trials = read_trials(place / "vox1" / "meta" / lists[row.trial_list])
        folders = {name: "test" if name < "id10004" else "dev" for name in trials.utterances}
        paths = [place / "vox1" / folders[name] / "wav" / name for name in trials.utterances]
        matrix = embed_files(model, paths, num_workers=0, show_progress=False).matrix
        expected = evaluate_embeddings(trials.utterances, matrix, trials, [8], bootstrap=0).equal_error_rates()[8]
        assert row.measured == pytest.approx(100 * expected, abs=1e-6)
        assert row.difference == pytest.approx(row.measured - row.published)
        assert row.interval is None or row.interval.low <= row.measured * 1.5
        assert not row.official and row.trials == len(trials)
        assert row.within_tolerance == (round(abs(row.difference), 2) <= 0.3)


def test_tolerance_decides_on_the_two_digits_that_are_published(place: Path) -> None:
    row = reproduce_voxceleb(
        place / "vox1", models=B0, weights=str(place), lists=["o"], any_list=True, bootstrap=0, extraction=QUIET
    )[0]
    difference = abs(row.difference)
    for tolerance, within in ((difference + 0.1, True), (round(difference, 2), True), (difference - 0.1, False)):
        again = reproduce_voxceleb(
            place / "vox1",
            models=B0,
            weights=str(place),
            lists=["O"],
            any_list=True,
            bootstrap=0,
            tolerance=max(0.0, tolerance),
            extraction=QUIET,
        )[0]
        assert again.within_tolerance == within


def test_what_is_missing_or_wrong_is_told_before_any_work(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 105 trials, the cleaned list of Vox1-O has 37,611"):
        reproduce_voxceleb(place / "vox1", models=B0, weights=str(place), lists=["O"], extraction=QUIET)
    with pytest.raises(DataError, match="list_test_all2.txt"):
        reproduce_voxceleb(place / "vox1", models=B0, lists=["E"], trials_dir=tmp_path, fetch=False)
    shutil.copytree(place / "vox1" / "meta", tmp_path / "vox1" / "meta")
    with pytest.raises(DataError, match=r"18 of 18 utterances of the lists are not below .*dev part"):
        reproduce_voxceleb(tmp_path / "vox1", models=B0, lists=["E"], any_list=True, bootstrap=0)
    with pytest.raises(InputError, match="O, E, H"):
        reproduce_voxceleb(place / "vox1", lists=["X"])
    with pytest.raises(InputError, match="no equal error rates were published"):
        reproduce_voxceleb(place / "vox1", models=(("b2", "ptn", "vox2"),))
    with pytest.raises(InputError, match="tolerance"):
        reproduce_voxceleb(place / "vox1", tolerance=float("nan"))


def test_as_norm_rows_beside_those_published_with_it(place: Path, tmp_path: Path) -> None:
    write_synthetic_corpus(tmp_path / "vox2", num_speakers=5, utterances_per_speaker=2, seconds=(0.4, 0.5), seed=4)
    rows = reproduce_voxceleb(
        place / "vox1",
        models=B0,
        weights=str(place),
        lists=["O", "H"],
        any_list=True,
        bootstrap=0,
        as_norm_top=5,
        cohort=tmp_path / "vox2",
        extraction=QUIET,
    )
    published = find_checkpoint("b0", "ft_lm", "vox2").eer_as_norm
    assert published is not None
    assert [(row.trial_list, row.scoring) for row in rows] == [(one, how) for one in "OH" for how in ("cosine", "AS-Norm, top 5")]
    assert [rows[1].published, rows[3].published] == [published.original, published.hard]
    model = open_model("b0", weights=str(place))
    trials = read_trials(place / "vox1" / "meta" / "veri_test2.txt")
    paths = [place / "vox1" / ("test" if name < "id10004" else "dev") / "wav" / name for name in trials.utterances]
    others = sorted((tmp_path / "vox2").rglob("*.flac"))
    clean, extra = (embed_files(model, files, num_workers=0, show_progress=False).matrix for files in (paths, others))
    means, _ = speaker_means(extra, [file.parent.name for file in others])
    raw = score_prefixes(clean, trials, [8])
    expected = adaptive_symmetric_norm(raw, clean, clean, means, trials, [8], top=5)[8]
    assert rows[1].measured == pytest.approx(100 * equal_error_rate(expected, trials.labels), abs=1e-6)
    assert rows[0].measured == pytest.approx(100 * equal_error_rate(raw[8], trials.labels), abs=1e-6)
    with pytest.raises(InputError, match="need a cohort"):
        reproduce_voxceleb(place / "vox1", models=B0, weights=str(place), any_list=True, as_norm_top=5)
    with pytest.raises(InputError, match="no error rates with AS-Norm were published for S-vb2"):
        mixed = (("S", "ft_mix", "vb2+vox2+cnc"),)
        reproduce_voxceleb(place / "vox1", models=mixed, any_list=True, as_norm_top=5, cohort=tmp_path / "vox2")


@pytest.mark.shared
def test_on_real_speech_in_voxceleb_shape(shared: Path, tmp_path: Path) -> None:
    """Adults of speechocean762 under VoxCeleb's names; the stand-in for b0 tells them apart far better than chance."""
    speakers = sorted((shared / "corpora" / "eval" / "so762_adult").iterdir())[:10]
    names = []
    for number, speaker in enumerate(speakers):
        for utterance, file in enumerate(sorted(speaker.iterdir())[:4]):
            name = f"id1{number:04d}/video{utterance}/00001.wav"
            (tmp_path / "wav" / name).parent.mkdir(parents=True)
            (tmp_path / "wav" / name).symlink_to(file)
            names.append(name)
    write_lists(tmp_path / "trials", names)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "b0-vox2-ft_lm.pt").symlink_to(shared / "corpora" / "checkpoints" / "b0-standin.pt")
    arguments: dict[str, object] = {"models": B0, "weights": str(weights), "lists": ["E"], "any_list": True, "bootstrap": 100}
    arguments |= {"extraction": QUIET, "cache": tmp_path / "cache"}
    row = reproduce_voxceleb(tmp_path, **arguments)[0]  # type: ignore[arg-type]
    assert 2.0 < row.measured < 20.0 and not row.within_tolerance
    assert row.interval is not None and row.interval.low < row.measured < row.interval.high
    assert np.isclose(reproduce_voxceleb(tmp_path, **arguments)[0].measured, row.measured)  # type: ignore[arg-type]
