"""Settings as frozen dataclasses that check themselves: the network, label propagation, extraction, pretraining."""

from siammae.config.extraction import ExtractionConfig
from siammae.config.network import IMAGENET_MEAN, IMAGENET_STD, VIT_SIZES, ModelConfig
from siammae.config.pretraining import LOGGERS, PRETRAIN_CHOICES, PretrainConfig
from siammae.config.propagation import PropagationConfig

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LOGGERS",
    "PRETRAIN_CHOICES",
    "VIT_SIZES",
    "ExtractionConfig",
    "ModelConfig",
    "PretrainConfig",
    "PropagationConfig",
]
