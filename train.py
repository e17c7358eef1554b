"""Train a Matryoshka model: ``python train.py --config config.yaml [section.key=value ...] [--resume auto] [--dry-run]``.

The same as ``mrl train``.
"""

from __future__ import annotations

import sys

from mrl.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
