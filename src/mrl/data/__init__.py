"""Which utterances are trained on: corpora, crops, the order of drawing, and the cache of pooled statistics."""

from mrl.data.checking import ManifestCheck, check_manifest
from mrl.data.corpora import FoundRecordings, Recording, find_recordings
from mrl.data.crops import CropDataset, Draw, WholeUtterances
from mrl.data.faults import Limits
from mrl.data.folders import scan_recordings, scan_speaker_folders
from mrl.data.loading import Batch, load_batches
from mrl.data.manifest import read_manifest, write_manifest
from mrl.data.overlap import SpeakerOverlap, overlapping_speakers
from mrl.data.pooled_cache import PooledCache, View, ViewSettings, build_pooled_cache, cache_key, finish_pooled_cache
from mrl.data.preparing import Preparation, prepare_manifest
from mrl.data.samplers import SpeakerBalancedSampler, UtteranceSampler, split_updates
from mrl.data.shard_index import ShardIndex, read_shards
from mrl.data.shard_sampler import ShardSampler
from mrl.data.shard_writing import ShardReport, write_shards
from mrl.data.statistics import CorpusStatistics, manifest_statistics
from mrl.data.utterances import Corpus, Utterance

__all__ = [
    "Corpus",
    "Utterance",
    "read_manifest",
    "write_manifest",
    "scan_speaker_folders",
    "scan_recordings",
    "Recording",
    "FoundRecordings",
    "find_recordings",
    "Limits",
    "Preparation",
    "prepare_manifest",
    "ManifestCheck",
    "check_manifest",
    "CorpusStatistics",
    "manifest_statistics",
    "SpeakerOverlap",
    "overlapping_speakers",
    "ShardIndex",
    "ShardReport",
    "read_shards",
    "write_shards",
    "Batch",
    "CropDataset",
    "Draw",
    "WholeUtterances",
    "load_batches",
    "SpeakerBalancedSampler",
    "UtteranceSampler",
    "ShardSampler",
    "split_updates",
    "PooledCache",
    "View",
    "ViewSettings",
    "build_pooled_cache",
    "cache_key",
    "finish_pooled_cache",
]
