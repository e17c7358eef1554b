"""Released ReDimNet checkpoints and the models of the package: what there is, fetching and verifying a file, loading it exactly.

The registry needs no torch; the other names are imported when first used, so that listing checkpoints stays instant.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
