"""Measuring released checkpoints on VoxCeleb1 and setting the figures beside the published ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from mrl.embeddings import Encoder
from mrl.embeddings.models import open_model
from mrl.errors import DataError, InputError
from mrl.evaluation.embedding import EmbeddingCache, embed_recordings
from mrl.evaluation.measure import SystemEmbeddings, SystemScores, evaluate_systems
from mrl.evaluation.protocol import Cohort, Protocol, open_cohort, score_by_protocol
from mrl.evaluation.result import EvaluationResult
from mrl.evaluation.run import Extraction
from mrl.pretrained import PretrainedCheckpoint, find_checkpoint
from mrl.scoring.bootstrap import Interval, SpeakerResamples
from mrl.scoring.normalisation import speaker_means
from mrl.trials.lists import TrialList, read_trials
from mrl.trials.voxceleb import OfficialList, fetch_official_list, find_official_list

FloatMatrix = npt.NDArray[np.float32]

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


def reproduce_voxceleb(
    root: str | os.PathLike[str],
    *,
    models: Sequence[tuple[str, str | None, str | None]] = (("b2", "ft_lm", "vox2"),),
    weights: str | None = None,
    lists: Sequence[str] = LISTS,
    trials_dir: str | os.PathLike[str] | None = None,
    fetch: bool = True,
    any_list: bool = False,
    tolerance: float = 0.05,
    bootstrap: int = 1000,
    seed: int = 0,
    as_norm_top: int | None = None,
    cohort: str | os.PathLike[str] | None = None,
    extraction: Extraction | None = None,
) -> list[ReproducedRow]:
    """Measure released checkpoints on VoxCeleb1 by the published protocol: whole utterances, cosine, cleaned lists.

    Every utterance is embedded once by each checkpoint, whatever the number of lists.

    Args:
        root: VoxCeleb1: folders ``idXXXXX/VIDEO/UTTERANCE.wav``, directly below it or below ``wav``, ``test/wav``, ``dev/wav``...
        models: (model_name, train_type, dataset) of each checkpoint; None: the fine-tuned one, the first data set.
        weights: where its file is: a file, an address, or a folder of such files.
        lists: which of "O", "E" and "H".
        trials_dir: folder with the lists, under their official names or ours; by default they are looked for below ``root``.
        fetch: download a list that is not found, into ``trials_dir`` or ``root/trials``.
        any_list: accept lists that have not the official number of trials; their figures are then not comparable.
        tolerance: largest allowed difference from the published rate, in percentage points.
        bootstrap, seed: resamples of the speakers for intervals, and their seed.
        as_norm_top: measure with AS-Norm over so many cohort speakers per side, too; goes with ``cohort``.
        cohort: folder of speakers or manifest, of the training data (see :func:`mrl.evaluation.open_cohort`).
        extraction: how recordings become embeddings.

    Returns:
        One row for each checkpoint and list; with AS-Norm a second one after it.

    Raises:
        InputError: unknown lists or checkpoints, or checkpoints without published figures.
        DataError: lists or recordings are missing (all counted), or a list is not the official one.
        DownloadError: a list or checkpoint cannot be fetched.
    """
    how = extraction or Extraction()
    wanted = list(dict.fromkeys(name.upper() for name in lists))
    unknown = [name for name in wanted if name not in LISTS]
    if unknown or not wanted:
        raise InputError(f"lists must be among {', '.join(LISTS)}; found {', '.join(lists) or 'none'}")
    if not tolerance >= 0:
        raise InputError(f"a tolerance of {tolerance} cannot be used; expected percentage points from 0 up")
    checkpoints = [_published(*model) for model in models]
    protocol = Protocol(as_norm_top=as_norm_top, cohort=cohort)
    others = None if cohort is None else _open_recordings(cohort, as_norm_top)
    if others is not None:
        for checkpoint in checkpoints:
            if checkpoint.eer_as_norm is None:
                raise InputError(f"no error rates with AS-Norm were published for {checkpoint.name}")
    read = {name: _read_list(name, Path(root), trials_dir, fetch=fetch, any_list=any_list) for name in wanted}
    for trials in read.values():
        trials.require_both_classes()
        if bootstrap:
            SpeakerResamples.draw(trials, bootstrap, seed=seed)
    names = list(dict.fromkeys(name for trials in read.values() for name in trials.utterances))
    paths = _find_recordings(names, Path(root))
    if others is not None:
        others.require_others(paths)
    row = {name: number for number, name in enumerate(names)}
    cache = None if how.cache is None else EmbeddingCache(how.cache)
    rows = []
    for checkpoint in checkpoints:
        spec = checkpoint.name
        model = open_model(spec, weights=weights, device=how.device)

        def embed(names: Sequence[str], paths: Sequence[Path], model: Encoder = model, spec: str = spec) -> FloatMatrix:
            return embed_recordings(
                model,
                names,
                paths,
                own_backbone=False,
                batch_seconds=how.batch_seconds,
                num_workers=how.num_workers,
                max_seconds=how.max_seconds,
                show_progress=how.show_progress,
                cache=cache,
                description=spec,
            )[0]

        matrix = embed(names, paths)
        means = None
        if others is not None:
            means = speaker_means(embed([str(path) for path in others.paths], others.paths), others.speakers)[0]
        for name, trials in read.items():
            here = matrix[[row[utterance] for utterance in trials.utterances]]
            dims = (here.shape[1],)
            result = evaluate_systems([SystemEmbeddings(spec, here, dims)], trials, bootstrap=bootstrap, seed=seed)
            rows.append(_row(checkpoint, name, trials, result, tolerance, None))
            if others is not None:
                normalised = SystemScores(spec, score_by_protocol(protocol, here, trials, dims, cohort=means))
                facts = protocol.facts(cohort_speakers=others.num_speakers, cohort_recordings=len(others.speakers))
                result = evaluate_systems([normalised], trials, bootstrap=bootstrap, seed=seed, protocol=facts)
                rows.append(_row(checkpoint, name, trials, result, tolerance, as_norm_top))
    return rows


def reproduction_table(rows: Sequence[ReproducedRow]) -> Table:
    """Return the published table with ours beside it, for a terminal."""
    table = Table("checkpoint", "list", "trials", "scoring", "published EER %", "ours EER %", "difference", "allowed", "verdict")
    for column in (table.columns[2], *table.columns[4:8]):
        column.justify = "right"
    for row in rows:
        bounds = "" if row.interval is None else f" [{row.interval.low:.2f}, {row.interval.high:.2f}]"
        verdict = "reproduced" if row.within_tolerance else "outside"
        cells = (
            row.checkpoint,
            f"Vox1-{row.trial_list}",
            f"{row.trials:,}{'' if row.official else ' (not the official list)'}",
            row.scoring,
            f"{row.published:.2f}",
            f"{row.measured:.2f}{bounds}",
            f"{row.difference:+.2f}",
            f"±{row.tolerance:g}",
            verdict,
        )
        table.add_row(*map(Text, cells))
    return table


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
    tolerance: float,
    as_norm_top: int | None,
) -> ReproducedRow:
    published = checkpoint.eer if as_norm_top is None else checkpoint.eer_as_norm
    assert published is not None  # reproduce_voxceleb
    figures = result.system().figures[0]
    interval = figures.equal_error_rate_interval
    return ReproducedRow(
        checkpoint=checkpoint.name,
        trial_list=name,
        trials=len(trials),
        official=len(trials) == _official(name).trials,
        scoring="cosine" if as_norm_top is None else f"AS-Norm, top {as_norm_top}",
        published=float(getattr(published, _PUBLISHED[name])),
        measured=100 * figures.equal_error_rate,
        interval=None if interval is None else Interval(100 * interval.low, 100 * interval.high),
        tolerance=tolerance,
        result=result,
    )


def _official(name: str) -> OfficialList:
    return find_official_list(f"voxceleb1-{name.lower()}-cleaned")


def _read_list(name: str, root: Path, trials_dir: str | os.PathLike[str] | None, *, fetch: bool, any_list: bool) -> TrialList:
    official = _official(name)
    # The official name, ours, and that of WeSpeaker's recipe.
    stems = (official.file_name, f"{official.name}.txt", f"vox1_{name}_cleaned.trial", f"vox1_{name}_cleaned.txt")
    folders = [root / place for place in _LIST_PLACES] if trials_dir is None else [Path(trials_dir)]
    found = [folder / f"{stem}{end}" for folder in folders for stem in stems for end in ("", ".gz")]
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        if not fetch:
            looked = ", ".join(map(str, folders))
            raise DataError(
                f"the list of Vox1-{name} ({official.file_name}) is not in {looked}; give its folder with --trials-dir"
            )
        path = fetch_official_list(official.name, root / "trials" if trials_dir is None else trials_dir)
    trials = read_trials(path)
    if len(trials) != official.trials and not any_list:
        raise DataError(
            f"{path} has {len(trials):,} trials, the cleaned list of Vox1-{name} has {official.trials:,}; figures on another "
            "list are not comparable with the published ones"
        )
    return trials


def _find_recordings(names: Sequence[str], root: Path) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder of VoxCeleb1")
    places = [root / place for place in _PLACES if (root / place).is_dir()]
    found: list[Path] = []
    missing: list[str] = []
    for name in names:
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None:
            missing.append(name)
        else:
            found.append(path)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} utterances of the lists are not below {root}, the first is {missing[0]!r}; expected "
            "idXXXXX/VIDEO/UTTERANCE.wav directly below it or below wav, test/wav or dev/wav (E and H need the dev part, too)"
        )
    return found
