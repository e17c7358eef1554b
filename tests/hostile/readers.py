"""Every reader of the package with a corpus of hostile files for it.

A reader is a function that opens a file, or takes bytes or text, that somebody else may have made. ``covers`` names the functions
of the package whose reading it exercises; :mod:`tests.hostile.test_inventory` fails where one is in no such list.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.hostile import corpus
from tests.hostile.mutations import damaged_bytes, damaged_tree

Action = Callable[[], Any]
Maker = Callable[[random.Random], Action]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader and how hostile files for it are made.

    Attributes:
        name: of the reader, for reports.
        prepare: takes an empty folder, returns a function that makes one case: from random numbers to what is to be tried.
        covers: functions of the package, without ``mrl.``.
        weight: share of the usual number of cases; below 1 for readers that start another program's parser each time.
    """

    name: str
    prepare: Callable[[Path], Maker]
    covers: tuple[str, ...]
    weight: float = 1.0


READERS: list[Reader] = []


def reader(name: str, *covers: str, weight: float = 1.0) -> Callable[[Callable[[Path], Maker]], Callable[[Path], Maker]]:
    """Register a function that prepares a corpus."""

    def register(prepare: Callable[[Path], Maker]) -> Callable[[Path], Maker]:
        READERS.append(Reader(name, prepare, covers, weight))
        return prepare

    return register


def files(folder: Path, seeds: dict[str, bytes], read: Callable[[Path], Any], *, fixed: Sequence[str] = ()) -> Maker:
    """Damaged files: each has the suffix of a seed, at times of another one; ``fixed`` ones are at times left as they are."""
    suffixes, contents = list(seeds), list(seeds.values())

    def make(rng: random.Random) -> Action:
        suffix = rng.choice(suffixes)
        data = (
            seeds[suffix] if suffix in fixed and rng.random() < 0.5 else damaged_bytes(rng, [seeds[suffix], rng.choice(contents)])
        )
        file = folder / f"case.{suffix.lstrip('.')}"
        file.write_bytes(data)
        return lambda: read(file)

    return make


def trees(place: Path, tree: Any, read: Action, *, dump: Callable[[Any], str] = json.dumps) -> Maker:
    """Files of JSON (or what ``dump`` makes) at ``place`` with wrong values in them, at times damaged as text."""
    place.parent.mkdir(parents=True, exist_ok=True)
    good = dump(tree).encode()

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.8:
            data = dump(damaged_tree(rng, tree)).encode("utf-8", "surrogatepass")
        else:
            data = damaged_bytes(rng, [good])
        place.write_bytes(data)
        return read

    return make


# --- recordings


@reader("audio files", "audio.ffmpeg_decoder:_open", "audio.soundfile_decoder:_open")
def _audio(folder: Path) -> Maker:
    from mrl.audio import audio_info, load_audio

    hostile = corpus.hostile_recordings()

    def read(file: Path) -> None:
        load_audio(file, duration=2.0)
        audio_info(file)
        load_audio(file, offset=0.05, sample_rate=8000)

    return files(folder, {**corpus.recordings(), **hostile}, read, fixed=tuple(hostile))


@reader("recordings in memory", "audio.ffmpeg_decoder:_open", "audio.soundfile_decoder:_open")
def _uploads(folder: Path) -> Maker:
    from mrl.serving import Limits
    from mrl.serving.service import decode_recording

    limits = Limits(max_seconds=5.0)
    return files(
        folder,
        {**corpus.recordings(), **corpus.hostile_recordings()},
        lambda file: decode_recording(file.read_bytes(), limits),
        fixed=tuple(corpus.hostile_recordings()),
    )


# --- networks


@reader("checkpoints", "pretrained.checkpoint:_unpickle", "pretrained.checkpoint:_verify_archive", weight=0.15)
def _checkpoints(folder: Path) -> Maker:
    """Half of them archives with damaged bytes, half whole ones with something else in them than an official checkpoint has."""
    import torch

    from mrl.pretrained import load_pretrained_redimnet

    good = corpus.checkpoint_bytes()
    config, state = corpus.network().to_official()
    file = folder / "case.pt"

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.5:
            file.write_bytes(damaged_bytes(rng, [good]))
        else:
            contents: Any = {"model_config": config, "state_dict": dict(state)}
            if rng.random() < 0.5:
                contents["model_config"] = damaged_tree(rng, config)
            if rng.random() < 0.6:
                name = rng.choice(list(state))
                tensor = corpus.hostile_tensor(rng, state[name])
                contents["state_dict"][name] = tensor
            try:
                with file.open("wb") as stream:
                    torch.save(contents, stream, _use_new_zipfile_serialization=rng.random() < 0.9)
            except (RuntimeError, ValueError, OverflowError, pickle.PicklingError, AttributeError, NotImplementedError):
                file.write_bytes(damaged_bytes(rng, [good]))
        return lambda: load_pretrained_redimnet(weights=file, progress=False)

    return make


@reader("model folders", "matryoshka.saving:read_model_config", "matryoshka.saving:read_model_folder", weight=0.3)
def _model_folders(folder: Path) -> Maker:
    """The description with wrong values, or the weights with damaged bytes and a hash that fits them."""
    from mrl.files import sha256_of
    from mrl.matryoshka import ReDimNetMRL

    place = corpus.write_model(folder / "model")
    weights, config = (place / "model.safetensors").read_bytes(), (place / "config.json").read_bytes()
    tree = json.loads(config)

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.4:
            data = damaged_bytes(rng, [weights])
            (place / "model.safetensors").write_bytes(data)
            fitting = {**tree, "weights_sha256": sha256_of(place / "model.safetensors")}
            (place / "config.json").write_text(json.dumps(fitting))
        else:
            (place / "model.safetensors").write_bytes(weights)
            data = json.dumps(damaged_tree(rng, tree)).encode("utf-8", "surrogatepass")
            (place / "config.json").write_bytes(data if rng.random() < 0.8 else damaged_bytes(rng, [config]))
        return lambda: ReDimNetMRL.from_pretrained(place)

    return make


@reader("calibrations", "embeddings.calibrated:_checked", "scoring.calibration:Calibration.from_dict", weight=0.5)
def _calibrations(folder: Path) -> Maker:
    from mrl.embeddings.calibrated import load_calibration

    place = corpus.write_model(folder / "model")

    def read() -> None:
        found = load_calibration(place)
        if found is not None:
            for dim in found.dims:
                found.log_likelihood_ratios(dim, [0.5], [2.0], [3.0])
                found.threshold(dim)

    return trees(place / "calibration.json", json.loads((place / "calibration.json").read_text()), read)


@reader("ONNX files", "runtime.session:open_session", weight=0.05)
def _onnx(folder: Path) -> Maker:
    """The golden file with damaged bytes, and its description with wrong values."""
    import numpy as np
    import onnx

    from mrl.runtime import OnnxEmbedder
    from tests.runtime.golden.record import EXPORTED

    good = EXPORTED.read_bytes()
    model = onnx.load(str(EXPORTED))
    described = {one.key: one.value for one in model.metadata_props}
    file = folder / "case.onnx"
    sound = np.random.default_rng(1).standard_normal(1600).astype(np.float32) * np.float32(0.1)

    def read() -> None:
        OnnxEmbedder(file, threads=1)(sound)

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.5:
            file.write_bytes(damaged_bytes(rng, [good]))
        else:
            del model.metadata_props[:]
            texts = damaged_tree(rng, described)
            for key, value in texts.items() if isinstance(texts, dict) else ():
                text = value if isinstance(value, str) else json.dumps(value)
                model.metadata_props.add(key=str(key), value=text.encode("utf-8", "replace").decode())
            file.write_bytes(model.SerializeToString())
        return read

    return make


@reader(
    "descriptions of exported files",
    "runtime.description:Description.from_properties",
    "runtime.description:Description.from_dict",
)
def _descriptions(folder: Path) -> Maker:
    import onnx

    from mrl.runtime import Description
    from tests.runtime.golden.record import EXPORTED

    described = {one.key: one.value for one in onnx.load(str(EXPORTED)).metadata_props}
    values = {}
    for key, text in described.items():
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text  # a word

    def make(rng: random.Random) -> Action:
        tree = damaged_tree(rng, values)
        if rng.random() < 0.5:
            return lambda: Description.from_dict(tree, "case.onnx").to_dict()
        texts = tree if isinstance(tree, dict) else {}
        texts = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in texts.items()}
        return lambda: Description.from_properties(texts, "case.onnx").to_dict()

    return make


@reader("heads", "embeddings.head:load_head")
def _heads(folder: Path) -> Maker:
    import torch

    from mrl.embeddings import EmbeddingTable, fit_head, load_head, project_embeddings, save_head

    table = EmbeddingTable(tuple("abcdefgh"), torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).numpy(), {})
    save_head(fit_head(table, None, dims=(2, 4)), folder / "good.safetensors")

    def read(file: Path) -> None:
        project_embeddings(load_head(file), table)

    return files(folder, {"safetensors": (folder / "good.safetensors").read_bytes()}, read)


# --- tables


def _tables(suffix: str) -> Callable[[Path], Maker]:
    def prepare(folder: Path) -> Maker:
        from mrl.embeddings import load_embeddings

        seeds = {name: data for name, data in corpus.embedding_files().items() if name.endswith(suffix)}
        seeds |= corpus.hostile_embeddings(suffix)

        def read(file: Path) -> None:
            table = load_embeddings(file)
            other = corpus.read_independently(file)
            if other is not None and (list(table.ids), table.matrix.tolist()) != other:
                raise AssertionError(f"an independent reader finds {str(other)[:200]}")

        return files(folder, seeds, read, fixed=tuple(name for name in seeds if name.startswith("hostile")))

    return prepare


for _suffix, _function in (
    (".npz", "_read_npz"),
    (".parquet", "_read_parquet"),
    (".safetensors", "_read_safetensors"),
    (".ark", ""),
):
    _covers = ("embeddings.formats:load_embeddings", *((f"embeddings.formats:{_function}",) if _function else ()))
    reader(f"embeddings ({_suffix})", *_covers)(_tables(_suffix))


@reader("embeddings (.scp)", "embeddings.kaldi:_scp", "embeddings.kaldi:_ark")
def _scp(folder: Path) -> Maker:
    from mrl.embeddings import load_embeddings

    archive = folder / "a.ark"
    archive.write_bytes(corpus.embedding_files()[".ark"])
    lines = f"a/0.wav {archive}:8\na/1.wav a.ark:39\nx /dev/zero:0\ny /etc/hostname:0\nz a.ark:99999999999999999999\n".encode()
    return files(folder, {"scp": lines, "1.scp": lines[: lines.index(b"x ")]}, load_embeddings, fixed=("scp",))


@reader("folders of embeddings", "embeddings.formats:ShardedEmbeddings.open")
def _sharded(folder: Path) -> Maker:
    from mrl.embeddings import ShardedEmbeddings, save_embeddings
    from mrl.files import sha256_of

    save_embeddings(folder / "shard-00000.safetensors", ["a", "b"], [[1.0, 2.0], [3.0, 4.0]])
    shard = folder / "shard-00000.safetensors"
    facts = {"name": shard.name, "rows": 2, "recordings": 3, "size": shard.stat().st_size, "sha256": sha256_of(shard)}
    index = {"format": 1, "dim": 2, "failures": 1, "metadata": {"model": "m"}, "shards": [facts]}
    return trees(folder / "index.json", index, lambda: ShardedEmbeddings.open(folder).load())


_ROWS = [
    {"path": "a.wav", "speaker": "s1", "start": 0.5, "duration": 1.5, "session": "x", "corpus": "c"},
    {"path": "b.wav", "speaker": "s2", "start": None, "duration": None, "session": None, "corpus": "c"},
]


@reader(
    "manifests",
    "data.manifest:manifest_rows",
    "data.manifest:_text_lines",
    "data.manifest:_table_rows",
    "data.manifest:_jsonl_rows",
    "data.manifest:_parquet_rows",
)
def _manifests(folder: Path) -> Maker:
    from mrl.data import read_manifest, write_manifest

    seeds = {}
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        write_manifest(folder / f"good.{suffix}", _ROWS)
        seeds[suffix] = (folder / f"good.{suffix}").read_bytes()
    damaged = files(folder, seeds, read_manifest)
    file = folder / "tree.jsonl"

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.6:
            return damaged(rng)
        rows = damaged_tree(rng, _ROWS)
        lines = [json.dumps(row) for row in rows] if isinstance(rows, list) else [json.dumps(rows)]
        file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        return lambda: read_manifest(file, where={"corpus": "c"})

    return make


@reader("lists", "trials.lists:text_lines", "trials.speakers:read_speakers", "embeddings.extraction:_read_list")
def _lists(folder: Path) -> Maker:
    import gzip

    from mrl.embeddings import collect_recordings
    from mrl.trials import read_enrolment_map, read_speakers, read_trials

    plain = b"1 a/x.wav b/y.wav\n0 a/x.wav c/z.wav\n1 c/z.wav b/y.wav\n"
    kaldi = b"a/x.wav b/y.wav target\na/x.wav c/z.wav nontarget\n"
    seeds = {"txt": plain, "kaldi.txt": kaldi, "gz": gzip.compress(plain), "map.txt": b"m1 a.wav b.wav\nm2 c.wav\n"}
    seeds["bomb.gz"] = gzip.compress(b"1 " + b"a" * 3_000_000 + b" b\n")
    damaged = files(folder, seeds, lambda file: file, fixed=("bomb.gz",))
    actions = (read_trials, read_trials, read_enrolment_map, read_speakers, lambda file: collect_recordings([file]))

    def make(rng: random.Random) -> Action:
        file, read = damaged(rng)(), rng.choice(actions)
        return lambda: read(file)

    return make


# --- settings and notes


@reader("configurations", "training.config_loading:_read_yaml", "training.config_loading:_read_override")
def _configurations(folder: Path) -> Maker:
    import yaml

    from mrl.training import load_config

    tree = {
        "data": {"train": {"folder": "a", "where": {"part": ["x", "y"]}}, "validation": {"folder": "b"}, "crop_seconds": 0.4},
        "model": {"embed_dim": 32, "mrl_dims": [4, 16, 32]},
        "training": {"num_epochs": 3, "batch_size": 8, "output_dir": "run", "learning_rate": 1e-3},
    }
    good = yaml.safe_dump(tree)
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    texts = {
        "yaml": good.encode(),
        "bomb.yaml": bomb.encode(),
        "deep.yaml": b"[" * 3000,
        "keys.yaml": b"? [a]\n: b\n",
        "int.yaml": b"a: " + b"9" * 5000,
    }
    texts |= {
        "date.yaml": b"a: 2001-99-99\n",
        "self.yaml": b"a: &a [*a]\n",
        "tag.yaml": b"a: !!python/object/apply:os.system [ls]\n",
    }
    damaged = files(folder, texts, lambda file: load_config([file]), fixed=tuple(texts))
    file = folder / "tree.yaml"

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.4:
            return damaged(rng)
        if rng.random() < 0.2:
            override = damaged_bytes(rng, [b"training.batch_size=32", b"model.mrl_dims=[4, 8]", b"data.train.where={a: b}"])
            return lambda: load_config([], [override.decode("utf-8", "replace")])
        file.write_text(yaml.safe_dump(damaged_tree(rng, tree)), encoding="utf-8", errors="replace")
        return lambda: load_config([file])

    return make


@reader(
    "voice stores",
    "identification.database:connection",
    "identification.voice_matrix:_map",
    "identification.voice_matrix:_read_header",
)
def _stores(folder: Path) -> Maker:
    from mrl.identification import VoiceStore, load_voices
    from tests.identification.makers import MODEL, filled_store, speakers

    good = filled_store(folder / "good.sqlite", 3).path.read_bytes()
    file = folder / "case.sqlite"

    def read() -> None:
        store = VoiceStore(file)
        [store.embedding(voice.name) for voice in store.voices()]
        load_voices(store, 4, side_file_voices=2)
        store.add("new", speakers(1, store.embed_dim, 9), [1.0], model_hash=store.model_hash() or MODEL)
        store.remove(["new"])

    def make(rng: random.Random) -> Action:
        for left in folder.glob("case.*"):
            left.unlink()
        file.write_bytes(damaged_bytes(rng, [good]))
        return read

    return make


@reader("exports of voices", "identification.exchange:_read", "identification.exchange:_lines")
def _exchange(folder: Path) -> Maker:
    from mrl.identification import export_voices, import_voices
    from tests.identification.makers import filled_store

    export_voices(filled_store(folder / "good.sqlite", 2), folder / "good.jsonl")
    good = (folder / "good.jsonl").read_bytes()
    lines = [json.loads(line) for line in good.splitlines()]
    store, file = folder / "case.sqlite", folder / "case.jsonl"

    def make(rng: random.Random) -> Action:
        store.unlink(missing_ok=True)
        if rng.random() < 0.6:
            rows = damaged_tree(rng, lines)
            rows = rows if isinstance(rows, list) else [rows]
            file.write_bytes("\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass"))
        else:
            file.write_bytes(damaged_bytes(rng, [good]))
        return lambda: import_voices(store, file)

    return make
