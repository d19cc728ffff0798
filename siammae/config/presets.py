"""The rules of public evaluation codes, each with its source: fields that differ from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SIAMMAE: dict[str, Any] = {
    "top_k": 7,
    "temperature": 0.7,
    "radius": 20,
    "neighborhood": "disk",
    "queue_length": 20,
    "pin_first": True,
    "restrict_first": False,
    "pad_queue": True,
    "resize": (480, 880),
    "interpolation": "bilinear",
    "first_labels": "bilinear",
    "upsample_to": "input",
    "first_output": "rendered",
    "keypoint_rule": "cell",
}
PRESETS: Mapping[tuple[str, str], dict[str, Any]] = {
    ("siammae", "davis"): _SIAMMAE,
    ("siammae", "jhmdb"): {**_SIAMMAE, "resize": (320, 320)},
    # DINO, eval_video_segmentation.py
    ("dino", "davis"): {
        "top_k": 5,
        "keep_ties": True,
        "temperature": 0.1,
        "radius": 12,
        "neighborhood": "square",
        "queue_length": 7,
        "resize": 480,
        "size_multiple": 64,
        "rounding": "floor",
        "interpolation": "bilinear",
        "pixel_std": (0.228, 0.224, 0.225),
        "first_labels": "nearest",
        "min_max": True,
        "upsample_to": "input",
    },
}
