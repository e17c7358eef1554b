"""Error rates at every trained dim on the validation trials, and the rule by which the best checkpoint is chosen.

The rule: for each trained dim, the equal error rate divided by that of the run's start (step 0); the checkpoint with the lowest
mean of these ratios is best. Step 0 takes part with a mean of 1, so a run can never report a best that is worse than its start.
Half an error among the target trials is added above and below, so that a start without errors divides nothing by zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mrl.data import Corpus, Utterance, WholeUtterances, load_batches, scan_speaker_folders
from mrl.data.crops import seconds_of
from mrl.data.pooled_cache import pooled_in_batches
from mrl.distribution import Processes
from mrl.errors import DataError
from mrl.lengths import group_by_length, split_by_length
from mrl.matryoshka import ReDimNetMRL
from mrl.progress import progress_bar
from mrl.scoring import score_prefixes
from mrl.scoring.metrics import error_curve
from mrl.training.config import ValidationConfig
from mrl.trials import TrialList, read_trials

_P_TARGET = 0.01
_MOST_RECORDINGS = 3000  # about 4.5 million pairs
_NO_SPEAKER = ""  # a trial list names pairs, not speakers


@dataclasses.dataclass(frozen=True)
class ValidationResult:
    """Error rates per dim.

    Attributes:
        eer: equal error rate, 0 to 1.
        min_dcf: normalised minimum detection cost at a target prior of 0.01.
        num_target: same-speaker trials behind them.
    """

    eer: dict[int, float]
    min_dcf: dict[int, float]
    num_target: int

    def relative_to(self, start: ValidationResult) -> float:
        """Return the mean over dims of this EER over the start's: below 1 is better than the start."""
        half = 0.5 / self.num_target
        return float(np.mean([(self.eer[dim] + half) / (start.eer[dim] + half) for dim in self.eer]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"eer": _by_text(self.eer), "min_dcf": _by_text(self.min_dcf), "num_target": self.num_target}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ValidationResult:
        """The inverse of :meth:`to_dict`."""
        eer, min_dcf = ({int(dim): float(value) for dim, value in values[name].items()} for name in ("eer", "min_dcf"))
        return cls(eer, min_dcf, int(values["num_target"]))


class Validator:
    """Embeds the recordings of a trial list and scores it at every dim.

    Several processes share the recordings. Which of them are computed in one batch does not depend on the number of processes, so
    neither does any number of the result.

    While the backbone is frozen its pooled statistics are computed once and kept.

    Args:
        trials: the list.
        root: folder that its paths start from.
        dims: prefix lengths.
        max_seconds: only the first seconds of longer recordings are used.
        batch_seconds: the most audio per forward pass, seconds.
        num_workers: processes that read recordings.

    Raises:
        DataError: recordings are missing, or the list has trials of one kind only.
    """

    def __init__(
        self,
        trials: TrialList,
        root: Path,
        dims: Sequence[int],
        *,
        max_seconds: float = 20.0,
        batch_seconds: float = 60.0,
        num_workers: int = 0,
    ) -> None:
        trials.require_both_classes()
        trials.require_files(root, advice="set data.validation.root")
        self.trials = trials
        self.dims = tuple(dims)
        self.paths = paths = trials.paths(root)
        utterances = tuple(Utterance(path, _NO_SPEAKER) for path in paths)
        self._seconds = [seconds_of(utterance, max_seconds) for utterance in utterances]
        self._batches = group_by_length(self._seconds, batch_seconds)
        self._source = WholeUtterances(Corpus(utterances, (_NO_SPEAKER,), (0,) * len(paths)), max_seconds)
        self._num_workers = num_workers
        self._pooled: list[npt.NDArray[np.float32]] | None = None  # of this process's batches

    def evaluate(self, encoder: ReDimNetMRL, processes: Processes = Processes()) -> ValidationResult | None:  # noqa: B008 - frozen
        """Return the error rates of the encoder as it is now; it is in eval mode meanwhile.

        Args:
            encoder: the Matryoshka model.
            processes: those that share the recordings; all must call this together, with the same weights.

        Returns:
            The error rates; None in all processes but the first.

        Raises:
            DataError: an embedding is not finite.
            AudioLoadingError: a recording cannot be read.
        """
        raw = self._embed(encoder, processes)
        if not processes.is_first:
            return None
        scores = score_prefixes(raw, self.trials, self.dims)
        curves = {dim: error_curve(values, self.trials.labels) for dim, values in scores.items()}
        return ValidationResult(
            {dim: curve.equal_error_rate() for dim, curve in curves.items()},
            {dim: curve.minimum_dcf(_P_TARGET) for dim, curve in curves.items()},
            self.trials.num_target,
        )

    def _embed(self, encoder: ReDimNetMRL, processes: Processes) -> npt.NDArray[np.float32]:
        """Return the raw embeddings (recordings, embed_dim), to which every process contributes the rows of its batches."""
        seconds = {number: sum(self._seconds[member] for member in batch) for number, batch in enumerate(self._batches)}
        mine = [self._batches[number] for number in split_by_length(seconds, processes.world_size)[processes.rank]]
        was_training = encoder.training
        encoder.eval()
        try:
            pooled = self._pooled if encoder.backbone_frozen else None
            if pooled is None:
                pooled = self._pool(encoder, mine, processes)
            self._pooled = pooled if encoder.backbone_frozen else None
            rows = torch.zeros(len(self.paths), encoder.embed_dim, device=encoder.device)
            with torch.inference_mode():
                for members, part in zip(mine, pooled, strict=True):
                    rows[members] = encoder.project(torch.from_numpy(part).to(encoder.device)).float()
        finally:
            encoder.train(was_training)
        # each row is zero in all processes but one, so the sum is that row, bit for bit
        summed: npt.NDArray[np.float32] = processes.sum_(rows).cpu().numpy()
        return summed

    def _pool(
        self, encoder: ReDimNetMRL, batches: Sequence[Sequence[int]], processes: Processes
    ) -> list[npt.NDArray[np.float32]]:
        total = sum(len(members) for members in batches)
        pooled = []
        with progress_bar("validation", total, unit="files", enabled=processes.is_first) as advance:
            read = load_batches(self._source, batches, num_workers=self._num_workers)
            for members, batch in zip(batches, read, strict=True):
                pooled.append(pooled_in_batches(encoder.pooled_statistics, batch))
                advance(len(members))
        return pooled


def read_validation(config: ValidationConfig) -> tuple[TrialList, Path] | None:
    """Return the validation trials and the folder of their recordings, or None if none are configured.

    Raises:
        DataError: the list or folder cannot be used.
    """
    if config.trials is not None:
        path = Path(config.trials)
        trials = read_trials(path)
        return trials, Path(config.root) if config.root is not None else path.parent
    if config.folder is not None:
        root = Path(config.folder)
        return all_pairs(scan_speaker_folders(root), root), root
    return None


def all_pairs(corpus: Corpus, root: Path) -> TrialList:
    """Return every pair of utterances of the corpus as a trial, paths relative to ``root``.

    Raises:
        DataError: there are too many recordings for all their pairs.
    """
    if len(corpus) > _MOST_RECORDINGS:
        raise DataError(
            f"{root} holds {len(corpus)} recordings, too many to compare all pairs (at most {_MOST_RECORDINGS}); "
            "write a trial list and give it as data.validation.trials"
        )
    names = [utterance.path.relative_to(root).as_posix() for utterance in corpus.utterances]
    labels = corpus.labels
    return TrialList.from_pairs(
        (
            (labels[first] == labels[second], names[first], names[second])
            for first in range(len(names))
            for second in range(first)
        ),
        source=f"all pairs of {root}",
    )


def _by_text(values: Mapping[int, float]) -> dict[str, float]:
    return {str(dim): value for dim, value in values.items()}
