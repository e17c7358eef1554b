"""Time of the Matryoshka losses, forward and backward, as ratios to one plain AAM-Softmax head of the full length.

    OMP_NUM_THREADS=1 python benchmarks/bench_losses.py
    OMP_NUM_THREADS=2 python benchmarks/bench_losses.py --threads 2 --clock wall

The baseline, "plain AAM head", is what a training script does at first: scale both sides to unit length, multiply, move the
target's angle, cross-entropy, and leave the gradient to autograd. All ways run in turn within each round, so that whatever else
the machine does hits them alike; the figures are medians over the rounds, of this process's CPU time unless told otherwise.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.matryoshka import MatryoshkaLoss

BASELINE = "plain AAM head"
_WARM_UP = 5


class PlainHead(nn.Module):
    """One AAM-Softmax head of one length by autograd."""

    def __init__(self, dim: int, num_classes: int, margin: float = 0.2, scale: float = 30.0) -> None:
        super().__init__()
        self.classes = nn.Parameter(functional.normalize(torch.randn(num_classes, dim)))
        self.margin, self.scale = margin, scale

    def forward(self, raw: Tensor, labels: Tensor) -> Tensor:
        cosines = functional.linear(functional.normalize(raw), functional.normalize(self.classes))
        target = cosines.gather(1, labels.unsqueeze(1)).clamp(-1 + 1e-7, 1 - 1e-7)
        moved = target * math.cos(self.margin) - (1 - target.square()).sqrt() * math.sin(self.margin)
        turned = target - math.sin(self.margin) * self.margin
        moved = torch.where(target > math.cos(math.pi - self.margin), moved, turned)
        return functional.cross_entropy(self.scale * cosines.scatter(1, labels.unsqueeze(1), moved), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 192, 256])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    raw = torch.randn(arguments.batch, max(arguments.dims))
    labels = torch.randint(arguments.classes, (arguments.batch,))
    ways = _ways(arguments.dims, arguments.classes)
    print(f"{arguments.classes} classes, batch {arguments.batch}, dims {arguments.dims}, {arguments.threads} thread(s)")
    seconds = measure(ways, raw, labels, arguments.rounds, time.process_time if arguments.clock == "cpu" else time.perf_counter)
    for name, values in seconds.items():
        middle = statistics.median(values)
        ratios = [mine / base for mine, base in zip(values, seconds[BASELINE], strict=True)]
        print(
            f"  {name:34s} {1000 * middle:7.1f} ms   {middle / statistics.median(seconds[BASELINE]):5.2f} of the baseline "
            f"(paired: {statistics.median(ratios):.2f})"
        )


def _ways(dims: list[int], num_classes: int) -> dict[str, nn.Module]:
    full = [max(dims)]
    return {
        BASELINE: PlainHead(full[0], num_classes),
        "ours, full length only": MatryoshkaLoss(full, num_classes),
        "shared matrix, all dims": MatryoshkaLoss(dims, num_classes, shared_classes=True),
        "a matrix per dim, all dims": MatryoshkaLoss(dims, num_classes),
        "plain AAM head for each dim": nn.ModuleList(PlainHead(dim, num_classes) for dim in dims),
        "plain AAM head, 3 times the classes": PlainHead(full[0], 3 * num_classes),
        "shared, inter-top-k": MatryoshkaLoss(dims, num_classes, shared_classes=True, topk_penalty=0.06),
        "shared, 3 sub-centres": MatryoshkaLoss(dims, num_classes, shared_classes=True, loss_type="subcenter_aam"),
        "shared, SphereFace2 C": MatryoshkaLoss(dims, num_classes, shared_classes=True, loss_type="sphereface2"),
        "shared, SphereFace2 A": MatryoshkaLoss(
            dims, num_classes, shared_classes=True, loss_type="sphereface2", sphereface2_margin_type="A"
        ),
    }


def measure(
    ways: dict[str, nn.Module], raw: Tensor, labels: Tensor, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of one forward and backward pass of each way in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + _WARM_UP):
        for name, way in ways.items():
            way.zero_grad(set_to_none=True)
            vectors = raw.clone().requires_grad_()
            start = clock()
            _loss(way, vectors, labels).backward()  # type: ignore[no-untyped-call]
            if number >= _WARM_UP:
                seconds[name].append(clock() - start)
    return seconds


def _loss(way: nn.Module, raw: Tensor, labels: Tensor) -> Tensor:
    if isinstance(way, nn.ModuleList):
        total = raw.new_zeros(())
        for head in way:
            assert isinstance(head, PlainHead)
            total = total + head(raw[:, : head.classes.shape[1]], labels) / len(way)
        return total
    output = way(raw, labels)
    loss: Tensor = output.total if isinstance(way, MatryoshkaLoss) else output
    return loss


if __name__ == "__main__":
    main()
