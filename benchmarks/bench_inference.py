"""How fast the network embeds in every form that can be run on this CPU, beside the official network, eager and in float32.

    python benchmarks/bench_inference.py --official /path/to/clone                    (a clone of https://github.com/IDRnD/ReDimNet)
    python benchmarks/bench_inference.py --official /path/to/clone --models b0 --quick          (a few minutes)
    python benchmarks/bench_inference.py --family redimnet2 --official /path/to/clone         (of https://github.com/PalabraAI/redimnet2)

The second generation is measured in the shape of the files trained on VoxCeleb2, which have no group norms; ``--group-norms``
adds those of the other files.

Forms: ``eager`` (ours as loaded), ``optimised`` (``optimize_for_inference()``), ``compiled`` (with ``compile=True``),
``bfloat16`` (with ``dtype=torch.bfloat16``), ``onnxruntime`` and ``openvino`` (what ``mrl export`` writes, float32), and
``openvino-bf16`` (the same file, the runtime told to compute in bfloat16), each also with a ``-fixed`` shape.

All get the same weights and input and take turns within every round, so that what else the machine does hits all of them. What is
reported is the median over rounds of official time / time of the form, in wall-clock time and in processor time, with the
smallest and the largest; the lowest cosine with the official embedding; the real-time factor (processing time / duration of the
audio); and the share of the peak: floating-point operations of convolutions and matrix products per second, against the fastest
matrix product measured by this script with as many threads (float32, or bfloat16 for the bfloat16 forms). The front end is timed
apart.

The allocator settings and the way of waiting are those of bench_embedding.py, for all forms alike.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from bench_embedding import ALLOCATOR, hub_folder, official_class, processor, torchaudio_or_stand_in
from mrl.backbone import FAMILIES, Backbone, scratch_config
from mrl.backbone.redimnet2.config import ReDimNet2Config
from mrl.errors import MissingDependencyError, MRLError
from mrl.files import write_json
from mrl.matryoshka import ReDimNetMRL

_MODELS = {"redimnet": "b0,b2,b5", "redimnet2": "redimnet2-b0,redimnet2-b3,redimnet2-b6"}

Run = Callable[[Tensor], Any]
FORMS = (
    "eager",
    "optimised",
    "compiled",
    "bfloat16",
    "onnxruntime",
    "openvino",
    "openvino-fixed",
    "openvino-bf16",
    "openvino-bf16-fixed",
)


def forms(network: Backbone, names: Iterable[str], folder: Path, threads: int) -> dict[str, Run]:
    """Return the ways to embed with ``network``; one that this machine cannot run is left out, and said so."""
    made: dict[str, Run] = {}
    for name in names:
        try:
            made[name] = _form(network, name, folder, threads)
        except (MRLError, ImportError) as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
    return made


def _form(network: Backbone, name: str, folder: Path, threads: int) -> Run:
    if name == "eager":
        return network
    if name == "optimised":
        return network.optimize_for_inference()
    if name == "compiled":
        return network.optimize_for_inference(compile=True)
    if name == "bfloat16":
        return network.optimize_for_inference(dtype=torch.bfloat16)
    if name == "onnxruntime":
        from mrl.deployment import open_runner

        runner = open_runner(_exported(network, folder), threads=threads)
        return lambda batch: torch.from_numpy(runner(batch.numpy()).raw)
    precision = "bf16" if "bf16" in name else "f32"
    return _openvino(_exported(network, folder), threads, precision, fixed=name.endswith("-fixed"))


def _exported(network: Backbone, folder: Path) -> Path:
    """Write ``model.onnx`` once, with the head of the network as Matryoshka head; both runtimes read it."""
    from mrl.deployment.checks import Reference
    from mrl.deployment.export import describe
    from mrl.deployment.writing import GraphBuilder

    path = folder / "model.onnx"
    if not path.exists():
        model = ReDimNetMRL(network, embed_dim=network.embed_dim, mrl_dims=(network.embed_dim,)).eval()
        with torch.no_grad():
            model.projection.weight.copy_(network.embedding.weight)
            model.projection.bias.copy_(network.embedding.bias)
        builder = GraphBuilder(
            Reference(model, "waveform"), describe(model, "waveform", "fp32", opset=None, calibration=None), []
        )
        builder.write("onnx", "fp32", path)
    return path


def _openvino(path: Path, threads: int, precision: str, *, fixed: bool) -> Run:
    try:
        import openvino  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError('OpenVINO is not installed: pip install "redimnet-mrl[openvino]"') from error
    from mrl.deployment.formats import OPENVINO_SETTINGS

    core = openvino.Core()
    settings = OPENVINO_SETTINGS | {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled: dict[Any, Any] = {}

    def run(batch: Tensor) -> Tensor:
        shape = tuple(batch.shape) if fixed else None
        if shape not in compiled:
            model = core.read_model(str(path))
            if shape is not None:
                model.reshape(list(shape))
            compiled[shape] = core.compile_model(model, "CPU", settings)
        return torch.from_numpy(compiled[shape](batch.numpy())["raw_embedding"].copy())

    return run


def timed(run: Run, batch: Tensor) -> tuple[float, float]:
    """Run once; return seconds on the wall clock and of processor time over all threads."""
    wall, busy = time.perf_counter(), time.process_time()
    run(batch)
    return time.perf_counter() - wall, time.process_time() - busy


def peak(dtype: torch.dtype) -> float:
    """The fastest square matrix product here, in floating-point operations per second."""
    size = 1536
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    seconds = min(timed(lambda _: left @ right, left)[0] for _ in range(10))
    return 2 * size**3 / seconds


def operations(network: nn.Module, batch: Tensor) -> float:
    """Floating-point operations of the convolutions and matrix products of one item of ``batch``."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(batch[:1])
    return float(counter.get_total_flops())


def measure(
    official: nn.Module, ways: dict[str, Run], batch: Tensor, options: argparse.Namespace, peaks: dict[str, float], work: float
) -> list[dict[str, Any]]:
    """Let the official network and every form take turns; return one row per form, the official network first."""
    runs: dict[str, Run] = {"official": official, **ways}
    with torch.inference_mode():
        found = {name: run(batch) for name, run in runs.items()}
        for run in runs.values():
            run(batch)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        deadline = time.perf_counter() + options.budget
        while len(times["official"]) < options.rounds or time.perf_counter() < deadline:
            for name, run in runs.items():
                times[name].append(timed(run, batch))
    seconds_of_audio = batch.numel() / 16000
    rows = []
    for name in runs:
        ratios = [first[0] / second[0] for first, second in zip(times["official"], times[name], strict=True)]
        busy = [first[1] / max(second[1], 1e-9) for first, second in zip(times["official"], times[name], strict=True)]
        wall = statistics.median(each[0] for each in times[name])
        cosine = functional.cosine_similarity(found["official"].double(), found[name].double(), dim=1).min()
        rows.append(
            {
                "form": name,
                "ms": 1000 * wall,
                "ratio": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
                "processor_time_ratio": statistics.median(busy),
                "real_time_factor": wall / seconds_of_audio,
                "share_of_peak": work * batch.shape[0] / wall / peaks["bfloat16" if _in_bfloat16(name) else "float32"],
                "one_minus_cosine": float(1 - cosine),
                "rounds": len(ratios),
            }
        )
    return rows


def _in_bfloat16(form: str) -> bool:
    return form == "bfloat16" or "bf16" in form


def front_end_ms(network: Backbone, batch: Tensor) -> float:
    with torch.inference_mode():
        return 1000 * statistics.median(timed(network.front_end, batch)[0] for _ in range(9))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Embedding speed of every form of the network beside the official ReDimNet (CPU)."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--official", type=Path, metavar="FOLDER", help="clone of the official repository")
    source.add_argument("--hub", action="store_true", help="fetch the official repository by torch.hub")
    parser.add_argument("--family", choices=tuple(_MODELS), default="redimnet", help="which generation (default: %(default)s)")
    parser.add_argument("--group-norms", action="store_true", help="of the second generation: with the norms of the newer files")
    parser.add_argument("--models", help="sizes, as scratch_config knows them (default: three of the family)")
    parser.add_argument("--forms", default=",".join(FORMS), help="what to run (default: %(default)s)")
    parser.add_argument("--batch", default="1,16", help="batch sizes (default: %(default)s)")
    parser.add_argument("--seconds", default="3,10", help="lengths of the recordings in seconds (default: %(default)s)")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (default: %(default)s)")
    parser.add_argument(
        "--wait", choices=("passive", "active"), default="passive", help="how threads wait (default: %(default)s)"
    )
    parser.add_argument("--budget", type=float, default=20.0, help="seconds per row group (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="at least so many rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one recording of 3 s, one thread, 5 rounds, nothing compiled")
    parser.add_argument("--output", type=Path, help="JSON file to write as well, after every row group")
    options = parser.parse_args()
    options.models = options.models or _MODELS[options.family]
    if options.hub and options.family != "redimnet":
        parser.error("--hub fetches the first generation; clone the other and give --official")
    if options.quick:
        options.batch, options.seconds, options.threads, options.rounds, options.budget = "1", "3", "1", 5, 0.0
        options.forms = ",".join(name for name in options.forms.split(",") if name != "compiled")
    unknown = set(options.forms.split(",")) - set(FORMS)
    if unknown:
        parser.error(f"unknown forms: {', '.join(sorted(unknown))}; there are {', '.join(FORMS)}")
    return options


def main() -> None:
    options = arguments()
    settings = {**ALLOCATOR, "OMP_WAIT_POLICY": options.wait}
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})
    warnings.filterwarnings("ignore", module="redimnet")  # deprecated spellings in the official code
    rows: list[dict[str, Any]] = []
    with torchaudio_or_stand_in() as front_end:
        conditions = {
            "date": datetime.date.today().isoformat(),
            "processor": f"{processor()}, {os.cpu_count()} CPUs, {torch.backends.cpu.get_cpu_capability()}",
            "torch": torch.__version__,
            "official_front_end": front_end,
            "settings": " ".join(f"{name}={os.environ[name]}" for name in settings),
        }
        constructor = official_class(hub_folder() if options.hub else options.official, options.family)
        for name, value in conditions.items():
            print(f"{name.replace('_', ' ')}: {value}")
        columns = ("model", "threads", "batch", "seconds", "form", "ms", "ratio (min-max)", "processor time", "real-time factor")
        print(f"\n| {' | '.join(columns)} | of peak | 1 - cosine |")
        print("|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|")
        for model in options.models.split(","):
            for threads in map(int, options.threads.split(",")):
                for group in bench_model(constructor, model, threads, options):
                    rows += group
                    if options.output is not None:
                        write_json(options.output, {"conditions": conditions, "rows": rows})


def bench_model(
    constructor: Callable[..., nn.Module], model: str, threads: int, options: argparse.Namespace
) -> Iterator[list[dict[str, Any]]]:
    """Measure one size of network with one number of threads; print and yield the rows of each batch."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    # A product in bfloat16 takes minutes on a processor without it.
    types = {"bfloat16" if _in_bfloat16(name) else "float32" for name in ("eager", *options.forms.split(","))}
    peaks = {name: peak(getattr(torch, name)) for name in sorted(types)}
    config = scratch_config(model)
    if isinstance(config, ReDimNet2Config) and not options.group_norms:
        config = config.replace(map_groups=0)
    model_config = config.to_model_config()
    official = constructor(**model_config).eval()
    network = FAMILIES[options.family].from_official(model_config, official.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        ways = forms(network, options.forms.split(","), Path(folder), threads)
        for size in map(int, options.batch.split(",")):
            for length in map(float, options.seconds.split(",")):
                batch = 0.1 * torch.randn(size, int(16000 * length))
                work = operations(network, batch)
                shared = {
                    "model": model,
                    "threads": threads,
                    "batch": size,
                    "seconds": length,
                    "front_end_ms": front_end_ms(network, batch),
                    "operations_per_item": work,
                    **{f"peak_{name}": speed for name, speed in peaks.items()},
                }
                rows = []
                for row in measure(official, ways, batch, options, peaks, work):
                    rows.append({**shared, **row})
                    print(
                        f"| {model} | {threads} | {size} | {length:g} | {row['form']} | {row['ms']:.1f} "
                        f"| **{row['ratio']:.2f}** ({row['lowest_ratio']:.2f}-{row['highest_ratio']:.2f}) "
                        f"| {row['processor_time_ratio']:.2f} | {row['real_time_factor']:.4f} | {row['share_of_peak']:.0%} "
                        f"| {row['one_minus_cosine']:.0e} |",
                        flush=True,
                    )
                print(
                    f"| {model} | {threads} | {size} | {length:g} | front end alone | {shared['front_end_ms']:.1f} | | | | | |"
                    f"\n\npeak {', '.join(f'{speed / 1e9:.0f} GFLOP/s {name}' for name, speed in peaks.items())}; "
                    f"{work / 1e9:.2f} GFLOP per item\n",
                    flush=True,
                )
                yield rows


if __name__ == "__main__":
    main()
