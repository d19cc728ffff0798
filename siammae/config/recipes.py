"""Recipes of pretraining: published ones, each with its source, and the bundled checkpoint's.

Of the published ones the fields that the source states, the rest as by default.

|                          | siammae-k400           | cropmae-repo  | cropmae           | cropmae-k400      |
| ------------------------ | ---------------------- | ------------- | ----------------- | ----------------- |
| encoder                  | ViT-S/16 (-s8, -b16)   | ViT-S/16      | ViT-S/16          | ViT-S/16          |
| decoder                  | cross-self 256 x 4     | cropmae       | cropmae           | cropmae           |
| a pair                   | two frames, one crop   | the same      | two crops, image  | two crops, frame  |
| hidden                   | 95 %                   | 95 %          | 98.5 %            | 98.5 %            |
| gap in frames            | 4 to 48                | 4 to 47       | -                 | -                 |
| crop, part of the area   | 0.5 to 1               | 0.5 to 1      | 0.1 to 1          | 0.5 to 1          |
| crop inside that crop    | -                      | -             | 0.3 to 0.6        | 0.3 to 0.6        |
| pairs a video            | 2000                   | 400           | 400               | 400               |
| pairs a visit            | 2                      | 1             | 1                 | 1                 |
| warm-up                  | 2 % of the run         | 5 %           | 5 %               | 5 %               |
| batch, base rate         | 2048, 1.5e-4           | 2048, 1e-4    | 2048, 1e-4        | 2048, 1e-4        |
| AdamW: betas, decay      | 0.9 0.95, 0.05         | the same      | the same          | the same          |
| precision                | not stated             | fp16          | fp16              | fp16              |

An epoch of ours visits every video once and draws ``samples_per_video`` pairs from it. The sources count the pairs a
video: MAE-ST, whose recipe SiamMAE follows, calls them effective epochs, RSP divides its epochs by the repeated
sampling, CropMAE's loop takes ``videos / batch`` steps an epoch. So the paper's 2000 epochs with 40 of warm-up and a
repeated sampling of 2 are 1000 and 20 here. The paper's own text on this was not at hand; should it mean visits, take
``epochs=2000, warmup_epochs=40``. Its ablations have 400 epochs: ``epochs=200``.

The bundled checkpoint was made in five legs, each of which begins with the weights of the one before (``init``):
``siammae-ti8-leg1`` to ``-leg3`` by two processes, ``-leg4`` and ``-leg5`` by one. Their epochs are those of its clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siammae.config.network import ModelConfig

# Gupta et al. 2023 (SiamMAE), table 4a and sections 3 and 4, as later papers and re-implementations quote it.
# Not taken over: the paper's frames come at 30 a second, here a gap counts the video's own frames. Not in the public
# material: the decoder's size (here that of the CropMAE repository, as in ModelConfig; others assume MAE's 512 x 8),
# the crop's aspect (here torchvision's default, as in the re-implementations), the precision (here "auto").
_SIAMMAE: dict[str, Any] = {
    "mask_ratio": 0.95,
    "past_mask": "none",
    "predict": "future",
    "frame_gap": (4, 48),
    "samples_per_video": 2,
    "crop_scale": (0.5, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "flip": 0.5,
    "still_share": 0.0,
    "color_jitter": 0.0,
    "epochs": 1000,
    "warmup_epochs": 20,
    "batch_size": 2048,
    "base_lr": 1.5e-4,
    "weight_decay": 0.05,
    "betas": (0.9, 0.95),
}
# The source's largest gap is exclusive: numpy.random.randint(4, 48). Not taken over:
# - its first optimiser step runs at the full rate, since the schedule is set after the step; here warm-up comes first;
# - it lets the CLS and the mask token decay (timm's rule), here tokens do not;
# - it cuts a crop that is larger than the frame on the side that is too long, here it is drawn again (torchvision), and
#   frames shrink by averaging instead of PyTorch's antialiased bilinear rule;
# - it leaves an epoch's last incomplete batch out; its seed is 42, which would draw other numbers here anyway.
_CROPMAE_REPO: dict[str, Any] = {
    **_SIAMMAE,
    "model": ModelConfig.vit("small", decoder="cropmae", decoder_dim=256, decoder_depth=4, decoder_heads=8),
    "frame_gap": (4, 47),
    "samples_per_video": 1,
    "epochs": 400,
    "warmup_epochs": 20,
    "base_lr": 1e-4,
    "precision": "fp16",
}
# Not taken over, besides what is said above: the source mirrors each of the two crops by a chance of its own, here both
# or none (its paper finds 60.3 instead of 60.4 J&F without mirroring); its inner crop is cut from the outer one when
# that is resized to a square already, so it is a little blurred and its aspect is that within the square.
_CROPMAE_FRAMES: dict[str, Any] = {
    **_CROPMAE_REPO,
    "mask_ratio": 0.985,
    "still_share": 1.0,
    "still_scale": (0.3, 0.6),
    "still_gap": 0,
    "still_rotation": 0.0,
}

# weights/siammae-ti8/README.md has the clips and the commands, benchmarks/pretraining_log.md what else was tried.
_TI8_LEG1: dict[str, Any] = {
    "model": ModelConfig.vit(
        "tiny", depth=6, patch_size=8, image_size=256, decoder_dim=128, decoder_depth=4, decoder_heads=4
    ),
    "mask_ratio": 0.9,
    "frame_gap": (4, 30),
    "crop_size": 64,
    "crop_scale": (0.05, 0.4),
    "position_step": (0.3, 1.1),
    "still_share": 0.8,
    "still_gap": 8,
    "still_flow": True,
    "still_rotation": 15.0,
    "color_jitter": 0.3,
    "match_weight": 1.0,
    "match_temperature": 0.07,
    "clip_grad": 1.0,
    "cache_mb": 5000,
    "epochs": 185,
    "warmup_epochs": 5,
    "batch_size": 96,
    "base_lr": 4e-3,
    "ema": 0.998,
    "precision": "bf16",
}
_TI8_LEG2: dict[str, Any] = {
    **_TI8_LEG1,
    "crop_size": 128,
    "crop_scale": (0.1, 0.6),
    "epochs": 23,
    "warmup_epochs": 2,
    "batch_size": 32,
    "base_lr": 4.8e-3,
    "ema": 0.995,
}
_TI8_LEG4: dict[str, Any] = {**_TI8_LEG2, "still_share": 0.9, "epochs": 14, "warmup_epochs": 1}

RECIPES: Mapping[str, dict[str, Any]] = {
    "siammae-k400": {**_SIAMMAE, "model": ModelConfig.vit("small", patch_size=16)},
    "siammae-k400-s8": {**_SIAMMAE, "model": ModelConfig.vit("small", patch_size=8)},
    # Not in the paper: its recipe with the larger encoder, as later papers compare with (there 400 epochs).
    "siammae-k400-b16": {**_SIAMMAE, "model": ModelConfig.vit("base", patch_size=16)},
    # CropMAE, scripts/train_siammae_k400.sh with train_siammae_k400.py, data/SiamMAE_PIPE.py, data/util/video_utils.py,
    # data/util/image_utils.py: its re-implementation of SiamMAE. 128 pairs on each of 16 GPUs. The script's
    # random_area_* are not read by that data set; its crops cover 0.5 to 1.
    "cropmae-repo": _CROPMAE_REPO,
    # CropMAE, scripts/train_cropmae_in.sh with train_cropmae_in.py, data/util/CropMAEStrategies.py (GlobalToLocal): on
    # ImageNet, each image a video of one frame.
    "cropmae": {**_CROPMAE_FRAMES, "crop_scale": (0.1, 1.0)},
    # CropMAE, scripts/train_cropmae_k400.sh with train_cropmae_k400.py: on single frames of Kinetics-400.
    "cropmae-k400": _CROPMAE_FRAMES,
    "siammae-ti8-leg1": _TI8_LEG1,
    "siammae-ti8-leg2": _TI8_LEG2,
    "siammae-ti8-leg3": {**_TI8_LEG2, "still_copy_paste": 4, "seed": 1},
    "siammae-ti8-leg4": {**_TI8_LEG4, "still_copy_paste": 10, "match_motion": 3.0, "seed": 2},
    "siammae-ti8-leg5": {**_TI8_LEG4, "still_copy_paste": 14, "match_motion": 8.0, "seed": 3},
}
