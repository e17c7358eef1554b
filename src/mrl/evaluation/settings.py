"""What decides an evaluation of systems that a user names: each setting declared once and passed whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mrl.distribution import Processes
from mrl.embeddings import Crops, Embedder, EmbeddingCache, Extraction, extract
from mrl.embeddings.embedder import Output
from mrl.errors import InputError
from mrl.evaluation.conditions import Condition
from mrl.evaluation.protocol import Protocol
from mrl.scoring.bootstrap import Resampling

CalibrateOn = Literal["model", "held-out", "none"]
CALIBRATE_ON: tuple[CalibrateOn, ...] = ("model", "held-out", "none")


@dataclass(frozen=True)
class SystemSettings:
    """Which systems are opened, and how.

    Attributes:
        weights: for a released name, where its file is.
        dims: prefix lengths; by default each model's own, and those of the Matryoshka models for everything else beside them. A
            system shorter than a length is measured whole instead.
        depth: stop the networks (of model folders with exits) after this many stages; the baseline is a whole network.
        own_backbone: measure the backbone inside each Matryoshka model, too (each different one once), unless ``baseline`` is
            given.
        baseline: one more network to compare with.
        device: where the networks run.
    """

    weights: str | None = None
    dims: Sequence[int] | None = None
    depth: int | None = None
    own_backbone: bool = True
    baseline: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class EmbeddingSettings:
    """How the recordings of an evaluation become embeddings.

    Attributes:
        extraction: the settings of every extraction.
        cache: folder where embeddings are looked up and kept; None for none.
        processes: those that share the work, by default this one alone; an evaluation connects them while it embeds.
    """

    extraction: Extraction = Extraction()  # noqa: RUF009 - frozen
    cache: str | os.PathLike[str] | None = None
    processes: Processes = Processes()  # noqa: RUF009 - frozen

    def embed(
        self,
        embedder: Embedder,
        names: Sequence[str],
        paths: Sequence[str | os.PathLike[str]],
        *,
        outputs: Sequence[Output] = ("embedding",),
        crops: Crops | None = None,
        change: Condition | None = None,
        description: str = "embedding",
    ) -> tuple[npt.NDArray[np.float32], ...]:
        """Return one matrix (recordings, dim) for each output, with crops (recordings, crops, dim), in the order of ``paths``.

        Args:
            embedder: the model.
            names: what the recordings are called in the trial lists; they decide the noise of a condition.
            paths: the recordings, in the same order.
            outputs, crops, change, description: as for :func:`mrl.embeddings.extract`.

        Raises:
            DataError: missing or unreadable files; all of them are counted.
            ProcessError: another process has ended, does not answer, or was given other recordings.
            ReportedElsewhereError: in all processes but the first, instead of the DataError.
        """
        cache = None if self.cache is None else EmbeddingCache(self.cache)
        return extract(
            embedder,
            paths,
            self.extraction,
            outputs=outputs,
            crops=crops,
            change=change,
            names=names,
            cache=cache,
            processes=self.processes,
            description=description,
            on_error="raise",
        ).matrices

    def refuse_for_table(self, spec: str, **others: Any) -> None:
        """Raise :class:`InputError` where a setting for recordings, or one of ``others``, is given with a file of embeddings."""
        for option, value in {**others, "max_seconds": self.extraction.max_seconds, "cache": self.cache}.items():
            if value is not None:
                raise InputError(f"{option} does not go with a file of embeddings ({spec}); leave it out")


@dataclass(frozen=True)
class MeasurementSettings(SystemSettings, Resampling, EmbeddingSettings):
    """What decides any measurement of named systems on trial lists: which systems, their embeddings, and intervals.

    Attributes:
        command: the command line, for the report.
    """

    command: Sequence[str] = ()


@dataclass(frozen=True)
class EvaluationSettings(MeasurementSettings):
    """What decides an evaluation.

    Attributes:
        conditions: what is done to the test side (see :func:`mrl.evaluation.make_conditions`); needs models, not files.
        strata: columns of ``manifest`` to divide each list by.
        manifest: its rows say what the recordings are.
        protocol: how trials are scored; the cosine of whole recordings by default.
        calibrate_on: where log-likelihood ratios come from: "model" uses the calibration that a model has, at the dims that it
            covers (and with a plain protocol only), "held-out" fits on the list's other speakers, "none" leaves them out.

    Raises:
        InputError: settings that do not go together.
    """

    conditions: Sequence[Condition] = ()
    strata: Sequence[str] = ()
    manifest: str | os.PathLike[str] | None = None
    protocol: Protocol = Protocol()  # noqa: RUF009 - frozen
    calibrate_on: CalibrateOn = "model"

    def __post_init__(self) -> None:
        if bool(self.strata) != (self.manifest is not None):
            raise InputError("strata need both columns (--strata) and the manifest that holds them (--manifest); found only one")
        if self.calibrate_on not in CALIBRATE_ON:
            raise InputError(f"calibrate_on must be one of {', '.join(CALIBRATE_ON)}; found {self.calibrate_on!r}")
        if self.protocol.num_crops is not None and self.conditions:
            raise InputError("crops (--crops) do not go with conditions on the test side; give one of the two")
        if self.protocol.enrolment is not None and (self.conditions or self.strata):
            kind = "conditions on the test side" if self.conditions else "strata"
            raise InputError(f"an enrolment map (--enrolment-map) does not go with {kind}; give one of the two")
