"""Matryoshka speaker embeddings from pretrained ReDimNet models: one network, every prefix a good speaker embedding.

    from mrl import create_mrl_from_pretrained

    model = create_mrl_from_pretrained("b2", embed_dim=256)
    embedding = model("speaker.wav", target_dim=64)

``__init__.pyi`` lists the public names; each is imported when first used, so ``import mrl`` alone does not import torch.
"""

import lazy_loader

from mrl.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__.append("__version__")
