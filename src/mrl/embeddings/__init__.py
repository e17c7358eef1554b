"""Embeddings of many recordings: which network, which files, and in what format they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrl.lazy import lazy_attributes

if TYPE_CHECKING:
    from mrl.embeddings.bulk import EmbeddedFolder, embed_to_folder, means_folder
    from mrl.embeddings.encoders import (
        Backbone,
        Encoder,
        ExportedEncoder,
        ExportedMatryoshka,
        MatryoshkaEncoder,
        evaluation_mode,
        is_matryoshka,
    )
    from mrl.embeddings.extract import EmbeddedFiles, embed_files
    from mrl.embeddings.formats import EMBEDDING_SUFFIXES, READABLE_SUFFIXES, EmbeddingTable, load_embeddings, save_embeddings
    from mrl.embeddings.head import fit_head, load_head, project_embeddings, save_head
    from mrl.embeddings.inputs import collect_recordings
    from mrl.embeddings.mapping import FileFailure, MappedFiles, map_files
    from mrl.embeddings.models import open_model, weights_sha256
    from mrl.embeddings.processes import Processes, split_by_length
    from mrl.embeddings.sharded import ShardedEmbeddings, is_sharded
    from mrl.embeddings.similarity import cosine_similarity
    from mrl.embeddings.tasks import embed_to_file, score_files

_LATER = {
    "embed_files": "extract",
    "EmbeddedFiles": "extract",
    "map_files": "mapping",
    "MappedFiles": "mapping",
    "FileFailure": "mapping",
    "Processes": "processes",
    "split_by_length": "processes",
    "collect_recordings": "inputs",
    "save_embeddings": "formats",
    "load_embeddings": "formats",
    "EmbeddingTable": "formats",
    "EMBEDDING_SUFFIXES": "formats",
    "READABLE_SUFFIXES": "formats",
    "fit_head": "head",
    "save_head": "head",
    "load_head": "head",
    "project_embeddings": "head",
    "open_model": "models",
    "weights_sha256": "models",
    "cosine_similarity": "similarity",
    "embed_to_file": "tasks",
    "score_files": "tasks",
    "Backbone": "encoders",
    "MatryoshkaEncoder": "encoders",
    "Encoder": "encoders",
    "ExportedEncoder": "encoders",
    "ExportedMatryoshka": "encoders",
    "evaluation_mode": "encoders",
    "is_matryoshka": "encoders",
    "embed_to_folder": "bulk",
    "EmbeddedFolder": "bulk",
    "means_folder": "bulk",
    "ShardedEmbeddings": "sharded",
    "is_sharded": "sharded",
}

__all__ = [
    "embed_files",
    "EmbeddedFiles",
    "map_files",
    "MappedFiles",
    "FileFailure",
    "Processes",
    "split_by_length",
    "collect_recordings",
    "save_embeddings",
    "load_embeddings",
    "EmbeddingTable",
    "EMBEDDING_SUFFIXES",
    "READABLE_SUFFIXES",
    "fit_head",
    "save_head",
    "load_head",
    "project_embeddings",
    "open_model",
    "weights_sha256",
    "cosine_similarity",
    "embed_to_file",
    "score_files",
    "Backbone",
    "MatryoshkaEncoder",
    "Encoder",
    "ExportedEncoder",
    "ExportedMatryoshka",
    "evaluation_mode",
    "is_matryoshka",
    "embed_to_folder",
    "EmbeddedFolder",
    "means_folder",
    "ShardedEmbeddings",
    "is_sharded",
]

__getattr__ = lazy_attributes(__name__, _LATER)
