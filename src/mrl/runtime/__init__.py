"""Exported models without torch: recordings in, speaker embeddings out, through ONNX Runtime."""

from mrl.runtime.description import Description
from mrl.runtime.embedder import OnnxEmbedder

__all__ = ["Description", "OnnxEmbedder"]
