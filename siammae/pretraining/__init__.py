"""Pretraining from pairs of video frames."""

from siammae.config import PretrainConfig
from siammae.pretraining.trainer import pretrain

__all__ = ["PretrainConfig", "pretrain"]
