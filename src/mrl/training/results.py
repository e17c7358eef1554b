"""The model that a run leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrl.matryoshka import ReDimNetMRL
from mrl.pretrained import write_official_checkpoint
from mrl.training.atomic_folders import replace_folder

OFFICIAL_NAME = "official.pt"


def save_result(folder: Path, encoder: ReDimNetMRL, facts: dict[str, Any], *, official: bool) -> None:
    """Write a model folder, replacing an earlier one.

    Args:
        folder: as ``ReDimNetMRL.from_pretrained`` reads it.
        encoder: the model.
        facts: on its training, for the model card.
        official: also write ``official.pt``, the full embedding's network in the format of the released checkpoints, so that a
            model trained from scratch can be a pretrained one.

    Raises:
        TrainingError: the disk is full; the earlier folder is as it was.
    """

    def write(temporary: Path) -> None:
        encoder.save_pretrained(temporary, training=facts)
        if official:
            write_official_checkpoint(temporary / OFFICIAL_NAME, *encoder.to_backbone().to_official())

    replace_folder(folder, write)
