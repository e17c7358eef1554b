"""What every size of both generations costs on this CPU, and a plot of it against the published error rates.

    python benchmarks/bench_sizes.py --output docs/results/speed/sizes.json
    python benchmarks/bench_sizes.py --plot docs/results/speed/sizes.json docs/images/error-against-time.png

All networks take turns within every round (``optimize_for_inference()``, float32, one recording, random weights), so that what
else the machine does hits all of them. Reported are the median and the lowest processor time. The second generation is measured
in the shape of the files trained on VoxCeleb2, which have no group norms; of the first, b1 and b3 to b6 are near the released
files (see mrl/backbone/redimnet/variants.py). Error rates are those of the registry: fine-tuned, trained on VoxCeleb2, cosine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench_embedding import ALLOCATOR, processor
from mrl.backbone import FAMILIES, Backbone, scratch_config
from mrl.backbone.redimnet2.config import ReDimNet2Config
from mrl.bounded import read_json
from mrl.files import write_json
from mrl.pretrained import find_checkpoint

SIZES = {
    "redimnet": tuple(f"b{size}" for size in range(7)),
    "redimnet2": tuple(f"redimnet2-b{size}" for size in range(7)),
}
TITLES = {"redimnet": "ReDimNet", "redimnet2": "ReDimNet2"}


def build(family: str, name: str) -> Backbone:
    """Return the inference copy of an untrained network in the shape of the released file."""
    config = scratch_config(name)
    if isinstance(config, ReDimNet2Config):
        config = config.replace(map_groups=0)
    return FAMILIES[family].from_model_config(config.to_model_config()).eval().optimize_for_inference()


def measure(seconds: float, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Return a row for every size."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    networks = {name: build(family, name) for family, names in SIZES.items() for name in names}
    audio = 0.1 * torch.randn(1, int(16000 * seconds))
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for turn in range(rounds + 1):  # the first packs the weights for this length
            for name, network in networks.items():
                start = time.process_time()
                network(audio)
                if turn:
                    times[name].append(1000 * (time.process_time() - start))
            print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    return [
        {
            "model": name,
            "family": family,
            "median_ms": statistics.median(times[name]),
            "lowest_ms": min(times[name]),
            "rounds": rounds,
        }
        for family, names in SIZES.items()
        for name in names
    ]


def plot(source: Path, target: Path) -> None:
    """Draw error rates over time, a line for each generation, a panel for each list."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = read_json(source)
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for panel, (trial_list, title) in zip(panels, (("original", "Vox1-O"), ("hard", "Vox1-H")), strict=True):
        for family, marker in (("redimnet", "o"), ("redimnet2", "s")):
            rows = [row for row in results["rows"] if row["family"] == family]
            rates = [getattr(find_checkpoint(row["model"]).eer, trial_list) for row in rows]
            panel.plot([row["median_ms"] for row in rows], rates, f"-{marker}", label=TITLES[family])
            for row, rate in zip(rows, rates, strict=True):
                above = family == "redimnet"
                panel.annotate(
                    row["model"].removeprefix("redimnet2-"),
                    (row["median_ms"], rate),
                    textcoords="offset points",
                    xytext=(4, 5) if above else (-4, -12),
                    ha="left" if above else "right",
                    fontsize=8,
                )
        panel.set(title=title, xscale="log", xlabel="processor time, ms", ylabel="EER as published, %")
        panel.margins(0.07, 0.1)
        panel.grid(visible=True, which="both", alpha=0.25)
        panel.legend(loc="upper right")
    conditions = results["conditions"]
    figure.suptitle(f"One recording of {conditions['seconds']:g} s, {conditions['threads']} thread, {conditions['processor']}")
    figure.savefig(target, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of every size of both generations beside the published error rates (CPU).")
    parser.add_argument("--plot", nargs=2, type=Path, metavar=("JSON", "PNG"), help="draw what was measured before")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the recording in seconds (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: %(default)s)")
    options = parser.parse_args()
    if options.plot:
        plot(*options.plot)
        return
    settings = {**ALLOCATOR, "OMP_WAIT_POLICY": "passive"}
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})
    conditions = {
        "date": datetime.date.today().isoformat(),
        "processor": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "seconds": options.seconds,
        "threads": options.threads,
        "settings": " ".join(f"{name}={value}" for name, value in settings.items()),
    }
    rows = measure(options.seconds, options.rounds, options.threads)
    print("| model | median ms | lowest ms |\n|---|---:|---:|")
    for row in rows:
        print(f"| {row['model']} | {row['median_ms']:.1f} | {row['lowest_ms']:.1f} |")
    if options.output is not None:
        write_json(options.output, {"conditions": conditions, "rows": rows})


if __name__ == "__main__":
    main()
