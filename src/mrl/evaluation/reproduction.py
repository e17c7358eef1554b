"""Measuring released checkpoints on VoxCeleb1 and setting the figures beside the published ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl.embeddings import open_embedder
from mrl.errors import DataError, InputError
from mrl.evaluation.measure import SystemEmbeddings, SystemScores, evaluate_systems
from mrl.evaluation.protocol import Cohort, Protocol, open_cohort, score_by_protocol
from mrl.evaluation.result import EvaluationResult
from mrl.evaluation.settings import EmbeddingSettings
from mrl.pretrained import PretrainedCheckpoint, find_checkpoint
from mrl.scoring.bootstrap import Interval, Resampling
from mrl.scoring.normalisation import speaker_means
from mrl.settings import changed
from mrl.tables import Table
from mrl.trials.lists import TrialList, read_trials
from mrl.trials.voxceleb import OfficialList, fetch_official_list, find_official_list

LISTS = ("O", "E", "H")
"""VoxCeleb1's cleaned lists: original test speakers, extended, hard."""

_PUBLISHED = {"O": "original", "E": "extended", "H": "hard"}
# Where the folders idXXXXX lie below the root, as the archives unpack and as people arrange them; dev and test may lie apart.
_PLACES = (
    "",
    "wav",
    "test",
    "test/wav",
    "dev",
    "dev/wav",
    "vox1_test_wav/wav",
    "vox1_dev_wav/wav",
    "vox1/test/wav",
    "vox1/dev/wav",
)
_LIST_PLACES = ("", "meta", "trials")


@dataclass(frozen=True)
class ReproducedRow:
    """One line of the published table, measured again.

    Attributes:
        checkpoint: name of the released checkpoint.
        trial_list: "O", "E" or "H".
        trials: number of trials measured.
        official: whether the list has the official number of trials.
        scoring: "cosine", or "AS-Norm" with the number of cohort speakers per side.
        published: the published equal error rate in %.
        measured: ours in %.
        interval: its 95 % interval over speakers in %; None where not asked for.
        tolerance: largest allowed difference in percentage points.
        result: everything that was measured.
    """

    checkpoint: str
    trial_list: str
    trials: int
    official: bool
    scoring: str
    published: float
    measured: float
    interval: Interval | None
    tolerance: float
    result: EvaluationResult

    @property
    def difference(self) -> float:
        """Measured minus published, in percentage points."""
        return self.measured - self.published

    @property
    def within_tolerance(self) -> bool:
        """Whether the difference, rounded to the two digits that are published, is allowed."""
        return round(abs(self.difference), 2) <= self.tolerance


@dataclass(frozen=True)
class ReproductionSettings(Resampling, EmbeddingSettings):
    """What decides a reproduction.

    Attributes:
        models: (model_name, train_type, dataset) of each checkpoint; None: the fine-tuned one, the first data set.
        weights: where its file is: a file, an address, or a folder of such files.
        device: where the networks run.
        lists: which of "O", "E" and "H".
        trials_dir: folder with the lists, under their official names or ours; by default they are looked for below the root.
        fetch: download a list that is not found, into ``trials_dir`` or ``root/trials``.
        any_list: accept lists that have not the official number of trials; their figures are then not comparable.
        tolerance: largest allowed difference from the published rate, in percentage points.
        as_norm_top: measure with AS-Norm over this many cohort speakers per side, too; goes with ``cohort``.
        cohort: folder of speakers or manifest, of the training data (see :func:`mrl.evaluation.open_cohort`).

    Raises:
        InputError: unknown lists, or a tolerance below 0.
    """

    models: Sequence[tuple[str, str | None, str | None]] = (("b2", "ft_lm", "vox2"),)
    weights: str | None = None
    device: str = "cpu"
    lists: Sequence[str] = LISTS
    trials_dir: str | os.PathLike[str] | None = None
    fetch: bool = True
    any_list: bool = False
    tolerance: float = 0.05
    as_norm_top: int | None = None
    cohort: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if not self.lists or any(name.upper() not in LISTS for name in self.lists):
            raise InputError(f"lists must be among {', '.join(LISTS)}; found {', '.join(self.lists) or 'none'}")
        if not self.tolerance >= 0:
            raise InputError(f"a tolerance of {self.tolerance} cannot be used; expected percentage points from 0 up")


def reproduce_voxceleb(
    root: str | os.PathLike[str], settings: ReproductionSettings | None = None, **changes: Any
) -> list[ReproducedRow]:
    """Measure released checkpoints on VoxCeleb1 by the published protocol: whole utterances, cosine, cleaned lists.

    Every utterance is embedded once by each checkpoint, whatever the number of lists.

    Args:
        root: VoxCeleb1: folders ``idXXXXX/VIDEO/UTTERANCE.wav``, directly below it or below ``wav``, ``test/wav``, ``dev/wav``...
        settings: everything else.
        changes: settings of :class:`ReproductionSettings` by keyword.

    Returns:
        One row for each checkpoint and list; with AS-Norm a second one after it.

    Raises:
        InputError: unknown checkpoints, or checkpoints without published figures.
        DataError: lists or recordings are missing (all counted), or a list is not the official one.
        DownloadError: a list or checkpoint cannot be fetched.
    """
    how = changed(settings or ReproductionSettings(), changes)
    checkpoints = [_published(*model) for model in how.models]
    protocol = Protocol(as_norm_top=how.as_norm_top, cohort=how.cohort)
    others = None if how.cohort is None else _open_recordings(how.cohort, how.as_norm_top)
    if others is not None:
        for checkpoint in checkpoints:
            if checkpoint.eer_as_norm is None:
                raise InputError(f"no error rates with AS-Norm were published for {checkpoint.name}")
    lists = {name: _read_list(name, Path(root), how) for name in dict.fromkeys(name.upper() for name in how.lists)}
    for trials in lists.values():
        trials.require_both_classes()
        how.draw(trials)
    names = list(dict.fromkeys(name for trials in lists.values() for name in trials.utterances))
    paths = _find_recordings(names, Path(root))
    if others is not None:
        others.require_others(paths)
    row = {name: number for number, name in enumerate(names)}
    rows = []
    for checkpoint in checkpoints:
        spec = checkpoint.name
        embedder = open_embedder(spec, weights=how.weights, device=how.device)
        matrix = how.embed(embedder, names, paths, description=spec)[0]
        means = None
        if others is not None:
            embedded = how.embed(embedder, [str(path) for path in others.paths], others.paths, description=spec)[0]
            means = speaker_means(embedded, others.speakers)[0]
        for name, trials in lists.items():
            used = matrix[[row[utterance] for utterance in trials.utterances]]
            dims = (used.shape[1],)
            result = evaluate_systems([SystemEmbeddings(spec, used, dims)], trials, how)
            rows.append(_row(checkpoint, name, trials, result, how, by_as_norm=False))
            if others is not None:
                normalised = SystemScores(spec, score_by_protocol(protocol, used, trials, dims, cohort=means))
                facts = protocol.facts(cohort_speakers=others.num_speakers, cohort_recordings=len(others.speakers))
                result = evaluate_systems([normalised], trials, how, protocol=facts)
                rows.append(_row(checkpoint, name, trials, result, how, by_as_norm=True))
    return rows


def reproduction_table(rows: Sequence[ReproducedRow]) -> Table:
    """Return the published figures with ours beside them."""
    headings = ("checkpoint", "list", "trials", "scoring", "published EER %", "ours EER %", "difference", "allowed", "verdict")
    cells = []
    for row in rows:
        bounds = "" if row.interval is None else f" [{row.interval.low:.2f}, {row.interval.high:.2f}]"
        cells.append(
            (
                row.checkpoint,
                f"Vox1-{row.trial_list}",
                f"{row.trials:,}{'' if row.official else ' (not the official list)'}",
                row.scoring,
                f"{row.published:.2f}",
                f"{row.measured:.2f}{bounds}",
                f"{row.difference:+.2f}",
                f"±{row.tolerance:g}",
                "reproduced" if row.within_tolerance else "outside",
            )
        )
    return Table(headings, tuple(cells), words=(0, 1, 3, 8), group=None)


def _published(model_name: str, train_type: str | None, dataset: str | None) -> PretrainedCheckpoint:
    checkpoint = find_checkpoint(model_name, train_type, dataset)
    if checkpoint.eer is None:
        raise InputError(f"no equal error rates were published for {checkpoint.name}, so there is nothing to reproduce")
    return checkpoint


def _open_recordings(cohort: str | os.PathLike[str], top: int | None) -> Cohort:
    opened = open_cohort(cohort)
    if opened.matrix is not None:
        raise InputError(f"{opened.source} holds embeddings; the cohort of checkpoints needs recordings: a folder or a manifest")
    opened.require_speakers(top)
    return opened


def _row(
    checkpoint: PretrainedCheckpoint,
    name: str,
    trials: TrialList,
    result: EvaluationResult,
    how: ReproductionSettings,
    *,
    by_as_norm: bool,
) -> ReproducedRow:
    published = checkpoint.eer_as_norm if by_as_norm else checkpoint.eer
    assert published is not None  # reproduce_voxceleb
    figures = result.system().figures[0]
    interval = figures.equal_error_rate_interval
    return ReproducedRow(
        checkpoint=checkpoint.name,
        trial_list=name,
        trials=len(trials),
        official=len(trials) == _official(name).trials,
        scoring=f"AS-Norm, top {how.as_norm_top}" if by_as_norm else "cosine",
        published=float(getattr(published, _PUBLISHED[name])),
        measured=100 * figures.equal_error_rate,
        interval=None if interval is None else Interval(100 * interval.low, 100 * interval.high),
        tolerance=how.tolerance,
        result=result,
    )


def _official(name: str) -> OfficialList:
    return find_official_list(f"voxceleb1-{name.lower()}-cleaned")


def _read_list(name: str, root: Path, how: ReproductionSettings) -> TrialList:
    official = _official(name)
    # The official name, ours, and that of WeSpeaker's recipe.
    stems = (official.file_name, f"{official.name}.txt", f"vox1_{name}_cleaned.trial", f"vox1_{name}_cleaned.txt")
    folders = [root / place for place in _LIST_PLACES] if how.trials_dir is None else [Path(how.trials_dir)]
    candidates = [folder / f"{stem}{end}" for folder in folders for stem in stems for end in ("", ".gz")]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        if not how.fetch:
            looked = ", ".join(map(str, folders))
            raise DataError(
                f"the list of Vox1-{name} ({official.file_name}) is not in {looked}; give its folder with --trials-dir"
            )
        path = fetch_official_list(official.name, root / "trials" if how.trials_dir is None else how.trials_dir)
    trials = read_trials(path)
    if len(trials) != official.trials and not how.any_list:
        raise DataError(
            f"{path} has {len(trials):,} trials, the cleaned list of Vox1-{name} has {official.trials:,}; figures on another "
            "list are not comparable with the published ones"
        )
    return trials


def _find_recordings(names: Sequence[str], root: Path) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder of VoxCeleb1")
    places = [root / place for place in _PLACES if (root / place).is_dir()]
    paths: list[Path] = []
    missing: list[str] = []
    for name in names:
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None:
            missing.append(name)
        else:
            paths.append(path)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} utterances of the lists are not below {root}, the first is {missing[0]!r}; expected "
            "idXXXXX/VIDEO/UTTERANCE.wav directly below it or below wav, test/wav or dev/wav (E and H need the dev part, too)"
        )
    return paths
