"""Siamese masked autoencoder features, and label propagation for video.

Names are loaded when they are first used: importing this package loads neither torch nor OpenCV. The list of public
names is ``__init__.pyi``.
"""

import lazy_loader

from siammae._version import __version__ as __version__

__getattr__, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*__all__, "__version__"])


def __dir__() -> list[str]:
    return __all__.copy()
