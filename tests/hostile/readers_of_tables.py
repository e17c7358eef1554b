"""Hostile tables: embeddings, lists, manifests, voices."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from tests.hostile import corpus
from tests.hostile.mutations import damaged_bytes, damaged_tree
from tests.hostile.readers import Action, Maker, files, reader, trees


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


for _suffix, _function, _weight in (
    (".npz", "_read_npz", 1.0),
    (".parquet", "_read_parquet", 0.5),
    (".safetensors", "_read_safetensors", 1.0),
    (".ark", "", 0.4),
):
    _covers = ("embeddings.formats:load_embeddings", *((f"embeddings.formats:{_function}",) if _function else ()))
    reader(f"embeddings ({_suffix})", *_covers, weight=_weight)(_tables(_suffix))


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


@reader("lists", "trials.lists:text_lines", "trials.speakers:read_speakers", "embeddings.inputs:_read_list")
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


@reader(
    "voice stores",
    "identification.database:connection",
    "identification.voice_matrix:_map",
    "identification.voice_matrix:_read_header",
    weight=0.4,
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
