"""From a name to a network: ours by checkpoint, others through timm."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from siammae.features import FeatureExtractor
from siammae.frames import PathLike
from siammae.network.model import SiamMAE
from siammae.network.timm_extractor import PREFIX, TimmExtractor


@lru_cache(maxsize=2)
def _load(name: str) -> FeatureExtractor:
    return TimmExtractor.from_pretrained(name) if name.startswith(PREFIX) else SiamMAE.from_pretrained(name)


def load_extractor(model: FeatureExtractor | PathLike) -> FeatureExtractor:
    """Turn a name into a model on the CPU, loaded once a process; an extractor is returned as it is.

    ``timm/NAME`` is a network of timm (see :class:`TimmExtractor`), any other name a checkpoint of ours.
    """
    if hasattr(model, "extract"):
        return cast(FeatureExtractor, model)
    return _load(str(model))
