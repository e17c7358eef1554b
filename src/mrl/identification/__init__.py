"""Enrolled voices: a store of them, comparing recordings with them, and finding a voice among very many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrl.lazy import lazy_attributes

if TYPE_CHECKING:
    from mrl.identification.decisions import DecisionRule, decision_rule
    from mrl.identification.embedder import EmbeddedRecording, VoiceEmbedder, open_embedder
    from mrl.identification.exchange import export_voices, import_voices
    from mrl.identification.funnel import FunnelSearch
    from mrl.identification.qdrant_search import QdrantSearch
    from mrl.identification.search import ExactSearch, Hits, VoiceSearch
    from mrl.identification.store import VoiceStore
    from mrl.identification.tasks import Identification, VoiceScore, default_store, enrol, identify, verify_voice, voice_score
    from mrl.identification.usearch_search import UsearchSearch
    from mrl.identification.voice_matrix import VoiceMatrix, load_voices, voices_in_memory
    from mrl.identification.voices import Voice

_LATER = {
    "VoiceStore": "store",
    "Voice": "voices",
    "default_store": "tasks",
    "open_embedder": "embedder",
    "VoiceEmbedder": "embedder",
    "EmbeddedRecording": "embedder",
    "enrol": "tasks",
    "verify_voice": "tasks",
    "voice_score": "tasks",
    "identify": "tasks",
    "VoiceScore": "tasks",
    "Identification": "tasks",
    "decision_rule": "decisions",
    "DecisionRule": "decisions",
    "export_voices": "exchange",
    "import_voices": "exchange",
    "load_voices": "voice_matrix",
    "voices_in_memory": "voice_matrix",
    "VoiceMatrix": "voice_matrix",
    "VoiceSearch": "search",
    "Hits": "search",
    "ExactSearch": "search",
    "FunnelSearch": "funnel",
    "UsearchSearch": "usearch_search",
    "QdrantSearch": "qdrant_search",
}

__all__ = [
    "VoiceStore",
    "Voice",
    "default_store",
    "open_embedder",
    "VoiceEmbedder",
    "EmbeddedRecording",
    "enrol",
    "verify_voice",
    "voice_score",
    "identify",
    "VoiceScore",
    "Identification",
    "decision_rule",
    "DecisionRule",
    "export_voices",
    "import_voices",
    "load_voices",
    "voices_in_memory",
    "VoiceMatrix",
    "VoiceSearch",
    "Hits",
    "ExactSearch",
    "FunnelSearch",
    "UsearchSearch",
    "QdrantSearch",
]

__getattr__ = lazy_attributes(__name__, _LATER)
