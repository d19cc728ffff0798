"""Siamese masked autoencoder features, and label propagation for video.

Names are loaded when they are first used: importing this package loads neither torch nor OpenCV.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from siammae._version import __version__

if TYPE_CHECKING:
    from siammae.annotations.masks import read_mask, write_mask
    from siammae.checkpoints.known_models import KnownModel, known_models
    from siammae.config import ModelConfig, PretrainConfig, PropagationConfig
    from siammae.convert import ConversionReport, convert_checkpoint
    from siammae.errors import (
        CheckpointError,
        DatasetError,
        KernelUnavailableError,
        SiamMAEError,
        VideoReadError,
        WorkerError,
    )
    from siammae.evaluation import (
        Comparison,
        EvaluationResult,
        FeatureCache,
        Sweep,
        compare,
        evaluate_davis,
        evaluate_jhmdb,
        evaluate_vip,
        score_davis,
        score_jhmdb,
        score_vip,
        sweep,
    )
    from siammae.features import FeatureExtractor, HogExtractor, PixelExtractor
    from siammae.frames import VideoWriter, read_frames
    from siammae.metrics import boundary_measure, mean_iou, pck, region_similarity
    from siammae.network.attention import class_attention, cross_attention
    from siammae.network.model import PretrainOutput, SiamMAE
    from siammae.network.timm_extractor import TimmExtractor
    from siammae.pretraining import pretrain
    from siammae.propagation.affinity import TopK, available_kernels, topk_affinity
    from siammae.propagation.labels import FrameMasks, gather_labels
    from siammae.propagation.propagator import FrameKeypoints, KeypointPropagator, Propagator
    from siammae.propagation.video import (
        VideoKeypoints,
        VideoMasks,
        follow_keypoints,
        follow_masks,
        propagate_keypoints,
        propagate_masks,
    )
    from siammae.visualize import contact_sheet, feature_pca, overlay_heat, overlay_keypoints, overlay_masks
    from siammae.visualize.reconstruction import Reconstruction, reconstruct

_MODULE_OF = {
    "CheckpointError": "errors",
    "Comparison": "evaluation",
    "ConversionReport": "convert",
    "DatasetError": "errors",
    "EvaluationResult": "evaluation",
    "FeatureCache": "evaluation",
    "FeatureExtractor": "features",
    "FrameKeypoints": "propagation.propagator",
    "FrameMasks": "propagation.labels",
    "HogExtractor": "features",
    "KernelUnavailableError": "errors",
    "KeypointPropagator": "propagation.propagator",
    "KnownModel": "checkpoints.known_models",
    "ModelConfig": "config",
    "PixelExtractor": "features",
    "PretrainConfig": "config",
    "PretrainOutput": "network.model",
    "PropagationConfig": "config",
    "Propagator": "propagation.propagator",
    "Reconstruction": "visualize.reconstruction",
    "SiamMAE": "network.model",
    "SiamMAEError": "errors",
    "Sweep": "evaluation",
    "TimmExtractor": "network.timm_extractor",
    "TopK": "propagation.affinity",
    "VideoKeypoints": "propagation.video",
    "VideoMasks": "propagation.video",
    "VideoReadError": "errors",
    "VideoWriter": "frames",
    "WorkerError": "errors",
    "available_kernels": "propagation.affinity",
    "boundary_measure": "metrics",
    "class_attention": "network.attention",
    "compare": "evaluation",
    "contact_sheet": "visualize",
    "convert_checkpoint": "convert",
    "cross_attention": "network.attention",
    "evaluate_davis": "evaluation",
    "evaluate_jhmdb": "evaluation",
    "evaluate_vip": "evaluation",
    "feature_pca": "visualize",
    "follow_keypoints": "propagation.video",
    "follow_masks": "propagation.video",
    "gather_labels": "propagation.labels",
    "known_models": "checkpoints.known_models",
    "mean_iou": "metrics",
    "overlay_heat": "visualize",
    "overlay_keypoints": "visualize",
    "overlay_masks": "visualize",
    "pck": "metrics",
    "pretrain": "pretraining",
    "propagate_keypoints": "propagation.video",
    "propagate_masks": "propagation.video",
    "read_frames": "frames",
    "read_mask": "annotations.masks",
    "reconstruct": "visualize.reconstruction",
    "region_similarity": "metrics",
    "score_davis": "evaluation",
    "score_jhmdb": "evaluation",
    "score_vip": "evaluation",
    "sweep": "evaluation",
    "topk_affinity": "propagation.affinity",
    "write_mask": "annotations.masks",
}

__all__ = [
    "CheckpointError",
    "Comparison",
    "ConversionReport",
    "DatasetError",
    "EvaluationResult",
    "FeatureCache",
    "FeatureExtractor",
    "FrameKeypoints",
    "FrameMasks",
    "HogExtractor",
    "KernelUnavailableError",
    "KeypointPropagator",
    "KnownModel",
    "ModelConfig",
    "PixelExtractor",
    "PretrainConfig",
    "PretrainOutput",
    "PropagationConfig",
    "Propagator",
    "Reconstruction",
    "SiamMAE",
    "SiamMAEError",
    "Sweep",
    "TimmExtractor",
    "TopK",
    "VideoKeypoints",
    "VideoMasks",
    "VideoReadError",
    "VideoWriter",
    "WorkerError",
    "__version__",
    "available_kernels",
    "boundary_measure",
    "class_attention",
    "compare",
    "contact_sheet",
    "convert_checkpoint",
    "cross_attention",
    "evaluate_davis",
    "evaluate_jhmdb",
    "evaluate_vip",
    "feature_pca",
    "follow_keypoints",
    "follow_masks",
    "gather_labels",
    "known_models",
    "mean_iou",
    "overlay_heat",
    "overlay_keypoints",
    "overlay_masks",
    "pck",
    "pretrain",
    "propagate_keypoints",
    "propagate_masks",
    "read_frames",
    "read_mask",
    "reconstruct",
    "region_similarity",
    "score_davis",
    "score_jhmdb",
    "score_vip",
    "sweep",
    "topk_affinity",
    "write_mask",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- PEP 562
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'siammae' has no attribute {name!r}")
    value = getattr(import_module(f"siammae.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
