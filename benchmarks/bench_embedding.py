"""How fast this package's network embeds, beside the official one, on this machine's CPU, eager and in float32.

    python benchmarks/bench_embedding.py --official /path/to/clone      (a clone of https://github.com/IDRnD/ReDimNet)
    python benchmarks/bench_embedding.py --hub                          (fetches the code, not the weights, by torch.hub)

Both networks get the same weights, the same input and the same settings, and take turns (A B A B), so that what else the machine
does hits both. What is reported is the median of the ratios of neighbouring runs (official time / our time: above 1 we are
faster), with the smallest and the largest, in wall-clock time; beside it the median ratio of processor time.

Two settings must be made before a process starts, so the script starts itself again with them, for both networks alike. The
memory allocator of glibc gives large blocks back to the system after every use, which can cost more than a layer: that is turned
off. And threads that wait for each other sleep instead of spinning (``--wait active`` for the default of OpenMP), because on a
machine that is busy with other things spinning steals the very processor that the other thread needs.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import os
import platform
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mrl.backbone import ReDimNet, scratch_config
from mrl.backbone.frontend import mel_filters
from mrl.files import write_json

ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
HUB = "IDRnD/ReDimNet"


class _PowerSpectrogram(nn.Module):
    def __init__(self, n_fft: int, win_length: int, hop_length: int, window_fn: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.sizes = (n_fft, hop_length, win_length)
        self.window: Tensor
        self.register_buffer("window", window_fn(win_length))

    def forward(self, waveform: Tensor) -> Tensor:
        flat = waveform.reshape(-1, waveform.shape[-1])
        spectrum = torch.stft(flat, *self.sizes, window=self.window, center=True, pad_mode="reflect", return_complex=True)
        return spectrum.abs().square().reshape(*waveform.shape[:-1], *spectrum.shape[-2:])


class _MelScale(nn.Module):
    def __init__(self, n_mels: int, n_fft: int, sample_rate: int, f_min: float, f_max: float) -> None:
        super().__init__()
        self.fb: Tensor
        self.register_buffer("fb", mel_filters(n_mels, n_fft, sample_rate, f_min, f_max))

    def forward(self, power: Tensor) -> Tensor:
        return (power.transpose(-1, -2) @ self.fb).transpose(-1, -2)


class _MelSpectrogram(nn.Module):
    """What the official code takes from torchaudio, with the same parameters and the same names in its state dict."""

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        win_length: int,
        hop_length: int,
        f_min: float,
        f_max: float,
        n_mels: int,
        window_fn: Callable[[int], Tensor],
    ) -> None:
        super().__init__()
        self.spectrogram = _PowerSpectrogram(n_fft, win_length, hop_length, window_fn)
        self.mel_scale = _MelScale(n_mels, n_fft, sample_rate, f_min, f_max)

    def forward(self, waveform: Tensor) -> Tensor:
        power: Tensor = self.spectrogram(waveform)
        mel: Tensor = self.mel_scale(power)
        return mel


@contextlib.contextmanager
def torchaudio_or_stand_in() -> Iterator[str]:
    """Make ``import torchaudio`` work, and say by what."""
    try:
        torchaudio = importlib.import_module("torchaudio")
    except (ImportError, OSError):  # OSError: its binary part does not fit this torch
        names = ("torchaudio", "torchaudio.transforms")
        package, transforms = (types.ModuleType(name) for name in names)
        vars(transforms)["MelSpectrogram"] = _MelSpectrogram
        vars(package)["transforms"] = transforms
        sys.modules.update(zip(names, (package, transforms), strict=True))
        try:
            yield "a stand-in by torch.stft, because torchaudio cannot be imported here"
        finally:
            for name in names:
                del sys.modules[name]
    else:
        yield f"torchaudio {torchaudio.__version__}"


# By family: the repository, the module in it, and the class in that.
_OFFICIAL = {
    "redimnet": (HUB, "redimnet.model", "ReDimNetWrap"),
    "redimnet2": ("PalabraAI/redimnet2", "redimnet2.redimnet2", "ReDimNet2Wrap"),
}


def official_class(folder: Path, family: str = "redimnet") -> Callable[..., nn.Module]:
    """Return the constructor of the official network from a clone of its repository."""
    repository, module, name = _OFFICIAL[family]
    if not (folder / f"{module.replace('.', '/')}.py").is_file():
        raise SystemExit(f"{folder} holds no {module.replace('.', '/')}.py; expected a clone of https://github.com/{repository}")
    sys.path.insert(0, str(folder))
    try:
        constructor: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
    finally:
        sys.path.remove(str(folder))
    return constructor


def hub_folder() -> Path:
    """Fetch the official repository by torch.hub and return its folder."""
    torch.hub.list(HUB, trust_repo=True)  # type: ignore[no-untyped-call]
    found = sorted(Path(torch.hub.get_dir()).glob(HUB.replace("/", "_") + "_*"))
    if not found:
        raise SystemExit(f"torch.hub fetched {HUB}, but nothing by that name lies in {torch.hub.get_dir()}")
    return found[-1]


def timed(network: nn.Module, batch: Tensor) -> tuple[float, float]:
    """Run once; return seconds on the wall clock and of processor time over all threads."""
    wall, processor_time = time.perf_counter(), time.process_time()
    network(batch)
    return time.perf_counter() - wall, time.process_time() - processor_time


def compare(official: nn.Module, ours: nn.Module, batch: Tensor, budget: float, least: int) -> dict[str, float]:
    """Run both in turn for about ``budget`` seconds, at least ``least`` times each."""
    with torch.inference_mode():
        reference, found = official(batch), ours(batch)
        pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
        deadline = time.perf_counter() + budget
        while len(pairs) < least or time.perf_counter() < deadline:
            pairs.append((timed(official, batch), timed(ours, batch)))
    ratios = [first[0] / second[0] for first, second in pairs]
    return {
        "official_ms": 1000 * statistics.median(first[0] for first, _ in pairs),
        "ours_ms": 1000 * statistics.median(second[0] for _, second in pairs),
        "ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        "processor_time_ratio": statistics.median(first[1] / second[1] for first, second in pairs),
        "pairs": len(pairs),
        "largest_difference": float((reference - found).abs().max() / reference.norm(dim=1).max()),
    }


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Embedding speed beside the official ReDimNet (CPU, eager, float32).")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--official", type=Path, metavar="FOLDER", help="clone of the official repository")
    source.add_argument("--hub", action="store_true", help="fetch the official repository by torch.hub")
    parser.add_argument("--models", default="b0,b2,b5", help="sizes, as scratch_config knows them (default: %(default)s)")
    parser.add_argument("--batch", default="1,16", help="batch sizes (default: %(default)s)")
    parser.add_argument("--seconds", default="3,10", help="lengths of the recordings in seconds (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads (default: as PyTorch chooses)")
    parser.add_argument(
        "--wait", choices=("passive", "active"), default="passive", help="how threads wait for each other (default: %(default)s)"
    )
    parser.add_argument("--budget", type=float, default=20.0, help="seconds per row (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=7, help="at least so many pairs of runs per row (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file to write as well")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    settings = {**ALLOCATOR, "OMP_WAIT_POLICY": options.wait}
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="redimnet")  # deprecated spellings in the official code
    conditions = {
        "date": datetime.date.today().isoformat(),
        "processor": f"{processor()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "settings": " ".join(f"{name}={os.environ[name]}" for name in settings),
    }
    rows: list[dict[str, str | float]] = []
    with torchaudio_or_stand_in() as front_end:
        conditions["official_front_end"] = front_end
        for name, value in conditions.items():
            print(f"{name.replace('_', ' ')}: {value}")
        print("\n| model | batch | seconds | official ms | ours ms | ratio (min-max) | processor time | pairs | difference |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        constructor = official_class(hub_folder() if options.hub else options.official)
        for model in options.models.split(","):
            torch.manual_seed(0)
            model_config = scratch_config(model).to_model_config()
            official = constructor(**model_config).eval()
            ours = ReDimNet.from_official(model_config, official.state_dict())
            for size in map(int, options.batch.split(",")):
                for length in map(float, options.seconds.split(",")):
                    batch = 0.1 * torch.randn(size, int(16000 * length))
                    row = compare(official, ours, batch, options.budget, options.pairs)
                    rows.append({"model": model, "batch": size, "seconds": length, **row})
                    print(
                        f"| {model} | {size} | {length:g} | {row['official_ms']:.1f} | {row['ours_ms']:.1f} "
                        f"| **{row['ratio']:.2f}** ({row['lowest_ratio']:.2f}-{row['highest_ratio']:.2f}) "
                        f"| {row['processor_time_ratio']:.2f} | {row['pairs']} | {row['largest_difference']:.0e} |",
                        flush=True,
                    )
    if options.output is not None:
        write_json(options.output, {"conditions": conditions, "rows": rows})


if __name__ == "__main__":
    main()
