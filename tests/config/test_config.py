import json

import pytest

from siammae.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig, PretrainConfig, PropagationConfig
from tests.helpers import tiny_config


def pretrain_config(**fields):
    return PretrainConfig(**{"videos": "clips", "output_dir": "run", **fields})


MAKERS = {"model": ModelConfig, "propagation": PropagationConfig, "pretrain": pretrain_config}

REFUSED = [
    ("model", {"patch_size": 0}, "patch_size is 0: it must be at least 1"),
    ("model", {"image_size": 0}, "image_size is 0: it must be at least 1"),
    ("model", {"embed_dim": 0}, "embed_dim is 0: it must be at least 1"),
    ("model", {"depth": 0}, "depth is 0: it must be at least 1"),
    ("model", {"num_heads": -1}, "num_heads is -1: it must be at least 1"),
    ("model", {"decoder_dim": 0}, "decoder_dim is 0: it must be at least 1"),
    ("model", {"decoder_depth": 0}, "decoder_depth is 0: it must be at least 1"),
    ("model", {"decoder_heads": 0}, "decoder_heads is 0: it must be at least 1"),
    ("model", {"mlp_ratio": 0.0}, r"mlp_ratio is 0\.0: it must be above 0"),
    ("model", {"image_size": 225}, "image_size is 225: it must be a multiple of 16"),
    ("model", {"embed_dim": 380}, "embed_dim is 380: it must be a multiple of num_heads = 6"),
    ("model", {"decoder_dim": 260}, "decoder_dim is 260: it must be a multiple of decoder_heads = 8"),
    ("model", {"embed_dim": 390}, "embed_dim is 390: it must be a multiple of 4"),
    ("model", {"decoder_dim": 6, "decoder_heads": 3}, "decoder_dim is 6: it must be a multiple of 4"),
    ("model", {"position": "rotary"}, "position is 'rotary': it must be one of 'sincos', 'learned'"),
    ("model", {"encoder": "twin"}, "encoder is 'twin': it must be one of 'siamese', 'joint'"),
    ("model", {"decoder": "self"}, "decoder is 'self': it must be one of 'cross-self', 'cross', 'joint'"),
    ("model", {"pixel_mean": (0.5, 0.5)}, "pixel_mean is .*: it must be three numbers"),
    ("model", {"pixel_mean": (0.5, 0.5, -1.5)}, r"pixel_mean is .* at least -1\.0"),
    ("model", {"pixel_std": (0.5, 0.5, 0.0)}, "pixel_std is .* at least 1e-06"),
    ("propagation", {"top_k": 0}, "top_k is 0: it must be at least 1"),
    ("propagation", {"temperature": 0.0}, r"temperature is 0\.0: it must be 1e-06 to 1e\+06"),
    ("propagation", {"temperature": 1e-39}, r"temperature is 1e-39: it must be 1e-06 to 1e\+06"),
    ("propagation", {"temperature": float("inf")}, r"temperature is inf: it must be 1e-06 to 1e\+06"),
    ("propagation", {"temperature": float("nan")}, r"temperature is nan: it must be 1e-06 to 1e\+06"),
    ("propagation", {"radius": 0}, "radius is 0: it must be at least 1, or None"),
    ("propagation", {"queue_length": -1}, "queue_length is -1: it must be at least 0"),
    ("propagation", {"queue_length": 0, "pin_first": False}, "queue_length is 0: it must be at least 1 when pin_first"),
    ("propagation", {"resize": 0}, r"resize is 0: it must be one side in pixels, \(H, W\), or None"),
    ("propagation", {"resize": (480,)}, r"resize is \(480,\): it must be one side"),
    ("propagation", {"resize": (480, 0)}, r"resize is \(480, 0\): it must be one side"),
    ("propagation", {"size_multiple": 0}, "size_multiple is 0: it must be at least 1"),
    ("propagation", {"pixel_std": (1.0, 1.0)}, "pixel_std is .*: it must be three numbers"),
    (
        "propagation",
        {"neighborhood": "ring"},
        "neighborhood is 'ring': it must be one of 'disk', 'closed_disk', 'square'",
    ),
    ("propagation", {"resize_side": "both"}, "resize_side is 'both': it must be one of 'short', 'long'"),
    ("propagation", {"upsampling": "cubic"}, "upsampling is 'cubic': it must be one of 'bilinear', 'nearest'"),
    ("propagation", {"rounding": "up"}, "rounding is 'up': it must be one of 'nearest', 'floor', 'ceil'"),
    (
        "propagation",
        {"interpolation": "cubic"},
        "interpolation is 'cubic': it must be one of 'area', 'bilinear', 'bicubic'",
    ),
    (
        "propagation",
        {"first_labels": "hard"},
        "first_labels is 'hard': it must be one of 'area', 'bilinear', 'nearest'",
    ),
    ("propagation", {"upsample_to": "grid"}, "upsample_to is 'grid': it must be one of 'frame', 'input'"),
    ("propagation", {"first_output": "none"}, "first_output is 'none': it must be one of 'given', 'rendered'"),
    ("propagation", {"keypoint_rule": "x"}, "keypoint_rule is 'x': it must be one of 'subpixel', 'cell'"),
    ("propagation", {"keypoint_sigma": 0.0}, r"keypoint_sigma is 0\.0: it must be 0\.001 to 100"),
    ("propagation", {"keypoint_sigma": 1e-300}, r"keypoint_sigma is 1e-300: it must be 0\.001 to 100"),
    ("propagation", {"keypoint_sigma": 1e300}, r"keypoint_sigma is 1e\+300: it must be 0\.001 to 100"),
    (
        "propagation",
        {"keypoint_sigma": 0.1, "keypoint_rule": "cell"},
        r"keypoint_sigma is 0\.1: it must be 0\.3 to 100",
    ),
    ("propagation", {"keypoint_top_k": 0}, "keypoint_top_k is 0: it must be at least 1"),
    ("pretrain", {"mask_ratio": 1.0}, r"mask_ratio is 1\.0: it must be between 0 and 1"),
    ("pretrain", {"mask_ratio": 0.0}, r"mask_ratio is 0\.0: it must be between 0 and 1"),
    ("pretrain", {"frame_gap": (0, 4)}, r"frame_gap is \(0, 4\): it must be \(least, largest\), from 1 up"),
    ("pretrain", {"frame_gap": (5, 4)}, r"frame_gap is \(5, 4\): it must be \(least, largest\), from 1 up"),
    ("pretrain", {"crop_scale": (0.0, 1.0)}, r"crop_scale is .*: it must be \(least, largest\) in \(0, 1\]"),
    ("pretrain", {"crop_scale": (0.5, 1.1)}, r"crop_scale is .*: it must be \(least, largest\) in \(0, 1\]"),
    ("pretrain", {"crop_ratio": (2.0, 1.0)}, r"crop_ratio is .*: it must be \(least, largest\) above 0"),
    ("pretrain", {"flip": 1.1}, r"flip is 1\.1: it must be a probability"),
    ("pretrain", {"still_share": -0.1}, r"still_share is -0\.1: it must be between 0 and 1"),
    ("pretrain", {"still_gap": -1}, r"still_gap is -1: it must be at least 0"),
    ("pretrain", {"match_motion": -0.5}, r"match_motion is -0.5: it must be at least 0"),
    ("pretrain", {"match_motion": 2.0, "still_flow": True}, r"match_motion is 2.0: it must be 0 without match_weight"),
    (
        "pretrain",
        {"match_motion": 2.0, "match_weight": 1.0, "still_share": 1.0},
        r"match_motion is 2.0: it must be 0 with",
    ),
    ("pretrain", {"still_copy_paste": -1}, r"still_copy_paste is -1: it must be at least 0"),
    ("pretrain", {"still_rotation": 181.0}, r"still_rotation is 181\.0: it must be 0 to 180 degrees"),
    ("pretrain", {"color_jitter": 1.0}, r"color_jitter is 1\.0: it must be in \[0, 1\)"),
    ("pretrain", {"match_temperature": 0.0}, r"match_temperature is 0\.0: it must be 1e-06 to 1e\+06"),
    ("pretrain", {"match_weight": 1.0}, r"match_weight is 1\.0: it must be 0 without still pairs"),
    ("pretrain", {"clip_grad": 0.0}, r"clip_grad is 0\.0: it must be above 0, or None"),
    ("pretrain", {"crop_size": 0}, "crop_size is 0: it must be a multiple of the patch size 16, or None"),
    ("pretrain", {"crop_size": 100}, "crop_size is 100: it must be a multiple of the patch size 16, or None"),
    ("pretrain", {"position_step": (0.0, 1.0)}, r"position_step is .*: it must be \(least, largest\) above 0, or None"),
    ("pretrain", {"position_step": (1.0, 0.5)}, r"position_step is .*: it must be \(least, largest\) above 0, or None"),
    ("pretrain", {"position_step": (0.5, 1.1)}, "position_step is .*: it must be at most 1, with which a crop of 224"),
    ("pretrain", {"position_step": (1, 2.5), "crop_size": 112}, "position_step is .*: it must be at most 2, with"),
    (
        "pretrain",
        {"position_step": (0.5, 1.0), "model": {"position": "learned"}},
        'position_step is .*: it must be None unless model.position is "sincos"',
    ),
    ("pretrain", {"short_side": 0}, "short_side is 0: it must be at least 1, or None"),
    ("pretrain", {"samples_per_video": 0}, "samples_per_video is 0: it must be at least 1"),
    ("pretrain", {"epochs": 0}, "epochs is 0: it must be at least 1"),
    ("pretrain", {"batch_size": 0}, "batch_size is 0: it must be at least 1"),
    ("pretrain", {"checkpoint_every": 0}, "checkpoint_every is 0: it must be at least 1"),
    ("pretrain", {"cache_mb": -1}, "cache_mb is -1: it must be at least 0"),
    ("pretrain", {"warmup_epochs": -1}, "warmup_epochs is -1: it must be at least 0"),
    ("pretrain", {"workers": -1}, "workers is -1: it must be at least 0"),
    ("pretrain", {"weight_decay": -0.1}, r"weight_decay is -0\.1: it must be at least 0"),
    ("pretrain", {"base_lr": -1.0}, r"base_lr is -1\.0: it must be at least 0"),
    ("pretrain", {"precision": "fp8"}, "precision is 'fp8': it must be one of 'auto', 'bf16', 'fp16', 'fp32'"),
    ("pretrain", {"past_mask": "block"}, "past_mask is 'block': it must be one of 'none', 'symmetric', 'grid'"),
    ("pretrain", {"predict": "now"}, "predict is 'now': it must be one of 'future', 'past'"),
    ("pretrain", {"parallel": "dp"}, "parallel is 'dp': it must be one of 'ddp', 'fsdp'"),
    ("pretrain", {"reader": "decord"}, "reader is 'decord': it must be one of 'auto', 'opencv', 'pyav', 'torchcodec'"),
    ("pretrain", {"loggers": ("print",)}, "loggers is 'print': it must be one of 'tensorboard', 'wandb', 'trackio'"),
    ("pretrain", {"probe_year": 2018}, "probe_year is 2018: it must be one of 2016, 2017"),
    ("pretrain", {"accumulate": 0}, "accumulate is 0: it must be at least 1"),
    ("pretrain", {"keep_states": 0}, "keep_states is 0: it must be at least 1"),
    ("pretrain", {"layer_decay": 0.0}, r"layer_decay is 0\.0: it must be in \(0, 1\]"),
    ("pretrain", {"ema": 1.0}, r"ema is 1\.0: it must be between 0 and 1, or None"),
    ("pretrain", {"max_skipped": 1.0}, r"max_skipped is 1\.0: it must be in \[0, 1\)"),
    (
        "pretrain",
        {"match_weight": 1.0, "still_share": 0.5, "predict": "past"},
        "match_weight is 1.0: it must be 0 with",
    ),
    ("pretrain", {"model": {"depth": 0}}, "depth is 0: it must be at least 1"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED)
def test_settings_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        MAKERS[kind](**fields)


@pytest.mark.parametrize(
    "settings",
    [
        tiny_config(position="learned", decoder="joint", pixel_std=(0.1, 0.2, 0.3)),
        PropagationConfig.preset("dino"),
        PropagationConfig(resize=(64, 96), radius=None),
        pretrain_config(model=tiny_config(), frame_gap=(2, 3), short_side=96),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_settings_through_json_come_back_equal(settings):
    stored = json.loads(json.dumps(settings.to_dict()))
    assert type(settings).from_dict(stored) == settings
    assert settings.replace() == settings


def test_settings_from_unknown_field_are_refused():
    with pytest.raises(
        ValueError, match=r"unknown ModelConfig fields \['colour', 'width'\]: known are \['adapter', 'decoder'"
    ):
        ModelConfig.from_dict({"width": 3, "colour": 1})
    with pytest.raises(ValueError, match=r"unknown PropagationConfig fields \['topk'\]"):
        PropagationConfig().replace(topk=3)


@pytest.mark.parametrize("values", [{"videos": "clips"}, {"videos": "clips", "output_dir": "run", "flip": "many"}])
def test_settings_from_missing_field_or_wrong_type_are_refused(values):
    with pytest.raises(ValueError, match=r"PretrainConfig cannot be built from .*'videos'"):
        PretrainConfig.from_dict(values)


def test_replace_checks_the_copy_and_leaves_the_original():
    config = PropagationConfig()
    with pytest.raises(ValueError, match="top_k is 0"):
        config.replace(top_k=0)
    assert config.replace(top_k=3).top_k == 3
    assert config.top_k == 7


def test_pretrain_config_with_paths_holds_strings(tmp_path):
    config = PretrainConfig(videos=tmp_path, output_dir=tmp_path / "run")
    assert (config.videos, config.output_dir) == (str(tmp_path), str(tmp_path / "run"))
    assert PretrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("size", "shape"),
    [("tiny", (192, 12, 3)), ("small", (384, 12, 6)), ("base", (768, 12, 12)), ("large", (1024, 24, 16))],
)
def test_vit_of_named_size_has_timms_shape(size, shape):
    config = ModelConfig.vit(size, patch_size=8, image_size=96)
    assert (config.embed_dim, config.depth, config.num_heads) == shape
    assert (config.patch_size, config.grid_size) == (8, 12)


def test_vit_of_unknown_size_is_refused():
    with pytest.raises(ValueError, match="size is 'huge': it must be one of 'tiny', 'small', 'base', 'large'"):
        ModelConfig.vit("huge")


# How CropMAE (downstreams/propagation/src) scores SiamMAE, each step written out.
SIAMMAE_RULES = {
    "top_k": 7,  # exactly 7, ties cut
    "keep_ties": False,
    "temperature": 0.7,
    "radius": 20,  # distance < 20, but not towards frame 0
    "neighborhood": "disk",
    "restrict_first": False,
    "queue_length": 20,
    "pin_first": True,
    "pad_queue": True,  # the history begins as copies of frame 0
    "queue_pinned": False,
    "resize": (480, 880),
    "resize_side": "short",
    "size_multiple": None,
    "rounding": "nearest",
    "round_both": False,
    "interpolation": "bilinear",  # cv2.resize
    "pixel_std": None,  # ImageNet's
    "first_labels": "bilinear",  # one-hot, cv2 bilinear
    "normalize_labels": False,
    "min_max": False,
    "upsampling": "bilinear",
    "upsample_to": "input",  # argmax at 480x880, then nearest
    "first_output": "rendered",
    "keypoint_rule": "cell",
    "keypoint_sigma": 0.5,
    "keypoint_top_k": 5,
}
# DINO, eval_video_segmentation.py.
DINO_RULES = {
    "top_k": 5,
    "keep_ties": True,  # everything >= the 5th value
    "temperature": 0.1,
    "radius": 12,  # |dx|, |dy| <= 12, towards frame 0 as well
    "neighborhood": "square",
    "restrict_first": True,
    "queue_length": 7,
    "pin_first": True,
    "pad_queue": False,  # the queue grows
    "queue_pinned": False,
    "resize": 480,  # short side; long side floored to multiples of 64
    "resize_side": "short",
    "size_multiple": 64,
    "rounding": "floor",
    "round_both": False,
    "interpolation": "bilinear",
    "pixel_std": (0.228, 0.224, 0.225),
    "first_labels": "nearest",
    "normalize_labels": False,
    "min_max": True,  # norm_mask
    "upsampling": "bilinear",
    "upsample_to": "input",
    "first_output": "given",  # the annotation is copied
}
# videowalk, README command for DAVIS; test_utils.process_pose takes 3 cells.
CRW_RULES = {
    **SIAMMAE_RULES,
    "top_k": 10,
    "temperature": 0.05,
    "radius": 12,
    "resize": None,  # --cropSize -1
    "rounding": "ceil",  # ours: sides that are no whole number of patches
    "upsample_to": "frame",  # which is the input
    "keypoint_top_k": 3,
}
# RSP's README command: DINO's code with --topk 7 --size_mask_neighborhood 30 --n_last_frames 30.
RSP_RULES = {**DINO_RULES, "top_k": 7, "radius": 30, "queue_length": 30, "resize": (480, 832)}
# VFS, test_cfg of the ResNet-18 configuration.
VFS_RULES = {
    **DINO_RULES,
    "top_k": 10,  # exactly 10
    "keep_ties": False,
    "temperature": 0.07,
    "radius": 12,  # neighbor_range 24, halved; distance < 12, towards frame 0 as well
    "neighborhood": "disk",
    "queue_length": 20,  # precede_frames
    "queue_pinned": True,  # frame 0 is one of the preceding frames too
    "size_multiple": None,
    "rounding": "ceil",
    "pixel_std": None,
    "upsample_to": "frame",
}
# DINOv3, notebooks/segmentation_tracking.ipynb.
DINOV3_RULES = {
    **DINO_RULES,
    "temperature": 0.2,
    "neighborhood": "closed_disk",  # norm <= 12
    "resize": 960,
    "size_multiple": None,
    "rounding": "ceil",
    "round_both": True,
    "interpolation": "bicubic",
    "pixel_std": None,
    "normalize_labels": True,
    "upsampling": "nearest",
    "upsample_to": "frame",
}


@pytest.mark.parametrize(
    ("name", "dataset", "rules"),
    [
        ("siammae", "davis", SIAMMAE_RULES),
        ("siammae", "jhmdb", {**SIAMMAE_RULES, "resize": (320, 320)}),
        (
            "siammae",
            "vip",
            {
                **SIAMMAE_RULES,
                "top_k": 10,
                "resize": 880,
                "resize_side": "long",
                "size_multiple": 64,
                "rounding": "floor",
            },
        ),
        ("dino", "davis", DINO_RULES),
        ("crw", "davis", CRW_RULES),
        ("crw", "vip", {**CRW_RULES, "queue_length": 4, "resize": (560, 560), "upsample_to": "input"}),
        ("crw", "jhmdb", {**CRW_RULES, "queue_length": 7, "resize": (320, 320), "upsample_to": "input"}),
        ("rsp", "davis", RSP_RULES),
        ("vfs", "davis", VFS_RULES),
        ("dinov3", "davis", DINOV3_RULES),
    ],
)
def test_preset_equals_the_published_protocol(name, dataset, rules):
    got = PropagationConfig.preset(name, dataset=dataset).to_dict()
    rules = {
        **rules,
        "label_cells": 1,
        "refine": "none",
        "focus_margin": None,
        "pool_keys": 1,
        "reuse_threshold": None,
        "center_features": False,
        "second_size": None,
    }  # no public code has finer masks than its patches
    assert {field: got[field] for field in rules} == rules
    assert set(got) - set(rules) <= {
        *("keypoint_rule", "keypoint_sigma", "keypoint_top_k", "refine_radius", "refine_strength", "reuse_refresh")
    }


@pytest.mark.parametrize(("name", "dataset"), [("mae", "davis"), ("dino", "jhmdb")])
def test_preset_of_unknown_name_or_dataset_is_refused(name, dataset):
    known = "siammae for davis, siammae for vip, siammae for jhmdb, crw for davis, .*, dinov3 for davis"
    with pytest.raises(ValueError, match=f"no preset '{name}' for '{dataset}': known are {known}"):
        PropagationConfig.preset(name, dataset=dataset)


def test_pretrain_defaults_are_the_papers():
    config = pretrain_config()
    assert (config.mask_ratio, config.frame_gap, config.samples_per_video) == (0.95, (4, 48), 2)
    assert (config.base_lr, config.batch_size, config.epochs, config.warmup_epochs) == (1.5e-4, 2048, 400, 40)
    assert (config.betas, config.weight_decay, config.crop_scale, config.flip) == ((0.9, 0.95), 0.05, (0.5, 1.0), 0.5)
    assert (config.model.pixel_mean, config.model.pixel_std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: ModelConfig(depth=2.5), "depth is 2.5"),
        (lambda: PropagationConfig(top_k=True), "top_k is True"),
        (lambda: PropagationConfig(radius=1.5), "radius is 1.5"),
        (lambda: PretrainConfig(videos="v", output_dir="o", epochs=1.0), "epochs is 1.0"),
    ],
)
def test_settings_when_a_whole_number_is_none_refuse_it(build, field):
    with pytest.raises(ValueError, match=f"{field}: it must be a whole number"):
        build()


def test_pretrain_config_when_a_beta_is_out_of_range_refuses_it():
    with pytest.raises(ValueError, match="betas is"):
        PretrainConfig(videos="v", output_dir="o", betas=(0.9, 1.0))
