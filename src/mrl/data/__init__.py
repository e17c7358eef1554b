"""Which utterances are trained on: corpora, crops, the order of drawing, and the cache of pooled statistics."""

from mrl.data.crops import CropDataset, Draw, WholeUtterances
from mrl.data.folders import scan_speaker_folders
from mrl.data.loading import Batch, load_batches
from mrl.data.manifest import read_manifest
from mrl.data.pooled_cache import PooledCache, View, ViewSettings, build_pooled_cache, cache_key, finish_pooled_cache
from mrl.data.samplers import SpeakerBalancedSampler, UtteranceSampler, split_updates
from mrl.data.utterances import Corpus, Utterance

__all__ = [
    "Corpus",
    "Utterance",
    "read_manifest",
    "scan_speaker_folders",
    "Batch",
    "CropDataset",
    "Draw",
    "WholeUtterances",
    "load_batches",
    "SpeakerBalancedSampler",
    "UtteranceSampler",
    "split_updates",
    "PooledCache",
    "View",
    "ViewSettings",
    "build_pooled_cache",
    "cache_key",
    "finish_pooled_cache",
]
