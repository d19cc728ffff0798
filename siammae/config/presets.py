"""The rules of public evaluation codes, each with its source: fields that differ from the defaults.

All codes resize frames as floats; here a resized frame is rounded to 8 bits, at most half a grey level off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# CropMAE, downstreams/propagation: util.py, src/test.py, src/data/vos.py, src/utils/test_utils.py. The numbers are the
# defaults of util.py. Its DAVIS was resized to 480x880 beforehand, we do not know how: here by OpenCV's bilinear rule,
# as its reader does with any other size. Its scores on DAVIS are taken at 480x880.
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

# videowalk, code: test.py, data/vos.py, data/jhmdb.py, utils/test_utils.py, with the README's DAVIS command. The frame
# enters at its own size. A side that is no whole number of patches is stretched to the next one, 854 to 856 pixels,
# so that the grid has as many cells as the source's padded convolutions; the source's cells then lie up to 2 pixels
# beside ours.
_CRW: dict[str, Any] = {
    **_SIAMMAE,
    "top_k": 10,
    "temperature": 0.05,
    "radius": 12,
    "resize": None,
    "rounding": "ceil",
    "upsample_to": "frame",
    "keypoint_top_k": 3,
}

# DINO, eval_video_segmentation.py
_DINO: dict[str, Any] = {
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
}

PRESETS: Mapping[tuple[str, str], dict[str, Any]] = {
    ("siammae", "davis"): _SIAMMAE,
    # The long side becomes 880 pixels, the other one goes down to a multiple of 64: 448x880 for 16:9. The source
    # brings the mask to that size by OpenCV's nearest neighbour, which samples a pixel's corner; here its centre.
    ("siammae", "vip"): {
        **_SIAMMAE,
        "top_k": 10,
        "resize": 880,
        "resize_side": "long",
        "size_multiple": 64,
        "rounding": "floor",
    },
    ("siammae", "jhmdb"): {**_SIAMMAE, "resize": (320, 320)},
    ("crw", "davis"): _CRW,
    # The authors published no settings for VIP and JHMDB. Size, top_k, radius and queue are those with which users
    # came near the paper's scores, not up to them (radius 5 is reported for JHMDB too); the temperature is the one for
    # DAVIS. On VIP the source resizes the label picture bilinearly by mistake, which invents colours and so classes;
    # here ids stay ids.
    ("crw", "vip"): {**_CRW, "queue_length": 4, "resize": (560, 560), "upsample_to": "input"},
    ("crw", "jhmdb"): {**_CRW, "queue_length": 7, "resize": (320, 320), "upsample_to": "input"},
    ("dino", "davis"): _DINO,
    # RSP, eval_video_segmentation_davis.py: DINO's code with other numbers, on a DAVIS made for it by
    # data_preprocessing/eval/davis_preprocessing.py. That script's first resize, of frames by nearest neighbour to
    # 480x880 saved as JPEG, is left out. On 7 sequences of DAVIS it moves a pixel's value by 2 to 5 of 255 on average;
    # with RGB patches as features 0.1 to 0.5 % of the pixels have another label 5 frames later. Scores are taken at
    # 480x880.
    ("rsp", "davis"): {**_DINO, "top_k": 7, "radius": 30, "queue_length": 30, "resize": (480, 832)},
    # VFS, mmaction/models/trackers/vanilla_tracker.py and configs/r18_nc_sgd_cos_100e_r2_1xNx8_k400.py, where
    # neighbor_range 24 means a radius of 12; ResNet-50 has 36, so 18. It has VIP and JHMDB too, but no settings for
    # them. The long side is stretched to whole patches as in crw. A label whose map is one value all over the frame
    # wins here, as in DINO's code; in VFS and DINOv3 it counts 0, so an object that fills the frame turns into
    # background.
    ("vfs", "davis"): {
        "top_k": 10,
        "temperature": 0.07,
        "radius": 12,
        "queue_length": 20,
        "queue_pinned": True,
        "resize": 480,
        "rounding": "ceil",
        "interpolation": "bilinear",
        "first_labels": "nearest",
        "min_max": True,
    },
    # DINOv3, notebooks/segmentation_tracking.ipynb. The paper (appendix D.5) gives the same search and says that soft
    # labels go bilinearly to the native size: replace(upsampling="bilinear"). Its code is not public.
    ("dinov3", "davis"): {
        "top_k": 5,
        "keep_ties": True,
        "temperature": 0.2,
        "radius": 12,
        "neighborhood": "closed_disk",
        "queue_length": 7,
        "resize": 960,
        "rounding": "ceil",
        "round_both": True,
        "interpolation": "bicubic",
        "first_labels": "nearest",
        "normalize_labels": True,
        "min_max": True,
        "upsampling": "nearest",
    },
}

# What siammae recommends for each cost, on top of an extractor's own temperature, top_k and so on. The short side is in
# patches, as time is. Chosen on 19 training sequences of DAVIS with siammae-ti8: benchmarks/finer_masks.md.
QUALITIES: Mapping[str, tuple[int, dict[str, Any]]] = {
    "fast": (30, {"focus_margin": 8, "label_cells": 4, "refine_strength": 0.3}),
    "balanced": (52, {"focus_margin": 10, "label_cells": 3, "refine_strength": 0.15}),
    "best": (60, {"focus_margin": 12, "label_cells": 2, "refine_strength": 0.15, "second_size": 0.667}),
}
