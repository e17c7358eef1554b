from .description import Description as Description
from .embedder import OnnxEmbedder as OnnxEmbedder
