"""The whole job in minutes: voices, a backbone, a Matryoshka model in two stages, error rates at every dimension."""

from __future__ import annotations

from mrl.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
