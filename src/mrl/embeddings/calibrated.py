"""The calibration that belongs to a model: in a model folder, inside an exported file, or beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mrl.bounded import read_json_object
from mrl.errors import CheckpointError
from mrl.scoring.calibration import Calibration
from mrl.scoring.decisions import NO_CALIBRATION

if TYPE_CHECKING:
    from mrl.runtime.description import Description

CALIBRATION = "calibration.json"
"""Name of the file in a model folder; beside an exported file ``NAME.onnx`` lies ``NAME.onnx.calibration.json``."""


class ModelCalibration(NamedTuple):
    """What is known about the calibration of a model.

    Attributes:
        calibration: None without one that holds for this model.
        absence: why there is none, as a clause for messages, and what to do about it.
    """

    calibration: Calibration | None
    absence: str = NO_CALIBRATION


def calibration_file(model: str | os.PathLike[str]) -> Path:
    """Return where the calibration of a model folder or of an exported file is kept."""
    path = Path(model).expanduser()
    return path / CALIBRATION if path.is_dir() else path.with_name(f"{path.name}.{CALIBRATION}")


def load_calibration(folder: str | os.PathLike[str]) -> Calibration | None:
    """Return the calibration of a model folder, None when there is none.

    Raises:
        CheckpointError: the file is damaged or was made for other weights than the folder holds.
    """
    from mrl.matryoshka.saving import read_model_config

    path = calibration_file(folder)
    return _checked(path, str(read_model_config(folder)["weights_sha256"]), folder) if path.is_file() else None


def calibration_of_export(path: str | os.PathLike[str], description: Description) -> ModelCalibration:
    """Return the calibration of an exported file: that beside it, which was made with the file itself, or the one it carries.

    The one it carries was made with the network in fp32. Weights stored in 16 bit give the same scores; arithmetic in 8 bit gives
    others, for which it does not hold.

    Raises:
        CheckpointError: a calibration is damaged, or the one beside the file was made for another.
    """
    beside = calibration_file(path)
    if beside.is_file():
        return ModelCalibration(_checked(beside, description.model_hash, path))
    if description.calibration is None:
        return ModelCalibration(None)
    if not description.precision.startswith("fp"):
        return ModelCalibration(
            None,
            f"its calibration was made with fp32 scores, and those of {description.precision} differ; "
            f"calibrate the file itself (mrl calibrate {os.fspath(path)})",
        )
    return ModelCalibration(Calibration.from_dict(description.calibration))


def _checked(path: Path, weights_sha256: str, model: str | os.PathLike[str]) -> Calibration:
    values = read_json_object(path, error=CheckpointError, advice="calibrate again (mrl calibrate) or delete it")
    try:
        calibration = Calibration.from_dict(values)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if calibration.weights_sha256 != weights_sha256:
        raise CheckpointError(
            f"{path} was made for other weights than {os.fspath(model)} holds, so its log-likelihood ratios would be wrong; "
            "calibrate again (mrl calibrate) or delete the file"
        )
    return calibration
