"""Entry points for torch.hub; they work from a clone, without installing the package.

    torch.hub.load(CLONE, "redimnet", source="local", model_name="b2", train_type="ft_lm", dataset="vox2")
    torch.hub.load(CLONE, "redimnet", source="local", model_name="redimnet2-b6", dataset="vb2+vox2_v0")
    torch.hub.load(CLONE, "redimnet_mrl", source="local", embed_dim=256, mrl_dims=[64, 128, 192, 256])

``torch.hub.load`` keeps ``force_reload`` for itself (it means the repository); to fetch weights again, run
``mrl pretrained download NAME --force-reload``.
"""

import os as _os
import sys as _sys

dependencies = ["torch", "numpy", "soundfile", "av", "soxr", "safetensors", "filelock", "rich"]

_SOURCE = _os.path.join(_os.path.dirname(_os.path.abspath(__file__)), "src")  # noqa: PTH100, PTH118, PTH120
if _SOURCE not in _sys.path:
    _sys.path.insert(0, _SOURCE)


def redimnet(model_name=None, train_type=None, dataset=None, weights=None, **kwargs):
    """Load a released ReDimNet exactly, in eval mode; ``model(audio)`` gives the raw embedding (batch, 192).

    ``weights``: a checkpoint file, its address, or a mirror; further arguments (``device``, ``progress``) as for
    ``mrl.load_pretrained_redimnet``.
    """
    from mrl.pretrained.loading import load_pretrained_redimnet

    return load_pretrained_redimnet(model_name, train_type, dataset, weights=weights, **kwargs)


def redimnet_mrl(model_name=None, train_type=None, dataset=None, weights=None, **kwargs):
    """Make a Matryoshka model from a released ReDimNet; ``model(audio, target_dim=64)`` gives unit vectors (batch, 64).

    Further arguments (``embed_dim``, ``mrl_dims``, ``freeze_backbone``, ``device``) as for ``mrl.create_mrl_from_pretrained``.
    """
    from mrl.matryoshka import create_mrl_from_pretrained

    return create_mrl_from_pretrained(model_name, train_type, dataset, weights=weights, **kwargs)
