"""Small files that ask for more than the machine has, or point to what never ends: refused before anything is allocated."""

from __future__ import annotations

import asyncio
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.bounded import parse_json
from mrl.embeddings import load_embeddings
from mrl.embeddings.calibrated import load_calibration
from mrl.errors import DataError
from mrl.files import sha256_of
from mrl.matryoshka import ReDimNetMRL
from mrl.pretrained import load_pretrained_redimnet
from mrl.training import load_config
from tests.hostile import corpus
from tests.hostile.limits import attempt, bounded_memory


def refused(read: Callable[[], object], message: str, *, megabytes: float = 200.0) -> None:
    """Assert that reading is refused with this message, in little time and memory."""
    with bounded_memory():
        outcome = attempt(read)
    assert outcome.allowed and outcome.kind != "result", outcome
    assert message in outcome.said
    assert outcome.megabytes < megabytes and outcome.seconds < 10.0, outcome


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hostile-bomb.npz", "would unpack to"),
        ("hostile-claim.npz", "more than it holds"),
        ("hostile-encrypted.npz", "is encrypted"),
        ("hostile-object.npz", "object, which is not read"),
        ("hostile-nan.npz", "NaN or infinity"),
        ("hostile-bomb.parquet", "would unpack to"),
        ("hostile-names.parquet", "holds texts of"),
        ("hostile-ragged.parquet", "different lengths"),
        ("hostile-null-row.parquet", "have no embedding"),
        ("hostile-list-ids.parquet", "expected a text in every row"),
        ("hostile-list-ids.safetensors", "ids"),
        ("hostile-deep.safetensors", "nested too deeply"),
        ("hostile-f8.safetensors", "which are not read"),
        ("hostile-nan.safetensors", "NaN or infinity"),
        ("hostile-count.ark", "the file is cut off"),
        ("hostile-key.ark", "no key followed by a space"),
    ],
)
def test_tables(name: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(corpus.hostile_embeddings(file.suffix)[name])
    refused(lambda: load_embeddings(file), message)


def test_lists_point_to_regular_files_only_and_quote_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").write_text("hunter2 is the password\n")
    for target, message in (
        ("pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("secret", "expected '[ numbers ]'"),
    ):
        (tmp_path / "a.scp").write_text(f"key {tmp_path / target}:0\n")
        refused(lambda: load_embeddings(tmp_path / "a.scp"), message)
        assert "hunter2" not in attempt(lambda: load_embeddings(tmp_path / "a.scp")).said


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".safetensors", ".ark", ".scp"])
def test_pipes_under_the_name_of_a_table(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    refused(lambda: load_embeddings(tmp_path / f"a{suffix}"), "not a regular file")


# --- networks


def checkpoint(folder: Path, *, config: dict[str, Any] | None = None, first: object = None) -> Path:
    """An official checkpoint of the small network with other settings, or with something else as its first tensor."""
    described, state = corpus.network().to_official()
    changed = {} if first is None else {next(iter(state)): first}
    torch.save({"model_config": {**described, **(config or {})}, "state_dict": {**state, **changed}}, folder / "a.pt")
    return folder / "a.pt"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda good: torch.zeros(1).expand(40_000, 30_000), "more values than the file holds for it"),
        (lambda good: good.to_sparse(), "expected a dense tensor of numbers"),
        (lambda good: good.to("meta"), "expected a dense tensor of numbers"),
        (lambda good: good.to(torch.float8_e4m3fn), "holds torch.float8_e4m3fn"),
        (lambda good: torch.quantize_per_tensor(good.float(), 0.1, 0, torch.qint8), "expected a dense tensor of numbers"),
        (lambda good: torch.full_like(good, float("nan")), "holds NaN or infinite values"),
        (lambda good: good.bool(), "holds torch.bool"),
        (lambda good: [good], "is a list, expected a tensor"),
    ],
    ids=["stride-0", "sparse", "meta", "fp8", "quantised", "nan", "bool", "list"],
)
def test_tensors_of_a_checkpoint(make: Callable[[torch.Tensor], object], message: str, tmp_path: Path) -> None:
    _, state = corpus.network().to_official()
    file = checkpoint(tmp_path, first=make(next(iter(state.values()))))
    refused(lambda: load_pretrained_redimnet(weights=file, progress=False), message)


def test_a_compressed_checkpoint(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed,
        zipfile.ZipFile(io.BytesIO(corpus.checkpoint_bytes())) as good,
    ):
        for name in good.namelist():
            packed.writestr(name, bytes(100_000_000) if name.endswith("data/0") else good.read(name))
    (tmp_path / "a.pt").write_bytes(stream.getvalue())
    assert len(stream.getvalue()) < 1_000_000
    refused(lambda: load_pretrained_redimnet(weights=tmp_path / "a.pt", progress=False), "is a compressed archive")


def test_an_archive_of_many_disks(tmp_path: Path) -> None:
    end = b"PK\x06\x07" + bytes(4) + bytes(8) + b"\x02\0\0\0" + b"PK\x05\x06" + b"\xff" * 16 + bytes(2)
    (tmp_path / "a.pt").write_bytes(corpus.checkpoint_bytes()[:2000] + end)
    refused(lambda: load_pretrained_redimnet(weights=tmp_path / "a.pt", progress=False), "is truncated: its end is missing")


LAST = [2, 1, 1, [[3, 3]], None]
NETWORKS: list[dict[str, Any]] = [
    *({"C": 6000}, {"C": 10**9}, {"embed_dim": 1 << 20}),
    *({"stages_setup": [[1, 1_000_000, 1, [[3, 3]], 4], LAST]}, {"stages_setup": [[1, 1, 100_000, [[3, 3]], 4], LAST]}),
    {"stages_setup": [LAST] * 100_000},
]


@pytest.mark.parametrize("config", NETWORKS, ids=["C=6000", "C=10^9", "embed_dim", "blocks", "expansion", "stages"])
def test_networks_far_larger_than_the_file(config: dict[str, Any], tmp_path: Path) -> None:
    file = checkpoint(tmp_path, config=config)
    refused(lambda: load_pretrained_redimnet(weights=file, progress=False), "")
    place = corpus.write_model(tmp_path / "model")
    described = json.loads((place / "config.json").read_text())
    described["model_config"].update(config)
    (place / "config.json").write_text(json.dumps(described))
    refused(lambda: ReDimNetMRL.from_pretrained(place), "")


@pytest.mark.parametrize(
    ("key", "value"), [("sample_rate", 8000), ("embed_dim", 10**9), ("mrl_dims", list(range(1, 10**5))), ("mrl_dims", [True])]
)
def test_settings_of_a_model_folder(key: str, value: object, tmp_path: Path) -> None:
    place = corpus.write_model(tmp_path / "model")
    described = json.loads((place / "config.json").read_text())
    assert key in described
    (place / "config.json").write_text(json.dumps({**described, key: value}))
    refused(lambda: ReDimNetMRL.from_pretrained(place), "")


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_weights_of_a_model_folder_are_real_numbers(kind: torch.dtype, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    place = corpus.write_model(tmp_path / "model")
    tensors = load_file(place / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file({**tensors, name: tensors[name].to(kind)}, place / "model.safetensors")
    described = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**described, "weights_sha256": sha256_of(place / "model.safetensors")}))
    refused(lambda: ReDimNetMRL.from_pretrained(place), name)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["dims"][0].update(score_weight=-1.0),
        lambda tree: tree["dims"][0]["thresholds"][0].update(threshold=float("nan")),
        lambda tree: tree.update(prior="0.05"),
        lambda tree: tree.update(durations_seconds=[9.0, 1.0]),
        lambda tree: tree.update(dims=tree["dims"] * 2),
    ],
    ids=["negative weight", "NaN threshold", "prior as text", "reversed durations", "dims twice"],
)
def test_nonsense_in_a_calibration(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    place = corpus.write_model(tmp_path / "model")
    tree = json.loads((place / "calibration.json").read_text())
    assert load_calibration(place) is not None
    change(tree)
    (place / "calibration.json").write_text(json.dumps(tree))
    refused(lambda: load_calibration(place), "calibration.json")


# --- settings, JSON, requests


def test_aliases_that_multiply(tmp_path: Path) -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{one}: &{one} [{','.join(['*' + before] * 9)}]" for before, one in zip("abcdefghijk", "bcdefghijkl", strict=True)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    refused(lambda: load_config([tmp_path / "c.yaml"]), "stands for more than")
    (tmp_path / "c.yaml").write_text("a: &a [*a]\n")
    refused(lambda: load_config([tmp_path / "c.yaml"]), "c.yaml")
    (tmp_path / "c.yaml").write_text("[" * 5000)
    refused(lambda: load_config([tmp_path / "c.yaml"]), "nested too deeply")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested too deeply"),
        ("9" * 5000, "is not JSON"),
        ("-" + "9" * 41, "is not JSON"),
        ("1e999", "is not JSON"),
        ("[NaN]", "is not JSON"),
        ("-Infinity", "is not JSON"),
    ],
)
def test_json(text: str, message: str) -> None:
    refused(lambda: parse_json(text, "a.json"), message)
    assert parse_json("[" * 50 + "1" + "]" * 50, "a.json") is not None
    assert parse_json("9" * 40, "a.json") == 10**40 - 1


@pytest.mark.parametrize("length", ["²", "-1", "1e3", "0x10", "9" * 30, "5, 6", ""])
def test_lengths_of_a_body_that_are_no_numbers(length: str, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    from tests.hostile.transport import answer_to
    from tests.serving.makers import TOKEN, application

    head = f"POST /api/identify HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n"
    with application(tmp_path / "v.sqlite") as app:
        answer = asyncio.run(answer_to(app, head.encode()))
    assert answer.startswith(b"HTTP/1.1 4"), answer


def test_embeddings_that_are_not_finite_are_refused_wherever_they_come_from(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        np.savez(tmp_path / "a.npz", ids=np.array(["a"]), embeddings=np.full((1, 2), value, np.float32))
        with pytest.raises(DataError, match="NaN or infinity"):
            load_embeddings(tmp_path / "a.npz")
