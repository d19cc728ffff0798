"""Settings as frozen dataclasses that check themselves: the network, label propagation, pretraining."""

from siammae.config.network import IMAGENET_MEAN, IMAGENET_STD, VIT_SIZES, ModelConfig
from siammae.config.pretraining import PretrainConfig
from siammae.config.propagation import PropagationConfig

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "VIT_SIZES", "ModelConfig", "PretrainConfig", "PropagationConfig"]
