"""Export to ONNX, OpenVINO and torch.export files, which are compared with the network before they are put in place."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
