"""From a name to a network: ours by checkpoint, others through timm."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch

from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.frames import PathLike
from siammae.network.dtypes import Dtype
from siammae.network.model import SiamMAE
from siammae.network.timm_extractor import PREFIX, TimmExtractor


@lru_cache(maxsize=2)
def _load(name: str, dtype: Dtype) -> FeatureExtractor:
    kind = TimmExtractor if name.startswith(PREFIX) else SiamMAE
    return kind.from_pretrained(name, dtype=dtype)


def load_extractor(model: FeatureExtractor | PathLike, config: PropagationConfig | None = None) -> FeatureExtractor:
    """Turn a name into a model on the CPU, loaded once a process; an extractor is returned as it is.

    Args:
        model: ``timm/NAME`` is a network of timm (see :class:`TimmExtractor`), any other name a checkpoint of ours.
        config: the rules that it is for: those of a public code get float32, as the code has it; any others what is
            fastest here.
    """
    if hasattr(model, "extract"):
        return cast(FeatureExtractor, model)
    return _load(str(model), torch.float32 if config is not None and config.is_public() else "auto")
