"""Small good files of every kind, made here from seeds; hostile ones are made from them."""

from __future__ import annotations

import functools
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from tests.audio.sounds import sweep, write_with_ffmpeg

TINY_NETWORK: dict[str, Any] = {
    "F": 6,
    "C": 2,
    "block_1d_type": "conv",
    "block_2d_type": "basic_resnet",
    "stages_setup": [[1, 1, 1, [[3, 3]], 4], [2, 1, 1, [[3, 3]], None]],
    "group_divisor": 1,
    "embed_dim": 4,
    "hop_length": 160,
    "global_context_att": False,
    "spec_params": {"n_fft": 64, "win_length": 50, "f_min": 200, "f_max": 7600},
}
SHA = "a" * 64


def recordings() -> dict[str, bytes]:
    """Short recordings in the formats that are read, by suffix with a note."""
    samples = sweep(8000, 0.12)
    found: dict[str, bytes] = {}
    forms = {
        "wav": ("WAV", "PCM_16"),
        "8.wav": ("WAV", "PCM_U8"),
        "24.wav": ("WAV", "PCM_24"),
        "float.wav": ("WAV", "FLOAT"),
        "ex.wav": ("WAVEX", "PCM_16"),
        "ulaw.wav": ("WAV", "ULAW"),
        "adpcm.wav": ("WAV", "IMA_ADPCM"),
        "rf64": ("RF64", "PCM_16"),
        "flac": ("FLAC", "PCM_16"),
        "ogg": ("OGG", "VORBIS"),
        "opus": ("OGG", "OPUS"),
        "mp3": ("MP3", "MPEG_LAYER_III"),
        "aiff": ("AIFF", "PCM_16"),
        "au": ("AU", "PCM_16"),
        "caf": ("CAF", "PCM_16"),
        "w64": ("W64", "PCM_16"),
    }
    for suffix, (form, subtype) in forms.items():
        stream = io.BytesIO()
        soundfile.write(stream, samples, 8000, format=form, subtype=subtype)
        found[suffix] = stream.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        for name, codec, rate in (("a.m4a", "aac", 16000), ("a.webm", "libopus", 48000), ("a.mka", "pcm_s16le", 8000)):
            file = write_with_ffmpeg(Path(folder) / name, sweep(rate, 0.12), rate, codec)
            found[name.partition(".")[2]] = file.read_bytes()
    return found


def hostile_recordings() -> dict[str, bytes]:
    """Recordings that have brought a reader down, or would ask for more than the machine has."""
    return {
        "rf64-of-20-bytes.wav": b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0",
        "ds64-cut.wav": b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0" + bytes(7),
        "pcm-64.wav": wav(bits=64),
        "bits-0.wav": wav(bits=0),
        "bits-33.wav": wav(bits=33),
        "tag-ffff.wav": wav(tag=0xFFFF),
        "channels-0.wav": wav(channels=0),
        "channels-65535.wav": wav(channels=65535),
        "channels-1000.wav": wav(channels=1000, data=bytes(200_000)),
        "rate-0.wav": wav(rate=0),
        "rate-1.wav": wav(rate=1, data=bytes(range(256)) * 4000),
        "rate-4-billion.wav": wav(rate=0xFFFFFFFF),
        "rate-2-billion.wav": wav(rate=0x7FFFFFFF, data=bytes(range(256)) * 100),
        "ogg-head-only.ogg": b"OggS\0" + bytes(22) + b"\x01\x05OpusH",
        "vorbis-cut.ogg": b"OggS\0\x02" + bytes(20) + b"\x01\x1e\x01vorbis",
        "mp3-cut.mp3": b"\xff\xfb\x90\x64",
        "xing-cut.mp3": b"\xff\xfb\x90\x64" + bytes(32) + b"Xing\0\0\0\x03",
    }


def wav(*, tag: int = 1, channels: int = 1, rate: int = 8000, bits: int = 16, data: bytes = bytes(range(256)) * 8) -> bytes:
    """A WAV file whose header says what it is told to."""
    align = max(1, channels * bits // 8) & 0xFFFF
    fields = [
        tag.to_bytes(2, "little"),
        channels.to_bytes(2, "little"),
        rate.to_bytes(4, "little"),
        ((rate * align) & 0xFFFFFFFF).to_bytes(4, "little"),
        align.to_bytes(2, "little"),
        bits.to_bytes(2, "little"),
    ]
    body = b"WAVEfmt \x10\0\0\0" + b"".join(fields) + b"data" + len(data).to_bytes(4, "little") + data
    return b"RIFF" + len(body).to_bytes(4, "little") + body


@functools.lru_cache(maxsize=1)
def network() -> Any:
    """A real network of some hundred parameters."""
    from mrl.backbone import ReDimNet, ReDimNetConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return ReDimNet(ReDimNetConfig.from_model_config(TINY_NETWORK)).eval()


def checkpoint_bytes() -> bytes:
    """The network as an official checkpoint."""
    from mrl.pretrained import write_official_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        write_official_checkpoint(Path(folder) / "a.pt", *network().to_official())
        return (Path(folder) / "a.pt").read_bytes()


def write_model(folder: Path) -> Path:
    """The network with a Matryoshka head as a model folder, with a calibration."""
    from mrl.matryoshka import create_mrl

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        create_mrl(network(), embed_dim=8, mrl_dims=(4, 8)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "calibration.json").write_text(json.dumps(calibration(config["weights_sha256"])), encoding="utf-8")
    return folder


def calibration(weights_sha256: str) -> dict[str, Any]:
    """What ``calibration.json`` holds."""
    from mrl.scoring import Calibration, DimCalibration, FalseAcceptThreshold

    limits = (FalseAcceptThreshold(0.1, 1.5, 0.3),)
    dims = {dim: DimCalibration(dim, 12.0, -5.0, 0.1, -0.1, 1.0, 0.2, None, 0.1, 0.2, 0.1, limits) for dim in (4, 8)}
    return Calibration(dims, "duration", 0.05, (1.0, 9.0), {"source": "x"}, weights_sha256).to_dict()


def embedding_files() -> dict[str, bytes]:
    """A small table in every format that embeddings are read from."""
    from mrl.embeddings import save_embeddings

    rows = np.random.default_rng(5).standard_normal((5, 3)).astype(np.float32)
    ids = [f"a/{number}.wav" for number in range(5)]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".npz", ".parquet", ".safetensors"):
            path = Path(folder) / f"e{suffix}"
            save_embeddings(path, ids, rows, {"model": "m", "dim": 3})
            found[suffix] = path.read_bytes()
    found[".ark"] = b"".join(
        name.encode() + b" \0BFV \x04" + len(row).to_bytes(4, "little") + row.tobytes()
        for name, row in zip(ids, rows, strict=True)
    )
    found[".text.ark"] = b"".join(f"{name} [ {' '.join(map(str, row))} ]\n".encode() for name, row in zip(ids, rows, strict=True))
    return found


def shm() -> str | None:
    """A folder in memory where the system has one: thousands of small files are written."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def hostile_tensor(rng: Any, good: torch.Tensor) -> Any:
    """Return something else than the tensor that belongs in a place."""
    kinds = (
        lambda: torch.zeros(1).expand(40_000, 30_000),
        lambda: torch.zeros(()).expand(good.shape),
        lambda: good.to_sparse(),
        lambda: good.to("meta"),
        lambda: good.to(torch.float8_e4m3fn),
        lambda: torch.quantize_per_tensor(good.float(), 0.1, 0, torch.qint8),
        lambda: good.bool(),
        lambda: good.to(torch.int64),
        lambda: good.to(torch.complex64),
        lambda: torch.full_like(good, float("nan")) if good.is_floating_point() else good,
        lambda: good.double(),
        lambda: good.half(),
        lambda: good.reshape(-1),
        lambda: good[None],
        lambda: torch.nn.Parameter(good.float()),
        lambda: torch.zeros(0),
        lambda: [good],
        lambda: None,
        lambda: "x",
        lambda: good.numel(),
        lambda: torch.Size([1, 2]),
    )
    return rng.choice(kinds)()


@functools.lru_cache(maxsize=8)
def hostile_embeddings(suffix: str) -> dict[str, bytes]:
    """Tables that ask for far more than they hold, or that are not what they seem to be."""
    import zipfile

    found: dict[str, bytes] = {}
    if suffix == ".npz":
        for name, rows in (("bomb", 72_000_000), ("claim", 10**15)):
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                for member, shape, kind in (("ids", (1,), "<U1"), ("embeddings", (1, rows), "<f4")):
                    header = io.BytesIO()
                    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
                    with archive.open(f"{member}.npy", "w", force_zip64=True) as part:
                        part.write(header.getvalue())
                        if member == "ids":
                            part.write("a".encode("utf-32-le"))
                        for _ in range(rows * 4 // 24_000_000 if member == "embeddings" and name == "bomb" else 0):
                            part.write(bytes(24_000_000))
            found[f"hostile-{name}.npz"] = stream.getvalue()
        stream = io.BytesIO()
        np.savez(stream, ids=np.array(["a", None], dtype=object), embeddings=np.zeros((2, 2), np.float32))
        found["hostile-object.npz"] = stream.getvalue()
        stream = io.BytesIO()
        np.savez(stream, ids=np.array(["a"]), embeddings=np.zeros((1, 2), np.float32))
        encrypted = bytearray(stream.getvalue())
        for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = 0
            while (at := encrypted.find(mark, at)) >= 0:
                encrypted[at + flags] |= 1
                at += 4
        found["hostile-encrypted.npz"] = bytes(encrypted)
        stream = io.BytesIO()
        np.savez(stream, ids=np.array(["a"]), embeddings=np.full((1, 2), np.nan, np.float32))
        found["hostile-nan.npz"] = stream.getvalue()
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        tables = {
            "ragged": {"id": ["a", "b", "c"], "embedding": [[1.0], [3.0, 4.0, 9.0], [5.0, 6.0]]},
            "null-row": {"id": ["a", "b"], "embedding": [[1.0, 2.0], None]},
            "null-number": {"id": ["a", "b"], "embedding": [[1.0, 2.0], [None, 1.0]]},
            "null-id": {"id": ["a", None], "embedding": [[1.0, 2.0], [3.0, 4.0]]},
            "list-ids": {"id": [["a"], ["b"]], "embedding": [[1.0, 2.0], [3.0, 4.0]]},
            "text": {"id": ["a", "b"], "embedding": [["1", "2"], ["3", "4"]]},
            "nested": {"id": ["a", "b"], "embedding": [[[1.0]], [[2.0]]]},
            "flat": {"id": ["a", "b"], "embedding": [1.0, 2.0]},
            "bool": {"id": ["a", "b"], "embedding": [[True], [False]]},
        }
        for name, columns in tables.items():
            sink = io.BytesIO()
            pyarrow.parquet.write_table(pyarrow.table(columns), sink)
            found[f"hostile-{name}.parquet"] = sink.getvalue()
        sink = io.BytesIO()
        many = pyarrow.array(np.zeros(30_000_000, np.float32))
        rows = pyarrow.ListArray.from_arrays(pyarrow.array([0, 15_000_000, 30_000_000], pyarrow.int32()), many)
        pyarrow.parquet.write_table(pyarrow.table({"id": ["a", "b"], "embedding": rows}), sink, compression="zstd")
        found["hostile-bomb.parquet"] = sink.getvalue()
        sink = io.BytesIO()
        names = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(200_000, np.int32)), pyarrow.array(["x" * 100_000]))
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.zeros(200_000, np.float32)), 1)
        pyarrow.parquet.write_table(pyarrow.table({"id": names, "embedding": vectors}), sink)
        found["hostile-names.parquet"] = sink.getvalue()
    if suffix == ".ark":
        found["hostile-count.ark"] = b"a \0BFV \x04\xff\xff\x0f\0" + bytes(8)
        found["hostile-line.ark"] = b"a [ " + b"1 " * 2_000_000
        found["hostile-key.ark"] = b"a" * 100_000
    if suffix == ".safetensors":
        from safetensors.numpy import save

        ids = np.frombuffer(b'["a"]', np.uint8)
        found["hostile-f64.safetensors"] = save({"embeddings": np.zeros((1, 2)), "ids": ids})
        found["hostile-bool.safetensors"] = save({"embeddings": np.zeros((1, 2), bool), "ids": ids})
        found["hostile-nan.safetensors"] = save({"embeddings": np.full((1, 2), np.inf, np.float32), "ids": ids})
        lists = np.frombuffer(b'[["a"]]', np.uint8)
        found["hostile-list-ids.safetensors"] = save({"embeddings": np.zeros((1, 2), np.float32), "ids": lists})
        deep = np.frombuffer(b"[" * 200_000, np.uint8)
        found["hostile-deep.safetensors"] = save({"embeddings": np.zeros((1, 2), np.float32), "ids": deep})
        header = json.dumps(
            {
                "embeddings": {"dtype": "F8_E4M3", "shape": [1, 2], "data_offsets": [0, 2]},
                "ids": {"dtype": "U8", "shape": [5], "data_offsets": [2, 7]},
            }
        ).encode()
        found["hostile-f8.safetensors"] = len(header).to_bytes(8, "little") + header + b"\0\0" + b'["a"]'
    return found


def recording(number: int) -> bytes:
    """A good recording of somewhat more than a second, of another length and melody for each number."""
    stream = io.BytesIO()
    soundfile.write(stream, sweep(16000, 1.1 + 0.1 * number) * (0.5 + 0.1 * number), 16000, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def silent_flac(seconds: int, *, rate: int) -> bytes:
    """A FLAC file of a few blocks of silence whose header promises a long recording."""
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(rate * 3, np.int16), rate, format="FLAC", subtype="PCM_16")
    data = bytearray(stream.getvalue())
    total = seconds * rate
    data[21] = (data[21] & 0xF0) | (total >> 32)  # 36 bits: the length in samples
    data[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def read_independently(file: Path) -> tuple[list[str], list[list[float]]] | None:
    """Ids and rows as the formats' own libraries read them; None where they refuse, or the file is large."""
    if file.stat().st_size > 1_000_000:
        return None
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                ids, rows = archive["ids"].tolist(), archive["embeddings"]
        elif file.suffix == ".parquet":
            import pyarrow.parquet

            found = pyarrow.parquet.read_table(file).to_pylist()
            ids, rows = [one["id"] for one in found], np.array([one["embedding"] for one in found], dtype=np.float64)
        elif file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            tensors = load_file(file)
            ids, rows = json.loads(tensors["ids"].tobytes()), tensors["embeddings"]
        else:
            return None
        with np.errstate(over="ignore"):
            return ids, np.asarray(rows).astype(np.float32).tolist()
    except Exception:
        return None
