"""Models leave the house: ONNX, OpenVINO and torch.export files that are held against the network before they count as done."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
