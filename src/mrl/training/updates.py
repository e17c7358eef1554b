"""One optimizer step from one or several batches: forward, backward, sum over processes, clip, step."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn

from mrl.distribution import Processes
from mrl.errors import ConfigError, TrainingError
from mrl.training.gradients import GradientExchange, average_running_statistics
from mrl.training.system import StepLoss, TrainingSystem

# Parameter groups, optimizer, and the learning rate as a plain function of the step.


Schedule = Literal["cosine", "exponential", "constant"]


def parameter_groups(
    system: TrainingSystem, *, learning_rate: float, backbone_ratio: float, weight_decay: float, class_decay_ratio: float = 1.0
) -> list[dict[str, Any]]:
    """Return the trainable parameters of the system in groups: backbone and the rest, each with and without weight decay.

    Every group carries its own peak rate as ``peak``; weight decay is for matrices and kernels, not for biases and norms. The
    speakers' vectors have ``class_decay_ratio`` of it, and a group of their own where that is not 1.
    """
    backbone = {id(parameter) for parameter in system.encoder.backbone.parameters()}
    classes = {id(parameter) for parameter in system.loss.parameters()} if class_decay_ratio != 1.0 else set()
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for parameter in system.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1
            decay = weight_decay * (class_decay_ratio if id(parameter) in classes else 1.0) if decays else 0.0
            groups.setdefault((id(parameter) in backbone, decays, decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": learning_rate * (backbone_ratio if of_backbone else 1.0),
            "lr": 0.0,
            "weight_decay": decay,
        }
        for (of_backbone, _, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


MarginSchedule = Literal["linear", "exponential"]


def margin_factor(epochs: float, *, delay: float, rise: float, schedule: MarginSchedule) -> float:
    """Return the share of the margin after ``epochs``: 0 during ``delay``, then rising over ``rise`` epochs."""
    if epochs < delay:
        return 0.0
    done = (epochs - delay) / rise if rise else 1.0
    if done >= 1.0:
        return 1.0
    return 1.0 - 0.001**done if schedule == "exponential" else done


def build_optimizer(groups: Sequence[dict[str, Any]], kind: Literal["adamw", "sgd"]) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum 0.9; ``lr`` is set before each step by :func:`set_learning_rate`."""
    if kind == "adamw":
        return torch.optim.AdamW(list(groups), betas=(0.9, 0.98), eps=1e-8)
    return torch.optim.SGD(list(groups), momentum=0.9, nesterov=True)


def warmup_steps(epochs: float, steps_per_epoch: int) -> int:
    """Return how many steps a warm-up of this many epochs takes: at least one, unless it is switched off by 0."""
    return max(1, round(epochs * steps_per_epoch)) if epochs else 0


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule, final_ratio: float) -> float:
    """Return the share of the peak rate at ``step`` (from 0): linear warm-up, then the schedule down to ``final_ratio``."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps))
    if schedule == "exponential":
        return float(final_ratio**done)
    return final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to ``factor`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


# Exponential moving average of the weights, for validation and for the result.


_FASTEST = 10  # at step n the decay is at most (1 + n) / (10 + n): early averages forget the start quickly


class WeightAverage:
    """Averages the floating-point state (parameters and buffers) of a module over steps.

    Args:
        module: what is averaged; its state now is the first average.
        decay: share of the old average that each step keeps, once enough steps are done.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {name: value.detach().clone() for name, value in _averaged(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's state after one optimizer step; frozen parameters stay bit for bit what they are."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (_FASTEST + self.steps))
        for name, value in _averaged(module).items():
            if value.requires_grad:
                self.state[name].lerp_(value.detach(), 1.0 - decay)
            elif not isinstance(value, nn.Parameter):
                self.state[name].copy_(value)  # running statistics are averages already

    @contextlib.contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Give the module the averaged state while the block runs, then its own back, bit for bit."""
        own = {name: value.detach().clone() for name, value in _averaged(module).items()}
        self.copy_to(module)
        try:
            yield
        finally:
            self._copy(own, module)

    def copy_to(self, module: nn.Module) -> None:
        """Give the module the averaged state for good."""
        self._copy(self.state, module)

    @staticmethod
    @torch.no_grad()
    def _copy(state: dict[str, torch.Tensor], module: nn.Module) -> None:
        for name, value in _averaged(module).items():
            value.copy_(state[name])


def _averaged(module: nn.Module) -> dict[str, torch.Tensor]:
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value for name, value in named.items() if value.is_floating_point()}


Precision = Literal["fp32", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True)
class UpdateReport:
    """What one update did: means of the loss and its parts, gradient norm before clipping, whether it was skipped."""

    parts: dict[str, float]
    gradient_norm: float
    skipped: bool


class Updater:
    """Owns the optimizer and everything that one step needs.

    Args:
        system: the module whose parameters the optimizer has.
        optimizer: built from the system's trainable parameters; each group has a ``peak`` rate.
        processes: this process among all.
        precision: of forward and backward passes.
        clip_norm: longest gradient; None does not clip.
        max_nonfinite: the most steps that may be skipped because loss or gradient was not finite.
        average: moving average of the encoder, updated at each step.
        update_buffers: whether BatchNorm statistics move (they are then averaged over processes).
    """

    def __init__(
        self,
        system: TrainingSystem,
        optimizer: torch.optim.Optimizer,
        *,
        processes: Processes = Processes(),  # noqa: B008 - frozen
        precision: Precision = "fp32",
        clip_norm: float | None = None,
        max_nonfinite: int = 20,
        average: WeightAverage | None = None,
        update_buffers: bool = False,
    ) -> None:
        self.system = system
        self.optimizer = optimizer
        self.average = average
        self.nonfinite_steps = 0
        self._processes = processes
        self._clip_norm = clip_norm
        self._max_nonfinite = max_nonfinite
        self._update_buffers = update_buffers
        self.device = next(system.parameters()).device
        self._precision = precision
        check_precision(precision, self.device)
        self._exchange = GradientExchange(processes, self._trained)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of forward passes."""
        if self._precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self._precision == "bf16" else torch.float16)

    def update(
        self, losses: Iterable[tuple[StepLoss, int]], *, total_crops: int, rate_factor: float, batches: int | None = None
    ) -> UpdateReport:
        """Make one step.

        Args:
            losses: for each batch of this process its loss and its number of crops, computed lazily under :meth:`autocast`:
                each is used for a backward pass before the next is asked for. The loss of a batch is the mean over its crops.
            total_crops: crops of all batches of all processes in this update: the gradient is that of the mean over all of them.
            rate_factor: share of the peak learning rate.
            batches: how many ``losses`` there are, where it is known: gradients are then exchanged during the last backward pass.

        Raises:
            TrainingError: more steps than allowed were skipped.
        """
        self.optimizer.zero_grad(set_to_none=True)
        buffers = [buffer.clone() for buffer in self.system.buffers()] if self._update_buffers else []
        sums: dict[str, torch.Tensor] = {}
        finite = torch.ones((), device=self.device)
        for number, (loss, crops) in enumerate(losses, start=1):
            share = crops / total_crops
            if bool(torch.isfinite(loss.total)):
                with self._exchange.overlapping(enabled=number == batches):
                    self.scaler.scale(loss.total * share).backward()  # type: ignore[no-untyped-call]
            else:
                finite = torch.zeros((), device=self.device)
            for name, value in loss.parts.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.float() * share
        self._exchange.finish()
        all_finite = int(self._processes.sum_(finite).item()) == self._processes.world_size
        parts = self._summed(sums)
        norm = float("nan")
        if all_finite:
            self.scaler.unscale_(self.optimizer)
            longest = float("inf") if self._clip_norm is None else self._clip_norm
            norm = float(torch.nn.utils.clip_grad_norm_(self._trained, longest))
        skipped = not torch.isfinite(torch.tensor(norm)).item()
        if skipped:
            self.optimizer.zero_grad(set_to_none=True)
            for buffer, before in zip(self.system.buffers(), buffers, strict=False):
                buffer.copy_(before)  # a batch that gave NaN would stay in the running statistics for ever
            # a scaler looks for a factor that just does not overflow, so its first skips are no fault of the run
            if not (all_finite and self.scaler.is_enabled() and self.scaler.get_scale() > 1.0):
                self._count_nonfinite(all_finite)
        set_learning_rate(self.optimizer, rate_factor)
        if all_finite and self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif not skipped:
            self.optimizer.step()
        if not skipped:
            if self._update_buffers:
                average_running_statistics(self._processes, self.system)
            if self.average is not None:
                self.average.update(self.system.encoder)
        return UpdateReport(parts, norm, bool(skipped))

    def _summed(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        # a process without crops in the last short update has no sums of its own, but takes part in the exchange
        names = self.system.part_names
        present = [float(name in sums) for name in names]
        values = torch.stack([sums.get(name, torch.zeros((), device=self.device)) for name in names])
        values, present = self._processes.sum_(torch.stack([values, values.new_tensor(present)])).tolist()
        # what no process has, such as the loss of a dim that sits out the step, is not reported
        return {name: value for name, value, times in zip(names, values, present, strict=True) if times}

    def _count_nonfinite(self, loss_finite: bool) -> None:
        self.nonfinite_steps += 1
        if self.nonfinite_steps > self._max_nonfinite:
            what = "gradient" if loss_finite else "loss"
            raise TrainingError(
                f"{self.nonfinite_steps} steps gave no finite loss or gradient, the last no finite {what} "
                f"(training.max_nonfinite_steps is {self._max_nonfinite}); "
                "lower the learning rate, or use training.precision: fp32 or bf16"
            )


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ConfigError if the device cannot train in this precision."""
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"training.precision: fp16 needs a CUDA GPU (the device is {device}); use bf16 or fp32")
