"""A teacher that is another network: its space, its kinds, and runs that learn from it without labels."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mrl.audio import load_audio
from mrl.data import Corpus, CorpusSampler, Utterance, scan_speaker_folders
from mrl.embeddings import save_embeddings
from mrl.errors import CheckpointError, ConfigError, DataError, InputError
from mrl.matryoshka import ReDimNetMRL
from mrl.training import TrainConfig, plan_run, run_training
from mrl.training.checkpoints import CheckpointFolder
from mrl.training.distillation import ClassPosteriorLoss, RegressionFit, TeacherSpace
from mrl.training.logs import MetricsFile
from mrl.training.teachers import OnnxTeacher, read_teacher_embeddings
from tests.training.conftest import ConfigFactory, dying_after

TEACHER_DIM = 6


def spectral_teacher(audio: np.ndarray) -> np.ndarray:
    """A teacher that hears something of a voice: the level of six bands, of one waveform (samples,)."""
    spectrum = np.abs(np.fft.rfft(audio, 8000))[:1200].reshape(TEACHER_DIM, -1)
    return np.log(1e-3 + spectrum.mean(axis=1)).astype(np.float32)


@pytest.fixture
def embedding_file(voices: Path, tmp_path: Path) -> Path:
    paths = sorted((voices / "train").rglob("*.flac"))
    rows = np.stack([spectral_teacher(load_audio(path)) for path in paths])
    save_embeddings(tmp_path / "teacher.npz", [path.relative_to(voices).as_posix() for path in paths], rows)
    return tmp_path / "teacher.npz"


def write_onnx(path: Path, *, samples: int | str = "samples") -> Path:
    """Mean level, and mean step from sample to sample, of each waveform: ``(batch, samples)`` -> ``(batch, 2)``."""
    onnx = pytest.importorskip("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    constants = {"one": [1], "last": [-1], "zero": [0], "long": [2**31 - 1]}
    nodes = [
        helper.make_node("Slice", ["audio", "one", "long", "one"], ["late"]),
        helper.make_node("Slice", ["audio", "zero", "last", "one"], ["early"]),
        helper.make_node("Sub", ["late", "early"], ["step"]),
        helper.make_node("Abs", ["audio"], ["level"]),
        helper.make_node("Abs", ["step"], ["steps"]),
        helper.make_node("ReduceMean", ["level", "one"], ["mean_level"], keepdims=1),
        helper.make_node("ReduceMean", ["steps", "one"], ["mean_step"], keepdims=1),
        helper.make_node("Concat", ["mean_level", "mean_step"], ["embedding"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("audio", floats, ["batch", samples])],
        [helper.make_tensor_value_info("embedding", floats, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


def _records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in MetricsFile(folder / "metrics.jsonl").read() if record["kind"] == kind]


def _state(folder: Path) -> dict[str, torch.Tensor]:
    latest = CheckpointFolder(folder / "checkpoints", 1).latest()
    assert latest is not None
    return load_file(latest / "state.safetensors")


# --- the space and the losses


def test_the_space_keeps_centred_cosines_and_puts_the_largest_axes_first() -> None:
    random = torch.Generator().manual_seed(3)
    raw = torch.randn(200, 8, generator=random) * torch.tensor([1.0, 5.0, 0.5, 3.0, 1.0, 1.0, 0.1, 2.0]) + 2.0
    space = TeacherSpace(8)
    space.fit(raw)
    mapped = space(raw)
    unit = torch.nn.functional.normalize(raw, dim=1)
    centred = torch.nn.functional.normalize(unit - unit.mean(dim=0), dim=1)
    assert torch.allclose(mapped @ mapped.T, centred @ centred.T, atol=1e-5)
    energy = mapped.square().mean(dim=0)
    assert torch.all(energy[:-1] >= energy[1:] - 1e-6) and energy[0] > 5 * energy[-1]
    again = TeacherSpace(8)
    again.fit(raw[torch.randperm(200, generator=random)])
    assert torch.allclose(again.axes, space.axes, atol=1e-4)  # not up to a sign
    space.fit(raw, centre=False)
    assert torch.allclose(space(raw) @ space(raw).T, unit @ unit.T, atol=1e-5)
    raw[3, 2] = torch.nan
    with pytest.raises(DataError, match=r"expected finite numbers, \(2 or more, 8\)"):
        space.fit(raw)


def test_class_posteriors_agree_with_the_teacher_itself_only() -> None:
    random = torch.Generator().manual_seed(0)
    teacher = torch.nn.functional.normalize(torch.randn(30, 8, generator=random), dim=1)
    labels = torch.arange(30) % 5
    loss = ClassPosteriorLoss([4, 12], 5, 8, dim_weights={4: 0.0, 12: 1.0})
    loss.fit(teacher, labels)
    padded = torch.cat([3.0 * teacher, torch.zeros(30, 4)], dim=1)
    assert loss(padded, teacher).item() == pytest.approx(0.0, abs=1e-6)
    other = torch.randn(30, 12, generator=random)
    wanted = (20 * teacher @ loss.class_means.T).softmax(dim=1)
    seen = (20 * torch.nn.functional.normalize(other[:, :8], dim=1) @ loss.class_means.T).softmax(dim=1)
    assert loss(other, teacher).item() == pytest.approx((wanted * (wanted / seen).log()).sum(dim=1).mean().item(), rel=1e-4)
    with pytest.raises(Exception, match="1 training speakers have no embedding of the teacher, the first is class 4"):
        loss.fit(teacher[labels != 4], labels[labels != 4])


def test_the_regression_head_finds_a_linear_teacher() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(300, 10, generator=random)
    weight, bias = torch.randn(4, 10, generator=random), torch.randn(4, generator=random)
    fit = RegressionFit(shrinkage=1e-6)
    for part in torch.arange(300).split(70):
        fit.add(features[part], features[part] @ weight.T + bias)
    head = fit.result(6)
    assert torch.allclose(head.weight[:4], weight.double(), atol=1e-3) and torch.allclose(head.bias[:4], bias.double(), atol=1e-3)
    assert not head.weight[4:].any() and head.outputs == 6
    with pytest.raises(DataError, match="300 statistics and 299 teacher embeddings"):
        fit.add(features, torch.zeros(299, 4))
    with pytest.raises(DataError, match="embeddings of 0 utterances; expected 2"):
        RegressionFit().result(6)


# --- teachers


def test_embeddings_are_found_by_path(voices: Path, embedding_file: Path, tmp_path: Path) -> None:
    corpus = scan_speaker_folders(voices / "train")
    rows = read_teacher_embeddings(str(embedding_file), corpus, None)
    expected = np.stack([spectral_teacher(load_audio(one.path)) for one in corpus.utterances])
    assert np.array_equal(rows, expected)
    assert np.array_equal(read_teacher_embeddings(str(embedding_file), corpus, str(voices)), expected)
    with pytest.raises(DataError, match=r"no embedding of 20 of 20 .* set distillation\.root"):
        read_teacher_embeddings(str(embedding_file), corpus, str(tmp_path))
    with pytest.raises(ConfigError, match=r"trained on at speed 0\.9 .*leave out data\.speeds"):
        read_teacher_embeddings(str(embedding_file), corpus.with_speed_copies([0.9]), None)
    expected[2] = 0.0
    save_embeddings(tmp_path / "zero.npz", [str(one.path) for one in corpus.utterances], expected)
    with pytest.raises(DataError, match="1 embeddings are zero or not finite"):
        read_teacher_embeddings(str(tmp_path / "zero.npz"), corpus, None)


def test_an_onnx_teacher_gets_no_padding(tmp_path: Path) -> None:
    teacher = OnnxTeacher(write_onnx(tmp_path / "teacher.onnx"))
    assert teacher.dim == 2
    audio = torch.zeros(3, 16000)
    lengths = torch.tensor([9000, 16000, 9000])
    for row, count in enumerate(lengths.tolist()):
        audio[row, :count] = torch.randn(count, generator=torch.Generator().manual_seed(row))
    found = teacher(audio, lengths)
    for row, count in enumerate(lengths.tolist()):
        alone = audio[row, :count]
        assert torch.allclose(found[row], torch.stack([alone.abs().mean(), alone.diff().abs().mean()]), rtol=1e-4)
    fixed = write_onnx(tmp_path / "fixed.onnx", samples=8000)
    with pytest.raises(CheckpointError, match="cannot take waveforms"):
        OnnxTeacher(fixed)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="is damaged or not an ONNX model"):
        OnnxTeacher(tmp_path / "broken.onnx")


# --- whole runs


def _scratch(make_config: ConfigFactory, teacher: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "advanced.use_pretrained": False,
        "advanced.model_name": "tiny",
        "advanced.ema_decay": 0.0,
        "advanced.weights": None,
        "loss.type": "none",
        "data.train.unlabelled": True,
        "data.balance": "utterances",
        "distillation.teacher": str(teacher),
        "model": {"embed_dim": 8, "mrl_dims": [2, 8]},
        "training.num_epochs": 8,
        "training.batch_size": 10,
        "training.learning_rate": 0.004,
        **changes,
    }
    return make_config(**settings)


def test_from_scratch_without_labels(make_config: ConfigFactory, voices: Path, embedding_file: Path) -> None:
    config = _scratch(
        make_config,
        embedding_file,
        **{
            "data.train": {"folder": str(voices / "train"), "unlabelled": True},
            "data.validation": {},
            "training.num_epochs": 40,
            "training.learning_rate": 0.01,
            "training.log_every_steps": 2,
        },
    )
    plan = plan_run(config)
    assert plan.chance_level is None and plan.speakers == 0
    result = run_training(config)
    steps = _records(result.run_folder, "step")
    for record in steps:
        assert record["loss"] == pytest.approx(10.0 * record["similarity"] + record["teacher_pull"], rel=1e-4)
    early, late = (np.mean([record["teacher_pull"] for record in part]) for part in (steps[:2], steps[-2:]))
    assert early > 0.5 and late < 0.6 * early
    # and on whole recordings, in the space of the teacher
    model = ReDimNetMRL.from_pretrained(result.run_folder / "best")
    paths = sorted((voices / "train").rglob("*.flac"))
    space = TeacherSpace(TEACHER_DIM)
    space.fit(torch.from_numpy(np.stack([spectral_teacher(load_audio(path)) for path in paths])))
    state = _state(result.run_folder)
    assert torch.allclose(state["system.space.axes"], space.axes, atol=1e-4)
    wanted = space(torch.from_numpy(np.stack([spectral_teacher(load_audio(path)) for path in paths])))
    with torch.inference_mode():
        raw = torch.stack([model.project(model.pooled_statistics(torch.from_numpy(load_audio(path))[None]))[0] for path in paths])
    assert torch.nn.functional.cosine_similarity(raw[:, :TEACHER_DIM], wanted, dim=1).mean() > 0.4


def test_a_distillation_that_dies_resumes_bit_for_bit(
    make_config: ConfigFactory, voices: Path, embedding_file: Path, tmp_path: Path
) -> None:
    folder = {"folder": str(voices / "train"), "unlabelled": True}
    settings = {
        "data.train": folder,
        "distillation.root": str(voices),
        "training.num_epochs": 3,
        "training.checkpoint_every_steps": 1,
    }
    whole = run_training(_scratch(make_config, embedding_file, **settings)).run_folder
    config = _scratch(make_config, embedding_file, **settings, **{"training.output_dir": str(tmp_path / "dying")})
    with dying_after(5):
        run_training(config)
    resumed = run_training(config, resume="auto").run_folder
    assert _records(whole, "step") == _records(resumed, "step")
    first, second = _state(whole), _state(resumed)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("audio", ["whole", "crop", "augmented"])
def test_both_stages_follow_a_network(make_config: ConfigFactory, voices: Path, tmp_path: Path, audio: str) -> None:
    """Stage 1 on cached views, stage 2 on crops; the head starts at the teacher; labels give posteriors."""
    config = make_config(
        **{
            "training.num_epochs": 2,
            "advanced.freeze_backbone_epochs": 1,
            "advanced.projection_init": "teacher",
            "distillation.teacher": str(write_onnx(tmp_path / "teacher.onnx")),
            "distillation.audio": audio,
            "distillation.class_weight": 1.0,
            "distillation.class_scale": 10.0,
            "distillation.centre": audio == "whole",
            "data.augmentation.gain_probability": 1.0,
            "data.augmentation.gain_db": [-20.0, -20.0],
            "loss.type": "none",
            "data.validation": {},
        }
    )
    result = run_training(config)
    steps = _records(result.run_folder, "step")
    assert {record["stage"] for record in steps} == {1, 2}
    assert {"similarity", "teacher_pull", "class_posteriors"} <= set(steps[0])
    assert bool(_state(result.run_folder)["system.space.mean"].any()) is (audio == "whole")
    caches = [json.loads(path.read_text()) for path in (result.run_folder / "cache").glob("*/cache.json")]
    views = sorted((one["pooled_dim"], one["views"]) for one in caches)
    assert views[0] == ((2, 1) if audio == "whole" else (2, 2))  # one of them holds the teacher's two numbers
    cache = next(
        path.parent for path in (result.run_folder / "cache").glob("*/cache.json") if '"pooled_dim": 2' in path.read_text()
    )
    rows = np.load(next(cache.glob("*.npy")))
    if audio == "crop":  # the same level as the clean utterance, not a tenth of it
        assert np.all(rows[:, 1, 0] > 0.4 * rows[:, 0, 0])
    elif audio == "augmented":
        assert np.all(rows[:, 1, 0] < 0.3 * rows[:, 0, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.similarity_weight": 1.0}, "follow the start model; with distillation.teacher use"),
        ({"distillation.similarity_weight": 0, "distillation.embedding_weight": 0}, "distillation has no weight above 0"),
        ({"data.augmentation.speed_probability": 0.5}, "another speed is another voice"),
        ({"distillation.teacher": None, "advanced.projection_init": "teacher"}, "needs distillation.teacher"),
        (
            {"data.train": {"folder": "x", "unlabelled": True}, "loss.type": "none", "distillation.class_weight": 1},
            "class_weight needs labels",
        ),
        ({"data.corpus_shares": {"a": 1}}, "corpus_shares belong to balance: corpora"),
    ],
)
def test_settings_that_do_not_go_together(make_config: ConfigFactory, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**{"distillation.teacher": "teacher.npz", **changes})


def test_a_name_stays_a_name_and_a_path_becomes_absolute(make_config: ConfigFactory, tmp_path: Path) -> None:
    assert make_config(**{"distillation.teacher": "b2-vox2-ft_lm"}).distillation.teacher == "b2-vox2-ft_lm"
    assert make_config(**{"distillation.teacher": "teacher.npz"}).distillation.teacher == str(tmp_path / "teacher.npz")


# --- corpora in one batch


def test_corpora_are_mixed_by_their_shares(tmp_path: Path) -> None:
    sizes = {"large": 60, "small": 6}
    corpus = Corpus.of(
        Utterance(tmp_path / f"{name}{number}.wav", name, corpus=name) for name, size in sizes.items() for number in range(size)
    )
    sampler = CorpusSampler(corpus, {"small": 2.0}, seed=1)
    assert len(sampler) == 66
    used: Counter[int] = Counter()
    for epoch in range(6):
        draws = sampler.epoch(epoch)
        assert len(draws) == 66 and [draw.position for draw in draws] == list(range(66))
        small = [corpus.utterances[draw.utterance].corpus == "small" for draw in draws]
        assert sum(small) == 44
        for start in range(0, 66, 11):  # in every stretch, not only in all
            assert 5 <= sum(small[start : start + 11]) <= 9
        used.update(draw.utterance for draw in draws)
        assert draws == CorpusSampler(corpus, {"small": 2.0}, seed=1).epoch(epoch)
    counts = {name: [used[i] for i, one in enumerate(corpus.utterances) if one.corpus == name] for name in sizes}
    assert min(counts["small"]) == max(counts["small"]) == 44 and max(counts["large"]) - min(counts["large"]) <= 1
    assert not any(corpus.utterances[draw.utterance].corpus == "small" for draw in CorpusSampler(corpus, {"small": 0}).epoch(0))
    with pytest.raises(InputError, match="corpus shares name other, which the data does not have; it has large, small"):
        CorpusSampler(corpus, {"other": 1.0})


def test_several_manifests_make_one_corpus(voices: Path, tmp_path: Path, make_config: ConfigFactory) -> None:
    paths = sorted((voices / "train").rglob("*.flac"))
    for name, part in (("one", paths[:8]), ("two", paths[8:])):
        rows = "".join(f"{path},{path.parent.name},{name}\n" for path in part)
        (tmp_path / f"{name}.csv").write_text(f"path,speaker,corpus\n{rows}")
    config = make_config(
        **{
            "data.train": {"manifest": ["one.csv", "two.csv"]},
            "data.balance": "corpora",
            "data.corpus_shares": {"two": 3},
            "training.num_epochs": 1,
            "advanced.freeze_backbone_epochs": 1,
            "advanced.cache_views": 1,
            "data.validation": {},
        }
    )
    assert config.data.train.manifest == [str(tmp_path / "one.csv"), str(tmp_path / "two.csv")]
    result = run_training(config)
    assert result.steps == 3
    shutil.rmtree(result.run_folder)
