"""The strong network's embeddings and pooled statistics of the training utterances, and the trial lists over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from benchmarks.study.data import LISTS, Listed

from mrl.data.manifest import manifest_rows
from mrl.embeddings.formats import EmbeddingTable
from mrl.matryoshka import AffineMap
from mrl.trials import TrialList, make_balanced_trials, read_trials

DIMS = (16, 32, 64, 128, 192)
FIRST_DELIVERY = ("so762", "libri_train100")
"""The corpora of the weak backbone's study: 376 speakers."""

LEFT_OUT = {
    "so762": ("so762",),
    "common-voice": ("common_voice", "common_voice_nolabel"),
    "arabic-commands": ("arabic_commands",),
    "librispeech": ("libri_train100", "libri_mini"),
}
"""Corpora that heads are judged on without having been fitted to them. (Speech Commands has too few errors at 192 dimensions.)"""


@dataclasses.dataclass(frozen=True, eq=False)
class StrongData:
    """Features of all recordings, and who speaks in them.

    Attributes:
        ids: recordings, as in the manifests.
        embeddings: (recordings, 192) float32 of the network.
        pooled: (recordings, 1024) float32 pooled statistics, of which the last layer makes the embeddings.
        layer: the last layer.
        corpora: of each recording.
        speakers: of each recording; empty where not known.
        training: rows of the train part.
        lists: the trial lists with the embeddings of their utterances; ``base`` maps these to themselves.
    """

    ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    pooled: npt.NDArray[np.float32]
    layer: AffineMap
    corpora: npt.NDArray[np.str_]
    speakers: npt.NDArray[np.str_]
    training: npt.NDArray[np.int64]
    lists: dict[str, Listed]

    @property
    def base(self) -> AffineMap:
        """The network's own embedding, as a map of the features of ``lists``."""
        return identity(self.embeddings.shape[1])

    def rows(
        self, *, without: Sequence[str] = (), only: Sequence[str] | None = None, labelled: bool = True
    ) -> npt.NDArray[np.int64]:
        """Return training rows, without some corpora or of some only, with a known speaker or whether or not."""
        kept = ~np.isin(self.corpora[self.training], list(without))
        if only is not None:
            kept &= np.isin(self.corpora[self.training], list(only))
        if labelled:
            kept &= self.speakers[self.training] != ""
        return self.training[kept]

    def table(self, rows: npt.NDArray[np.int64]) -> EmbeddingTable:
        """Return the embeddings of some rows."""
        return EmbeddingTable(tuple(self.ids[row] for row in rows), self.embeddings[rows], {})

    def speaker_of(self, rows: npt.NDArray[np.int64]) -> dict[str, str]:
        """Return the speaker of each of some rows by id."""
        return {self.ids[row]: str(self.speakers[row]) for row in rows}

    def foreign_lists(self) -> dict[str, Listed]:
        """Return a list of trials for each corpus of :data:`LEFT_OUT`."""
        made = {}
        for name, corpora in LEFT_OUT.items():
            by_speaker: dict[str, list[str]] = {}
            for row in self.rows(only=corpora):
                by_speaker.setdefault(str(self.speakers[row]), []).append(self.ids[row])
            made[f"without-{name}"] = self._listed(make_balanced_trials(by_speaker, max_targets=6_000, max_nontargets=30_000))
        return made

    def _listed(self, trials: TrialList) -> Listed:
        return Listed(trials, torch.from_numpy(self.embeddings[trials.indices_into(self.ids)]).double())


def identity(size: int) -> AffineMap:
    """Return the map that changes nothing."""
    return AffineMap(torch.eye(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64))


def load_strong_data(shared: Path) -> StrongData:
    """Read ``strong/campplus.npz``, both manifests and the trial lists below ``shared``."""
    with np.load(shared / "strong" / "campplus.npz", allow_pickle=False) as archive:
        ids = tuple(str(name) for name in archive["ids"])
        embeddings, pooled = (archive[name].astype(np.float32) for name in ("embeddings", "pooled"))
        layer = AffineMap(torch.from_numpy(archive["weight"]).double(), torch.from_numpy(archive["bias"]).double())
    manifests = (shared / "corpora" / f"{name}.tsv" for name in ("manifest", "more-speech"))
    rows = {row["path"]: row for manifest in manifests for _, row in manifest_rows(manifest)}
    about = [rows[name] for name in ids]
    corpora, speakers, parts = (np.array([row[key] for row in about]) for key in ("corpus", "speaker", "part"))
    data = StrongData(ids, embeddings, pooled, layer, corpora, speakers, np.flatnonzero(parts == "train"), {})
    lists = {name: data._listed(read_trials(shared / "corpora" / "trials" / f"{name}.txt.gz")) for name in LISTS}
    return dataclasses.replace(data, lists=lists)
