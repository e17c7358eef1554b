"""One line on the machine that an evaluation ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def hardware_line(device: str = "cpu") -> str:
    """Return the processor, the cores that this process may use, the operating system, torch's version and the device."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    system = f"{platform.system()} {platform.machine()}"
    return (
        f"{_processor()}, {cores} cores, {system}, Python {platform.python_version()}, torch {torch.__version__}, device {where}"
    )


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
