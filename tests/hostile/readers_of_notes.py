"""Hostile notes of the package's own, which it resumes from: caches, journals, checkpoints of runs, records of downloads."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.hostile import corpus
from tests.hostile.mutations import damaged_bytes, damaged_tree
from tests.hostile.readers import Action, Maker, files, reader, trees


@reader("checkpoints of runs", "training.checkpoints:load_state")
def _states(folder: Path) -> Maker:
    """Damaged as they lie on disk, and as an earlier version would have written them: without hashes."""
    from mrl.training.checkpoints import CheckpointFolder, Progress, TrainingState, load_state

    tensors = {"system.weight": torch.arange(6.0), "random.cpu": torch.get_rng_state()}
    values = {"stage": 1, "progress": Progress(epoch=1, step=7).to_dict(), "data": {}, "optimizer": {"0.step": 1.0}, "scaler": {}}
    place = CheckpointFolder(folder, keep=1).save(7, TrainingState(tensors, {**values, "average_steps": 0}))
    good = {file.name: file.read_bytes() for file in place.iterdir()}
    tree = {"format": 1, **values, "average_steps": 0}

    def read() -> None:
        Progress.from_dict(load_state(place).values.get("progress", {}))

    def make(rng: random.Random) -> Action:
        for name, data in good.items():
            (place / name).write_bytes(data)
        if rng.random() < 0.5:
            name = rng.choice(sorted(good))
            (place / name).write_bytes(damaged_bytes(rng, [good[name]]))
        else:
            (place / "state.json").write_bytes(json.dumps(damaged_tree(rng, tree)).encode("utf-8", "surrogatepass"))
        return read

    return make


@reader("metrics of runs", "training.logs:MetricsFile._records")
def _metrics(folder: Path) -> Maker:
    from mrl.training.logs import MetricsFile

    rows = [{"kind": "step", "step": 1, "loss": 0.5}, {"kind": "validation", "step": 2, "epochs_done": 1, "eer": {"4": 0.1}}]
    file = folder / "metrics.jsonl"

    def dump(tree: object) -> str:
        return "\n".join(json.dumps(row) for row in tree) if isinstance(tree, list) else json.dumps(tree)

    def read() -> None:
        MetricsFile(file).read()
        MetricsFile(file).cut_after(1, 1)

    return trees(file, rows, read, dump=dump)


@reader(
    "shards of recordings",
    "data.shards:ShardIndex.load",
    "data.shard_writing:_Record.read",
    "data.shard_writing:_Writer._begin",
    "data.shard_writing:_Writer._verified",
)
def _shards(folder: Path) -> Maker:
    from mrl.data import Corpus, Utterance, write_shards
    from mrl.data.shard_writing import _Record
    from mrl.data.shards import ShardIndex
    from mrl.files import sha256_of

    (folder / "a.flac").write_bytes(corpus.recording(0))
    write_shards(Corpus.of([Utterance(folder / "a.flac", "s")]), folder / "shards", progress=False)
    place = folder / "shards"
    described = json.loads((place / "shards.json").read_text())
    names, rows = (place / "names.json").read_bytes(), (place / "index.npy").read_bytes()
    record = {
        "shard": described["shards"][0],
        "first": 0,
        "end": 1,
        "key": 0,
        "rows": [[0, 1, 2, 3, 0, -1, 1.5, ".flac"]],
        "left_out": [
            {field.name: "x" for field in dataclasses.fields(__import__("mrl.data.shard_encoding", fromlist=["LeftOut"]).LeftOut)}
        ],
    }

    def make(rng: random.Random) -> Action:
        kind = rng.randrange(4)
        if kind == 0:
            (place / "record.json").write_bytes(json.dumps(damaged_tree(rng, record)).encode("utf-8", "surrogatepass"))
            return lambda: _Record.read(place / "record.json")
        (place / "names.json").write_bytes(damaged_bytes(rng, [names]) if kind == 1 else names)
        (place / "index.npy").write_bytes(damaged_bytes(rng, [rows]) if kind == 2 else rows)
        fitting = {**described, **{name: sha256_of(place / name) for name in ("names.json", "index.npy")}}
        (place / "shards.json").write_bytes(
            json.dumps(damaged_tree(rng, fitting) if kind == 3 else fitting).encode("utf-8", "surrogatepass")
        )

        def read() -> None:
            index = ShardIndex.load(place, memory_map=False)
            index.corpus()

        return read

    return make


@reader(
    "caches of pooled statistics",
    "data.pooled_cache:PooledCache.load",
    "data.pooled_cache:_read_bad",
    "data.pooled_cache:_start_of_shard",
)
def _pooled(folder: Path) -> Maker:
    from mrl.data import PooledCache

    np.save(folder / "pooled-00000.npy", np.ones((2, 1, 3), np.float32))
    good = (folder / "pooled-00000.npy").read_bytes()
    described = {"format": 1, "utterances": 2, "pooled_dim": 3, "views": 1, "max_seconds": 5.0}
    notes = trees(folder / "cache.json", described, lambda: PooledCache.load(folder))

    bad = trees(folder / "bad-00000.json", [[0, 0, "silent"], [1, 0, "cut off"]], lambda: PooledCache.load(folder))

    def make(rng: random.Random) -> Action:
        (folder / "pooled-00000.npy").write_bytes(good)
        (folder / "bad-00000.json").unlink(missing_ok=True)
        if rng.random() < 0.2:
            (folder / "cache.json").write_text(json.dumps(described))
            return bad(rng)
        if rng.random() < 0.5:
            return notes(rng)
        (folder / "cache.json").write_text(json.dumps(described))
        (folder / "pooled-00000.npy").write_bytes(damaged_bytes(rng, [good]))
        return lambda: PooledCache.load(folder)

    return make


@reader("caches of embeddings", "embeddings.cache:Shelf.find")
def _embedding_cache(folder: Path) -> Maker:
    from mrl.embeddings.cache import EmbeddingCache

    sound = folder / "a.wav"
    sound.write_bytes(b"x")
    shelf = EmbeddingCache(folder / "cache").shelf({"model": "m"})
    shelf.add([sound], (np.ones((1, 3), np.float32),))
    (part,) = (folder / "cache").glob("*/part-*.npz")
    good = part.read_bytes()

    def make(rng: random.Random) -> Action:
        part.write_bytes(damaged_bytes(rng, [good]))
        return lambda: shelf.find([sound])

    return make


@reader("journals of surveys", "data.surveying:read_journal")
def _journal(folder: Path) -> Maker:
    from mrl.audio.examining import Stretch, StretchFacts
    from mrl.data.surveying import read_journal, writing_journal

    with writing_journal(folder / "good", decode=True) as note:
        note(Stretch(folder / "a.wav"), StretchFacts(5, 6, None, 1.0, 8000, 1, 0.5, 0.0, "x"))
    return files(folder, {"journal": (folder / "good").read_bytes()}, lambda file: read_journal(file, decode=True))


@reader(
    "records of downloads",
    "pretrained.cache:read_record",
    "transfer:_read_state",
    "trials.voxceleb:_read_record",
    "pretrained.bundled:_read",
)
def _records(folder: Path) -> Maker:
    from mrl.bounded import read_json
    from mrl.errors import DownloadError
    from mrl.pretrained import bundled_models
    from mrl.pretrained.bundled import _read
    from mrl.pretrained.cache import CacheRecord, record_of
    from mrl.transfer import _read_state
    from mrl.trials.voxceleb import _read_record

    bundled = bundled_models()[0].folder
    config = json.loads((bundled / "config.json").read_text())
    (folder / "partial").write_bytes(b"x")
    fetched = {"source": "s", "sha256": corpus.SHA, "trials": 5, "targets": 2}
    state = {"url": "http://a/b", "validator": "v", "total": 9}
    cached = {"sha256": corpus.SHA, "num_bytes": 5, "source": "s", "licence_shown": True}
    makers = [
        trees(folder / "list.json", fetched, lambda: _read_record(folder / "list.json")),
        trees(folder / "partial.json", state, lambda: _read_state(folder / "partial", "http://a/b", True)),
        trees(
            folder / "cache.json",
            cached,
            lambda: record_of(CacheRecord, read_json(folder / "cache.json", error=DownloadError), "r", error=DownloadError),
        ),
        trees(folder / "config.json", config, lambda: _read(folder)),
    ]

    def make(rng: random.Random) -> Action:
        (folder / "partial").write_bytes(b"x")
        return rng.choice(makers)(rng)

    return make


@reader("folders of embeddings in the making", "embeddings.shard_writing:_read")
def _jobs(folder: Path) -> Maker:
    from mrl.embeddings.shard_writing import _read

    job = {"format": 1, "paths_sha256": corpus.SHA, "metadata": {"model": "m"}, "shard_size": 5}
    return trees(folder / "job.json", job, lambda: _read(folder / "job.json"))


@reader(
    "notes of training", "training.data:excluded_utterances", "training.epochs:BadDraws.__init__", "training.starting:_read_head"
)
def _training_notes(folder: Path) -> Maker:
    from types import SimpleNamespace
    from typing import cast

    from mrl.data import Corpus, Utterance
    from mrl.files import write_safetensors
    from mrl.training.config import TrainDataConfig
    from mrl.training.data import excluded_utterances
    from mrl.training.epochs import BadDraws
    from mrl.training.starting import _read_head

    corpus_of_two = Corpus.of([Utterance(folder / "a.wav", "s"), Utterance(folder / "b.wav", "t")])
    write_safetensors(folder / "good.safetensors", {"weight": torch.ones(2, 3), "bias": torch.ones(2)})
    heads = files(folder, {"safetensors": (folder / "good.safetensors").read_bytes()}, _read_head)

    def read(file: Path) -> None:
        BadDraws(cast(Any, SimpleNamespace(folder=SimpleNamespace(bad_utterances=file))))
        excluded_utterances(TrainDataConfig(folder=str(folder), exclude=str(file)), corpus_of_two)

    lists = files(folder, {"txt": b"a.wav\tsilent\n# a comment\n\n/x/b.wav\n"}, read)
    return lambda rng: (heads if rng.random() < 0.5 else lists)(rng)


@reader("reports for a model card", "evaluation.result:reported_rates")
def _reports(folder: Path) -> Maker:
    from mrl.evaluation.result import reported_rates

    rows = [{"dim": 4, "eer": 0.1, "eer_interval": [0.05, 0.15]}, {"dim": 8, "eer": 0.05, "eer_interval": [0.01, 0.1]}]
    report = {
        "trial_list": {"source": "a/trials.txt", "speakers": 5, "trials": 20},
        "systems": [{"name": "m", "dims": rows}],
    }
    return trees(folder / "report.json", report, lambda: reported_rates(folder / "report.json"))
