"""Time and memory of a training step: both stages, precisions, with and without gradient checkpointing and compilation.

    python benchmarks/bench_training.py --models b0 b2 --batch 16 --seconds 2
    python benchmarks/bench_training.py --device cuda --models b0 b2 --batch 128 --seconds 3 --compile --official /path/to/clone

Networks have random weights and the input is noise: neither changes time or memory. Each row is a process of its own, because
peak memory is that of a process. ``stage 1, naive`` runs the frozen backbone at each step; ``stage 1, cached`` trains on pooled
statistics. With a clone of https://github.com/IDRnD/ReDimNet a plain training loop around the official network (its embedding,
one AAM head, AdamW) is measured in the same call; ratios are to that, or else to the first row of the model.
Times on a CPU are processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench_embedding import official_class, torchaudio_or_stand_in
from mrl.backbone import scratch_backbone, scratch_config
from mrl.hardware import hardware_line
from mrl.matryoshka import MatryoshkaLoss, create_mrl
from mrl.training.feeds import compiled, embed_waveforms
from mrl.training.system import TrainingSystem
from mrl.training.updates import Updater, build_optimizer, parameter_groups

RATE = 16000
Step = Callable[[], Any]


def main() -> int:
    """Parse; measure one row, or start a process for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["b0", "b2"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of the crops")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=3, help="measured steps, after one that is not")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="rows with torch.compile too")
    parser.add_argument("--official", type=Path, metavar="FOLDER", help="clone of the official repository")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row is not None:
        print(json.dumps(_measure(arguments, json.loads(arguments.row))))
        return 0
    threads = torch.get_num_threads()
    print(f"batch {arguments.batch} x {arguments.seconds:g} s; {hardware_line(arguments.device)}; {threads} threads\n")
    print("| model | what | s per step | crops per s | peak memory, MB | time ratio | memory ratio |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models:
        first: dict[str, float] | None = None
        for row in _rows(model, with_compiler=arguments.compile, with_official=arguments.official is not None):
            command = [sys.executable, *sys.argv, "--row", json.dumps(row)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            first = first or found
            seconds, peak = found["seconds"], found["peak_mb"]
            cells = [model, row["name"], f"{seconds:.3f}", f"{arguments.batch / seconds:.1f}", f"{peak:.0f}"]
            cells += [f"{seconds / first['seconds']:.2f}", f"{peak / first['peak_mb']:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def _rows(model: str, *, with_compiler: bool, with_official: bool) -> list[dict[str, Any]]:
    def row(name: str, **settings: Any) -> dict[str, Any]:
        return {"model": model, "name": name, "precision": "fp32", "recompute": False, "compile": False, **settings}

    rows = [row("official network, plain loop", kind="official")] if with_official else []
    rows += [row("stage 2, fp32", kind="full"), row("stage 2, fp32, checkpointing", kind="full", recompute=True)]
    rows += [row("stage 2, bf16", kind="full", precision="bf16")]
    rows += [row("stage 2, bf16, checkpointing", kind="full", precision="bf16", recompute=True)]
    if with_compiler:
        rows += [row(f"stage 2, {kind}, compiled", kind="full", precision=kind, compile=True) for kind in ("fp32", "bf16")]
    return [*rows, row("stage 1, naive", kind="frozen"), row("stage 1, cached", kind="cached")]


def _measure(arguments: argparse.Namespace, row: dict[str, Any]) -> dict[str, float]:
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    step = _official_step(arguments, row, device) if row["kind"] == "official" else _own_step(arguments, row, device)
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # processor time does not change with what else a machine does; a GPU's work is not in it
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = []
    for _ in range(arguments.steps):
        begun = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - begun)
    # Linux counts in KiB
    peak = (
        torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return {"seconds": statistics.median(times), "peak_mb": peak / 1e6}


def _own_step(arguments: argparse.Namespace, row: dict[str, Any], device: torch.device) -> Step:
    model = create_mrl(scratch_backbone(row["model"]).eval())
    if row["kind"] == "full":
        model.unfreeze_backbone()
    else:
        model.freeze_backbone()
    system = TrainingSystem(model, MatryoshkaLoss(model.mrl_dims, arguments.classes)).to(device)
    system.train()
    groups = parameter_groups(system, learning_rate=1e-4, backbone_ratio=0.1, weight_decay=1e-4)
    updater = Updater(system, build_optimizer(groups, "adamw"), precision=row["precision"], clip_norm=5.0)
    audio = torch.randn(arguments.batch, round(arguments.seconds * RATE), device=device) * 0.1
    labels = torch.arange(arguments.batch, device=device) % arguments.classes
    pooled = torch.randn(arguments.batch, model.pooled_dim, device=device)
    pool = compiled(model.pooled_statistics) if row["compile"] else None

    def step() -> None:
        with updater.autocast():
            if row["kind"] == "cached":
                raw = model.project(pooled)
            else:
                raw = embed_waveforms(model, audio, pool=pool, recompute=row["recompute"])
        loss = system(raw.float(), labels)
        updater.update(iter([(loss, arguments.batch)]), total_crops=arguments.batch, rate_factor=1.0)

    return step


def _official_step(arguments: argparse.Namespace, row: dict[str, Any], device: torch.device) -> Step:
    with torchaudio_or_stand_in():
        network = official_class(arguments.official)(**scratch_config(row["model"]).to_model_config())
    head = MatryoshkaLoss([network.linear.out_features], arguments.classes)
    both = nn.ModuleList([network, head]).to(device).train()
    optimizer = torch.optim.AdamW(both.parameters(), lr=1e-4)
    audio = torch.randn(arguments.batch, round(arguments.seconds * RATE), device=device) * 0.1
    labels = torch.arange(arguments.batch, device=device) % arguments.classes
    half = row["precision"] != "fp32"

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext():
            embedding = network(audio)
        head(embedding.float(), labels).total.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 5.0)
        optimizer.step()

    return step


if __name__ == "__main__":
    sys.exit(main())
