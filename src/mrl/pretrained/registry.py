"""The released checkpoints of both generations: one frozen record per file, with the figures that were published about it.

Figures come from the official repositories' EVALUATION.md and README and from the first paper (arXiv 2407.18223); a figure that
nobody published is None. An independent measurement of b2 ft_lm differs from the published one (IDRnD/redimnet#24): measure the
base model on your own trial list beside any model derived from it.
"""

from __future__ import annotations

import difflib
import urllib.parse
from dataclasses import dataclass

from mrl.errors import InputError

RELEASE_URL = "https://github.com/IDRnD/ReDimNet/releases/download/latest/"
"""Folder of the official release. Its tag is literally ``latest``, so files may be replaced: only a SHA-256 pins one."""

SECOND_RELEASE_URL = "https://github.com/PalabraAI/redimnet2/releases/download/v1.0.0/"
"""That of the second generation; files were replaced under this tag, too."""

SECOND_GENERATION = "redimnet2-"
"""What model names of the second generation begin with, for the official names are those of the first (``b6``)."""

_LICENCE_VOX2 = "CC-BY-4.0"
_LICENCE_VB2 = "CC-BY-NC-SA-4.0"


@dataclass(frozen=True)
class VoxCeleb1EER:
    """Equal error rates in percent on the three cleaned VoxCeleb1 trial lists."""

    original: float
    """Vox1-O, 37,611 trials."""
    extended: float
    """Vox1-E, 579,818 trials."""
    hard: float
    """Vox1-H, 550,894 trials."""


@dataclass(frozen=True)
class PretrainedCheckpoint:
    """One released file. Names are the official ones, upper and lower case included."""

    model_name: str
    """Network size: ``b0`` to ``b6``, ``S`` or ``M``; of the second generation ``redimnet2-b0`` to ``redimnet2-b6``."""
    train_type: str
    """``ptn`` (pretraining only), ``ft_lm`` or ``lm`` (large-margin fine-tuning), ``ft_mix`` (fine-tuning with mixed data sets),
    ``dis`` (distilled)."""
    dataset: str
    """Training data as in the file name, for example ``vox2`` or ``vb2+vox2+cnc``."""
    training_data: str
    licence: str
    """SPDX identifier of the licence that the weights are treated under (the code is MIT)."""
    licence_note: str
    family: str = "redimnet"
    """Which kind of network it is, see :data:`mrl.backbone.FAMILIES`."""
    sha256: str | None = None
    """Known hash; None: recorded at the first download and checked ever after."""
    num_bytes: int | None = None
    sample_rate: int = 16000
    """Hz."""
    num_parameters: int | None = None
    """Parameters of the network as built from the file's ``model_config``."""
    num_parameters_exact: bool = False
    """Whether ``num_parameters`` was counted on the released file's configuration; otherwise it is a rounded figure."""
    paper_parameters: int | None = None
    """Parameters as published, rounded by the authors."""
    paper_gmacs: float | None = None
    """10^9 multiply-accumulate operations for 2 s of audio, as published."""
    eer: VoxCeleb1EER | None = None
    """Published, cosine scores."""
    eer_as_norm: VoxCeleb1EER | None = None
    """Published, with adaptive score normalisation (AS-Norm)."""
    other_eers: tuple[tuple[str, float], ...] = ()
    """Further published equal error rates in percent, as (test set, value) pairs."""
    figures_source: str = ""
    """Source of the published figures; empty when there are none."""

    @property
    def name(self) -> str:
        """Short name, ``{model_name}-{dataset}-{train_type}``, for example ``b2-vox2-ft_lm``."""
        return f"{self.model_name}-{self.dataset}-{self.train_type}"

    @property
    def file_name(self) -> str:
        """Its name in torch.hub's cache. For the first generation it is the released one, so that files of the official code are
        found; files of the second have names of the first there (``b6-vox2-ptn.pt``), and are kept apart by their family."""
        return f"{self.name}.pt"

    @property
    def released_name(self) -> str:
        """Name of the released file."""
        return self.file_name.removeprefix(SECOND_GENERATION)

    @property
    def url(self) -> str:
        """Address of the official file."""
        if self.model_name.startswith(SECOND_GENERATION):
            return SECOND_RELEASE_URL + urllib.parse.quote(self.released_name)
        return RELEASE_URL + self.released_name

    @property
    def non_commercial(self) -> bool:
        """Whether the licence of the weights rules out commercial use."""
        return "-NC-" in self.licence


@dataclass(frozen=True)
class _Vox2Size:
    """What differs between b0 ... b6."""

    num_parameters: int
    exact: bool
    paper_parameters: int
    paper_gmacs: float
    eer: VoxCeleb1EER
    eer_as_norm: VoxCeleb1EER


_VOX2_SIZES = {
    "b0": _Vox2Size(1_004_251, True, 1_000_000, 0.43, VoxCeleb1EER(1.16, 1.25, 2.20), VoxCeleb1EER(1.07, 1.18, 2.01)),
    "b1": _Vox2Size(2_100_000, False, 2_200_000, 0.54, VoxCeleb1EER(0.85, 0.97, 1.73), VoxCeleb1EER(0.73, 0.89, 1.57)),
    "b2": _Vox2Size(5_067_057, True, 4_700_000, 0.90, VoxCeleb1EER(0.57, 0.76, 1.32), VoxCeleb1EER(0.52, 0.74, 1.27)),
    "b3": _Vox2Size(3_200_000, False, 3_000_000, 3.00, VoxCeleb1EER(0.50, 0.73, 1.33), VoxCeleb1EER(0.47, 0.69, 1.23)),
    "b4": _Vox2Size(6_400_000, False, 6_300_000, 4.80, VoxCeleb1EER(0.51, 0.68, 1.26), VoxCeleb1EER(0.44, 0.64, 1.17)),
    "b5": _Vox2Size(7_660_000, False, 9_200_000, 9.87, VoxCeleb1EER(0.43, 0.61, 1.08), VoxCeleb1EER(0.39, 0.59, 1.05)),
    "b6": _Vox2Size(15_000_000, False, 15_000_000, 20.27, VoxCeleb1EER(0.40, 0.55, 1.05), VoxCeleb1EER(0.37, 0.53, 1.00)),
}

# SHA-256 and bytes of the files whose hash is publicly known.
_KNOWN_FILES = {
    "b2-vox2-ft_lm.pt": ("c9b6bb2f6747caa28a41eaf2e372d66b0d1563baef186d18f5e99abd5e71e06f", 20_582_650),
    "b2-vox2-ptn.pt": ("c18a42926878bc8ac079623fbf36f0bc8054cda1199e96fbe1a3f8e131796647", 20_581_530),
    "b5-vox2-ft_lm.pt": ("8b0c11bbf5a3a8bb39e5c072c4192d0b694d8c447cf126d4cd3c7346a04b39c8", 31_174_382),
}

_VOX2_SOURCE = "paper (arXiv 2407.18223) and EVALUATION.md of IDRnD/ReDimNet"
_VB2_SOURCE = "EVALUATION.md of IDRnD/ReDimNet"
_VOX2_NOTE = "treated as CC-BY-4.0, the licence of VoxCeleb2 (IDRnD/redimnet#8)"
_VB2_NOTE = "derived from VoxBlink2, which is CC-BY-NC-SA-4.0: no commercial use, share alike, name the source"


def _vox2_checkpoint(model_name: str, train_type: str) -> PretrainedCheckpoint:
    size = _VOX2_SIZES[model_name]
    sha256, num_bytes = _KNOWN_FILES.get(f"{model_name}-vox2-{train_type}.pt", (None, None))
    # Error rates of the networks before large-margin fine-tuning were never published.
    tuned = train_type == "ft_lm"
    return PretrainedCheckpoint(
        model_name=model_name,
        train_type=train_type,
        dataset="vox2",
        training_data="VoxCeleb2 dev (5,994 speakers, 1,092,009 utterances)"
        + ("; pretraining, then large-margin fine-tuning on longer crops" if tuned else "; pretraining only"),
        licence=_LICENCE_VOX2,
        licence_note=_VOX2_NOTE,
        sha256=sha256,
        num_bytes=num_bytes,
        num_parameters=size.num_parameters,
        num_parameters_exact=size.exact,
        paper_parameters=size.paper_parameters,
        paper_gmacs=size.paper_gmacs,
        eer=size.eer if tuned else None,
        eer_as_norm=size.eer_as_norm if tuned else None,
        figures_source=_VOX2_SOURCE,
    )


def _vb2_checkpoint(
    model_name: str, train_type: str, eer: VoxCeleb1EER, sitw: float, voices: float, cn_celeb: float
) -> PretrainedCheckpoint:
    mixed = train_type == "ft_mix"
    medium = model_name == "M"
    return PretrainedCheckpoint(
        model_name=model_name,
        train_type=train_type,
        dataset="vb2+vox2+cnc" if mixed else "vb2",
        training_data="VoxBlink2"
        + ("; then fine-tuned on VoxBlink2, VoxCeleb2 and CN-Celeb with cutmix and mixup" if mixed else "; pretraining only"),
        licence=_LICENCE_VB2,
        licence_note=_VB2_NOTE,
        num_parameters=4_811_745 if medium else None,
        num_parameters_exact=medium,
        paper_parameters=6_000_000 if medium else None,
        eer=eer,
        other_eers=(("SITW", sitw), ("VOiCES", voices), ("CN-Celeb", cn_celeb)),
        figures_source=_VB2_SOURCE,
    )


_SECOND_SOURCE = "README of PalabraAI/redimnet2, July 2026 (the files of b6 were replaced under one tag since April)"
# 10^9 multiply-accumulate operations as published, and equal error rates after large-margin fine-tuning on VoxCeleb2.
_SECOND_SIZES = {
    "b0": (1_100_000, 0.33, VoxCeleb1EER(1.04, 1.16, 1.97)),
    "b1": (2_100_000, 0.56, VoxCeleb1EER(0.78, 0.96, 1.72)),
    "b2": (3_600_000, 0.95, VoxCeleb1EER(0.57, 0.76, 1.41)),
    "b3": (4_100_000, 2.70, VoxCeleb1EER(0.42, 0.66, 1.22)),
    "b4": (6_600_000, 4.62, VoxCeleb1EER(0.37, 0.58, 1.07)),
    "b5": (8_900_000, 9.62, VoxCeleb1EER(0.33, 0.56, 1.07)),
    "b6": (12_300_000, 13.05, VoxCeleb1EER(0.29, 0.52, 0.99)),
}
_SECOND_DATA = {
    "vox2": "VoxCeleb2 dev (5,994 speakers, 1,092,009 utterances)",
    "vb2+vox2_v0": "VoxBlink2 and VoxCeleb2",
    "vb2+vox2+cnc2_v0": "VoxBlink2, VoxCeleb2 and CN-Celeb 2",
}
_SECOND_TRAINING = {
    "ptn": "; pretraining only",
    "lm": "; pretraining, then large-margin fine-tuning on longer crops",
    "dis": "; distilled",
}
_CNC_NOTE = (
    "derived from VoxBlink2 (CC-BY-NC-SA-4.0: no commercial use, share alike, name the source) and CN-Celeb (research terms)"
)
_SECOND_HASHES = {
    "b6-vb2+vox2_v0-lm.pt": "e0a7d340a92f798720d1208949aa6a6bd0cddcb0ba7d4cec33596a17a484e6a2",
    "b6-vb2+vox2+cnc2_v0-lm.pt": "287365f6f485b19e65e5176554f8f7123bfa8d85185f3d2c040eab51acec9868",
}
_OTHER_LISTS = ("Vox1-B", "SITW", "VOiCES", "CN-Celeb")


def _second_checkpoint(
    size: str, train_type: str, dataset: str = "vox2", eer: VoxCeleb1EER | None = None, others: tuple[float, ...] = ()
) -> PretrainedCheckpoint:
    parameters, gmacs, tuned_eer = _SECOND_SIZES[size]
    on_vox2 = dataset == "vox2"
    sha256 = _SECOND_HASHES.get(f"{size}-{dataset}-{train_type}.pt")
    known = sha256 is not None  # by those who loaded it strictly and counted
    return PretrainedCheckpoint(
        model_name=SECOND_GENERATION + size,
        train_type=train_type,
        dataset=dataset,
        training_data=_SECOND_DATA[dataset] + _SECOND_TRAINING[train_type],
        licence=_LICENCE_VOX2 if on_vox2 else _LICENCE_VB2,
        licence_note=_VOX2_NOTE if on_vox2 else (_CNC_NOTE if "cnc" in dataset else _VB2_NOTE),
        family="redimnet2",
        sha256=sha256,
        num_parameters=12_459_296 if known else parameters,
        num_parameters_exact=known,
        paper_parameters=parameters,
        paper_gmacs=gmacs,
        eer=tuned_eer if on_vox2 and train_type == "lm" else eer,
        other_eers=tuple(zip(_OTHER_LISTS, others, strict=False)),
        figures_source=_SECOND_SOURCE,
    )


_CHECKPOINTS: tuple[PretrainedCheckpoint, ...] = (
    *(_vox2_checkpoint(model_name, train_type) for model_name in _VOX2_SIZES for train_type in ("ptn", "ft_lm")),
    _vb2_checkpoint("S", "ptn", VoxCeleb1EER(1.542, 1.408, 2.505), 1.781, 3.987, 9.592),
    _vb2_checkpoint("S", "ft_mix", VoxCeleb1EER(0.936, 0.874, 1.510), 1.310, 2.774, 8.043),
    _vb2_checkpoint("M", "ptn", VoxCeleb1EER(1.319, 1.128, 2.000), 1.482, 4.116, 9.012),
    _vb2_checkpoint("M", "ft_mix", VoxCeleb1EER(0.835, 0.745, 1.284), 1.203, 2.703, 7.474),
    *(_second_checkpoint(size, train_type) for size in _SECOND_SIZES for train_type in ("ptn", "lm")),
    _second_checkpoint("b3", "ptn", "vb2+vox2+cnc2_v0", VoxCeleb1EER(0.69, 0.82, 1.47), (2.16, 1.91, 5.96, 5.29)),
    _second_checkpoint("b3", "lm", "vb2+vox2+cnc2_v0", VoxCeleb1EER(0.51, 0.60, 1.14), (1.72, 1.25, 3.87, 4.78)),
    _second_checkpoint("b6", "ptn", "vb2+vox2_v0", VoxCeleb1EER(0.29, 0.50, 0.94), (1.27, 1.01, 3.25, 8.50)),
    _second_checkpoint("b6", "lm", "vb2+vox2_v0", VoxCeleb1EER(0.23, 0.35, 0.67), (0.89, 0.74, 2.55, 7.49)),
    _second_checkpoint("b6", "dis", "vb2+vox2_v0"),
    _second_checkpoint("b6", "ptn", "vb2+vox2+cnc2_v0", VoxCeleb1EER(0.42, 0.58, 1.07), (1.51, 1.15, 4.30, 4.32)),
    _second_checkpoint("b6", "lm", "vb2+vox2+cnc2_v0", VoxCeleb1EER(0.26, 0.41, 0.79), (1.15, 0.87, 3.03, 3.59)),
)


def list_pretrained(
    model_name: str | None = None, train_type: str | None = None, dataset: str | None = None
) -> tuple[PretrainedCheckpoint, ...]:
    """Return the released checkpoints, smallest network first, that have the given properties (None: any)."""
    return tuple(
        checkpoint
        for checkpoint in _CHECKPOINTS
        if model_name in (None, checkpoint.model_name)
        and train_type in (None, checkpoint.train_type)
        and dataset in (None, checkpoint.dataset)
    )


def find_checkpoint(model_name: str, train_type: str | None = None, dataset: str | None = None) -> PretrainedCheckpoint:
    """Return the released checkpoint with these names.

    Left out, training type and data set are those of the model's fine-tuned version: ``ft_lm`` on ``vox2`` for b0 to b6,
    ``ft_mix`` for S and M, ``lm`` on ``vox2`` for the second generation (or what there is of the other one's name).

    Raises:
        InputError: there is none; the message lists those that exist, nearest first.
    """
    fitting = [
        checkpoint
        for checkpoint in _CHECKPOINTS
        if checkpoint.model_name == model_name
        and train_type in (None, checkpoint.train_type)
        and dataset in (None, checkpoint.dataset)
    ]
    # The fine-tuned one first, else the first that there is.
    for checkpoint in sorted(fitting, key=lambda each: each.train_type == "ptn"):
        return checkpoint
    names = {"model_name": model_name, "train_type": train_type, "dataset": dataset}
    wanted = ", ".join(f"{key}={value!r}" for key, value in names.items() if value is not None)
    raise InputError(
        f"no released checkpoint has {wanted}; {_released(_nearest_first(model_name, train_type or '', dataset or ''))}"
    )


def find_by_file_name(file_name: str, family: str | None = None) -> PretrainedCheckpoint | None:
    """Return the released checkpoint whose file has this name in the cache, or else at its source; None if there is none.

    Some released files of two families have one name: without ``family`` such a name means the first generation.
    """
    candidates = [checkpoint for checkpoint in _CHECKPOINTS if family in (None, checkpoint.family)]
    in_cache = (checkpoint for checkpoint in candidates if checkpoint.file_name == file_name)
    at_source = (checkpoint for checkpoint in candidates if checkpoint.released_name == file_name)
    return next(in_cache, None) or next(at_source, None)


def find_by_address(address: str) -> PretrainedCheckpoint | None:
    """Return the released checkpoint whose official address this is, or whose file it seems to be by its name; or None."""
    plain = urllib.parse.unquote(address)
    for checkpoint in _CHECKPOINTS:
        if urllib.parse.unquote(checkpoint.url) == plain:
            return checkpoint
    return find_by_file_name(plain.rpartition("/")[2])


def find_by_sha256(sha256: str) -> PretrainedCheckpoint | None:
    """Return the released checkpoint whose known hash this is, or None."""
    return next((checkpoint for checkpoint in _CHECKPOINTS if checkpoint.sha256 == sha256), None)


def find_by_name(name: str) -> PretrainedCheckpoint:
    """Return a checkpoint by its short name ``b2-vox2-ft_lm``, by its file name, or by a model name alone.

    A model name alone means its fine-tuned version: ``ft_lm`` on vox2 for b0 to b6, ``ft_mix`` for S and M, ``lm`` on vox2 for
    redimnet2-b0 to redimnet2-b6.

    Raises:
        InputError: there is none; the message lists those that exist, nearest first.
    """
    for checkpoint in _CHECKPOINTS:
        fine_tuned = checkpoint.train_type != "ptn"
        if name in (checkpoint.name, checkpoint.file_name) or (fine_tuned and name == checkpoint.model_name):
            return checkpoint
    prefix = SECOND_GENERATION if name.startswith(SECOND_GENERATION) else ""
    size, _, rest = name.removeprefix(prefix).removesuffix(".pt").partition("-")
    model_name = prefix + size
    dataset, _, train_type = rest.rpartition("-")
    raise InputError(f"no released checkpoint is called {name!r}; {_released(_nearest_first(model_name, train_type, dataset))}")


def _nearest_first(model_name: str, train_type: str, dataset: str) -> list[PretrainedCheckpoint]:
    def unlikeness(known: str, wanted: str) -> float:
        return 1.0 - difflib.SequenceMatcher(None, known.lower(), wanted.lower()).ratio()

    def distance(checkpoint: PretrainedCheckpoint) -> float:
        # The network's size weighs most: another training of the same network serves better than another network.
        return (
            4.0 * unlikeness(checkpoint.model_name, model_name)
            + unlikeness(checkpoint.train_type, train_type)
            + unlikeness(checkpoint.dataset, dataset)
        )

    return sorted(_CHECKPOINTS, key=distance)


def _released(checkpoints: list[PretrainedCheckpoint]) -> str:
    return "released (model_name-dataset-train_type), nearest first: " + ", ".join(checkpoint.name for checkpoint in checkpoints)
