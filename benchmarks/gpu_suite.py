"""What a GPU does with training and embedding, in one prepared run of less than eight minutes, as JSON and as a table.

    python benchmarks/gpu_suite.py --device cuda --output gpu.json --official /path/to/clone
    python benchmarks/gpu_suite.py --device cpu --tiny --output tiny.json      # the same code in seconds, for its test
    python benchmarks/gpu_suite.py --table gpu.json                            # the table for docs/how-to/train.md

Parts, in this order, each left out once the budget of time is used up (the JSON says which):

- ``training``: stage 2 of each model in fp32 and bf16, plain, compiled and with channels last, beside a plain loop around the
  network (its embedding, one AAM head, AdamW) in fp32 and bf16; with ``--official`` that network is the original one;
- ``exchange``: an all-reduce of 100 MB on one device (NCCL on a GPU, gloo on a CPU);
- ``loader``: crops per second by number of workers, beside what the fastest row of ``training`` takes;
- ``embedding``: the inference copy at several batch sizes, with and without a CUDA graph;
- ``agreement``: how far cosines in bf16 and fp16 lie from those in fp32.

Networks have random weights and the input is noise; neither changes time or memory.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import distributed, nn

from mrl.backbone import ReDimNet, scratch_config
from mrl.data import Corpus, CropDataset, Draw, Utterance
from mrl.data.crops import BatchLoader
from mrl.errors import MRLError
from mrl.files import write_json
from mrl.hardware import hardware_line
from mrl.matryoshka import MatryoshkaLoss, create_mrl
from mrl.training.feeds import check_compiler, compiled, embed_waveforms
from mrl.training.system import TrainingSystem
from mrl.training.updates import Updater, build_optimizer, parameter_groups

RATE = 16000
Step = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        models: from-scratch variants; those that this version does not have are listed as left out.
        batch, seconds: of training steps.
        classes: speakers.
        steps: that are timed, after two that are not.
        batches: of the embedding part.
        exchanged_bytes: in one all-reduce.
        workers: numbers of workers of the loader part.
        loader_batches: that are read for it.
    """

    models: tuple[str, ...] = ("b0", "b2", "redimnet2-b3")
    batch: int = 128
    seconds: float = 3.0
    classes: int = 6000
    steps: int = 8
    batches: tuple[int, ...] = (1, 64, 256)
    exchanged_bytes: int = 100_000_000
    workers: tuple[int, ...] = (4, 8, 16)
    loader_batches: int = 60


TINY = Sizes(("tiny",), 4, 0.4, 10, 2, (1, 3), 40_000, (0, 1), 3)


class Budget:
    """What is left of the time that the whole run may take, and which rows were left out."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.left_out: dict[str, str] = {}

    def row(self, name: str, measure: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what ``measure`` gives, as a list of one, or an empty list where there is no time or it fails."""
        if time.monotonic() > self._end:
            self.left_out[name] = "no time left"
            return []
        try:
            return [{"row": name, **measure()}]
        except (MRLError, RuntimeError, OSError) as error:  # out of memory, no compiler, not in this version: the rest goes on
            self.left_out[name] = " ".join(str(error).split())[:200]
            return []
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write JSON, or print the table of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes that still run every part")
    parser.add_argument("--output", type=Path, default=Path("gpu-suite.json"))
    parser.add_argument("--budget-seconds", type=float, default=460.0)
    parser.add_argument("--official", type=Path, metavar="FOLDER", help="clone of https://github.com/IDRnD/ReDimNet")
    parser.add_argument("--table", type=Path, metavar="JSON", help="print the table of this run and do nothing else")
    given = parser.parse_args(arguments)
    if given.table is not None:
        print(table(json.loads(given.table.read_text(encoding="utf-8"))))
        return 0
    found = run(torch.device(given.device), TINY if given.tiny else Sizes(), given.budget_seconds, given.official)
    write_json(given.output, found)
    print(table(found))
    return 0


def run(device: torch.device, sizes: Sizes, budget_seconds: float, official: Path | None = None) -> dict[str, Any]:
    """Return everything that was measured, as JSON-able values."""
    budget = Budget(budget_seconds)
    torch.manual_seed(0)
    training = _training(device, sizes, budget, official)
    fastest = max((row["crops_per_second"] for row in training), default=0.0)
    return {
        "hardware": hardware_line(str(device)),
        "sizes": dataclasses.asdict(sizes),
        "training": training,
        "exchange": budget.row("all-reduce", lambda: _exchange(device, sizes)),
        "loader": [
            row
            for workers in sizes.workers
            for row in budget.row(f"{workers} workers", lambda workers=workers: _loader(sizes, workers, fastest))  # type: ignore[misc]
        ],
        "embedding": _embedding(device, sizes, budget),
        "agreement": [
            row
            for model in sizes.models
            for row in budget.row(f"agreement of {model}", lambda model=model: _agreement(device, sizes, model))  # type: ignore[misc]
        ],
        "left_out": budget.left_out,
    }


def table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [found["hardware"], "", "| training | crops per second | peak memory, MB |", "|---|---|---|"]
    lines += [f"| {row['row']} | {row['crops_per_second']:.1f} | {row['peak_mb']:.0f} |" for row in found["training"]]
    lines += ["", "| embedding | recordings per second |", "|---|---|"]
    lines += [f"| {row['row']} | {row['per_second']:.1f} |" for row in found["embedding"]]
    lines += ["", "| loader | crops per second | share of what the fastest training row takes |", "|---|---|---|"]
    lines += [f"| {row['row']} | {row['crops_per_second']:.0f} | {row['share_of_need']:.2f} |" for row in found["loader"]]
    lines += ["", "| agreement with fp32 | largest difference of a cosine |", "|---|---|"]
    lines += [
        f"| {row['row'].removeprefix('agreement of ')}, {kind} | {row[kind]:.1e} |"
        for row in found["agreement"]
        for kind in ("bf16", "fp16")
        if row.get(kind) is not None
    ]
    lines += [f"\nAll-reduce: {row['gigabytes_per_second']:.2f} GB/s ({row['backend']})" for row in found["exchange"]]
    lines += [f"\nLeft out: {name}: {why}" for name, why in found["left_out"].items()]
    return "\n".join(lines)


# --- training


def _training(device: torch.device, sizes: Sizes, budget: Budget, official: Path | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for model in sizes.models:
        for precision in ("fp32", "bf16"):
            what = "official network" if official is not None else "network"
            rows += budget.row(
                f"{model}, plain loop around the {what}, {precision}",
                lambda model=model, precision=precision: _timed(  # type: ignore[misc]
                    _plain_step(model, precision, device, sizes, official), device, sizes
                ),
            )
            for compile_network in (False, True):
                for channels_last in (False, True):
                    name = f"{model}, stage 2, {precision}" + ", compiled" * compile_network + ", channels last" * channels_last
                    rows += budget.row(
                        name,
                        lambda model=model, precision=precision, compile_network=compile_network, channels_last=channels_last: (  # type: ignore[misc]
                            _timed(_own_step(model, precision, device, sizes, compile_network, channels_last), device, sizes)
                        ),
                    )
    return rows


def _timed(step: Step, device: torch.device, sizes: Sizes) -> dict[str, Any]:
    for _ in range(2):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    for _ in range(sizes.steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - begun) / sizes.steps
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {"seconds_per_step": seconds, "crops_per_second": sizes.batch / seconds, "peak_mb": peak / 1e6}


def _batch(device: torch.device, sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    audio = torch.randn(sizes.batch, round(sizes.seconds * RATE), device=device) * 0.1
    return audio, torch.arange(sizes.batch, device=device) % sizes.classes


def _own_step(model: str, precision: Any, device: torch.device, sizes: Sizes, compile_network: bool, channels_last: bool) -> Step:
    if compile_network:
        check_compiler(device)
    encoder = create_mrl(ReDimNet(scratch_config(model)).eval())
    encoder.unfreeze_backbone()
    system = TrainingSystem(encoder, MatryoshkaLoss(encoder.mrl_dims, sizes.classes)).to(device)
    if channels_last:
        encoder.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    system.train()
    groups = parameter_groups(system, learning_rate=1e-4, backbone_ratio=0.1, weight_decay=1e-4)
    updater = Updater(system, build_optimizer(groups, "adamw"), precision=precision, clip_norm=5.0)
    audio, labels = _batch(device, sizes)
    pool = compiled(encoder.pooled_statistics) if compile_network else None

    def step() -> None:
        with updater.autocast():
            raw = embed_waveforms(encoder, audio, pool=pool)
        loss = system(raw.float(), labels)
        updater.update(iter([(loss, len(labels))]), total_crops=len(labels), rate_factor=1.0, batches=1)

    return step


def _plain_step(model: str, precision: str, device: torch.device, sizes: Sizes, official: Path | None) -> Step:
    network: nn.Module = ReDimNet(scratch_config(model))
    if official is not None:
        from bench_embedding import official_class, torchaudio_or_stand_in

        with torchaudio_or_stand_in():
            network = official_class(official)(**scratch_config(model).to_model_config())
    audio, labels = _batch(device, sizes)
    network = network.to(device).eval()
    with torch.no_grad():
        width = network(audio[:1]).shape[1]
    both = nn.ModuleList([network, MatryoshkaLoss([width], sizes.classes)]).to(device).train()
    optimizer = torch.optim.AdamW(both.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
            embedding = network(audio)
        both[1](embedding.float(), labels).total.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 5.0)
        optimizer.step()

    return step


# --- exchange, loader


def _exchange(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            numbers = torch.ones(sizes.exchanged_bytes // 4, device=device)
            distributed.all_reduce(numbers)
            if device.type == "cuda":
                torch.cuda.synchronize()
            begun = time.perf_counter()
            for _ in range(sizes.steps):
                distributed.all_reduce(numbers)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = (time.perf_counter() - begun) / sizes.steps
        finally:
            distributed.destroy_process_group()
    return {"backend": backend, "gigabytes_per_second": sizes.exchanged_bytes / seconds / 1e9}


@contextlib.contextmanager
def _noise_corpus(sizes: Sizes) -> Iterator[Corpus]:
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        utterances = []
        for index in range(16):
            path = Path(folder) / f"{index}.flac"
            noise = random.normal(0.0, 0.1, round(2 * sizes.seconds * RATE)).clip(-1, 1)
            soundfile.write(path, noise.astype(np.float32), RATE, subtype="PCM_16")
            utterances.append(Utterance(path, f"s{index}", seconds=2 * sizes.seconds))
        yield Corpus.of(utterances)


def _loader(sizes: Sizes, workers: int, need: float) -> dict[str, Any]:
    with _noise_corpus(sizes) as corpus:
        loader = BatchLoader(CropDataset(corpus, sizes.seconds), num_workers=workers)
        draws = [[Draw((batch + row) % 16, 0, batch * sizes.batch + row) for row in range(sizes.batch)] for batch in range(3)]
        for _ in loader.read(draws[:1]):  # starts the workers
            pass
        begun, crops = time.perf_counter(), 0
        for batch in loader.read(draws[number % 3] for number in range(sizes.loader_batches)):
            crops += len(batch.labels)
        seconds = time.perf_counter() - begun
        loader.close()
    rate = crops / seconds
    return {"crops_per_second": rate, "share_of_need": rate / need if need else 0.0, "cores": os.cpu_count()}


# --- embedding, agreement


def _embedding(device: torch.device, sizes: Sizes, budget: Budget) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for model in sizes.models:
        for batch in sizes.batches:
            for graph in (False, True) if device.type == "cuda" else (False,):
                rows += budget.row(
                    f"{model}, batch {batch}" + ", CUDA graph" * graph,
                    lambda model=model, batch=batch, graph=graph: _embedding_row(device, sizes, model, batch, graph),  # type: ignore[misc]
                )
    return rows


def _embedding_row(device: torch.device, sizes: Sizes, model: str, batch: int, graph: bool) -> dict[str, Any]:
    encoder = create_mrl(ReDimNet(scratch_config(model)).eval()).optimize_for_inference(pack=device.type == "cpu").to(device)
    audio = torch.randn(batch, round(sizes.seconds * RATE), device=device) * 0.1
    with torch.inference_mode():
        encoder(audio)
        step: Step = lambda: encoder(audio)  # noqa: E731
        if graph:
            captured = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(captured):
                encoder(audio)
            step = captured.replay
        timed = _timed(step, device, dataclasses.replace(sizes, batch=batch))
    return {"per_second": timed["crops_per_second"], "peak_mb": timed["peak_mb"]}


def _agreement(device: torch.device, sizes: Sizes, model: str) -> dict[str, Any]:
    encoder = create_mrl(ReDimNet(scratch_config(model)).eval()).to(device)
    audio = torch.randn(8, round(sizes.seconds * RATE), device=device) * 0.1

    def cosines(dtype: torch.dtype | None) -> torch.Tensor:
        context = contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)
        with torch.inference_mode(), context:
            embeddings = encoder(audio).float()
        return embeddings @ embeddings.T

    exact = cosines(None)
    bf16 = float((cosines(torch.bfloat16) - exact).abs().max())
    fp16 = float((cosines(torch.float16) - exact).abs().max()) if device.type == "cuda" else None
    return {"bf16": bf16, "fp16": fp16}


if __name__ == "__main__":
    sys.exit(main())
