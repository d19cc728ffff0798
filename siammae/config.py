"""Settings as frozen dataclasses that check themselves: the model, label propagation, pretraining."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# name: (embed_dim, depth, num_heads), as in timm's vit_<name>_patch*
VIT_SIZES: Mapping[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def _check(valid: bool, field: str, got: object, allowed: str) -> None:
    if not valid:
        raise ValueError(f"{field} is {got!r}: it must be {allowed}.")


def _check_choice(field: str, got: object, choices: tuple[object, ...]) -> None:
    _check(got in choices, field, got, "one of " + ", ".join(map(repr, choices)))


def _check_color(field: str, got: Sequence[float], *, least: float) -> None:
    _check(len(got) == 3 and min(got) >= least, field, got, f"three numbers (R, G, B), each at least {least}")


def _tuples(value: Any) -> Any:  # noqa: ANN401 -- any JSON value
    """JSON knows lists only; our fields are tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _check_integers(settings: _Settings) -> None:
    """Refuse 2.5 or True where a whole number belongs: it would fail much later, far from its cause."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        got = getattr(settings, field.name)
        if field.type == "int" or (field.type == "int | None" and got is not None):
            _check(isinstance(got, int) and not isinstance(got, bool), field.name, got, "a whole number")


class _Settings:
    """What the three settings share: JSON-ready dictionaries, strict on the way in."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON-ready values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s result.

        Raises:
            ValueError: a field is unknown, missing or out of range; the message names it.
        """
        fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - fields):
            raise ValueError(f"unknown {cls.__name__} fields {unknown}: known are {sorted(fields)}.")
        try:
            return cls(**{name: _tuples(value) for name, value in values.items()})
        except TypeError as error:
            raise ValueError(f"{cls.__name__} cannot be built from {dict(values)}: {error}.") from error

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401 -- the fields' own types
        """Return a copy with some fields changed; the copy is checked again.

        Raises:
            ValueError: a field is unknown or out of range.
        """
        return type(self).from_dict({**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(_Settings):
    """The network's shape; stored as ``model`` in a checkpoint's ``config.json``.

    Attributes:
        patch_size: pixels on a side of a patch.
        image_size: pixels on a side of the square training crops; a multiple of ``patch_size``.
        embed_dim: width of the encoder.
        depth: encoder blocks.
        num_heads: encoder attention heads.
        mlp_ratio: hidden width of an MLP over its block's width.
        position: ``"sincos"`` = fixed 2-D sine-cosine, recomputed at any grid size with the training grid's extent;
            ``"learned"`` = the stored table, interpolated bicubically.
        encoder: ``"siamese"`` = each frame alone; ``"joint"`` = the tokens of both frames together.
        decoder: ``"cross-self"`` = cross-attention to the past frame, self-attention, MLP (the paper's best);
            ``"cross"`` = without self-attention; ``"joint"`` = self-attention over the tokens of both frames.
        decoder_dim: width of the decoder.
        decoder_depth: decoder blocks.
        decoder_heads: decoder attention heads.
        norm_pix_loss: normalise each target patch to mean 0 and variance 1 before the l2 error.
        pixel_mean: subtracted from RGB in [0, 1].
        pixel_std: divides what is left.

    Raises:
        ValueError: a field is out of range or two do not fit together.

    Source:
        Gupta et al. 2023, sections 3 and 4; decoder width and depth are not in the public material, the default
        256 wide, 4 deep is that of the CropMAE re-implementation.
    """

    patch_size: int = 16
    image_size: int = 224
    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    position: Literal["sincos", "learned"] = "sincos"
    encoder: Literal["siamese", "joint"] = "siamese"
    decoder: Literal["cross-self", "cross", "joint"] = "cross-self"
    decoder_dim: int = 256
    decoder_depth: int = 4
    decoder_heads: int = 8
    norm_pix_loss: bool = True
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_integers(self)
        for field in ("patch_size", "image_size", "embed_dim", "depth", "num_heads", "decoder_dim", "decoder_depth"):
            _check(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        _check(self.decoder_heads >= 1, "decoder_heads", self.decoder_heads, "at least 1")
        _check(self.mlp_ratio > 0, "mlp_ratio", self.mlp_ratio, "above 0")
        _check(
            self.image_size % self.patch_size == 0, "image_size", self.image_size, f"a multiple of {self.patch_size}"
        )
        for width, heads in (("embed_dim", "num_heads"), ("decoder_dim", "decoder_heads")):
            got = getattr(self, width)
            _check(got % getattr(self, heads) == 0, width, got, f"a multiple of {heads} = {getattr(self, heads)}")
            _check(got % 4 == 0, width, got, "a multiple of 4 (sine and cosine of x and y)")
        _check_choice("position", self.position, ("sincos", "learned"))
        _check_choice("encoder", self.encoder, ("siamese", "joint"))
        _check_choice("decoder", self.decoder, ("cross-self", "cross", "joint"))
        _check_color("pixel_mean", self.pixel_mean, least=-1.0)
        _check_color("pixel_std", self.pixel_std, least=1e-6)

    @classmethod
    def vit(cls, size: str, *, patch_size: int = 16, **fields: Any) -> Self:  # noqa: ANN401 -- the fields' own types
        """Return a standard ViT shape.

        Args:
            size: ``"tiny"``, ``"small"``, ``"base"`` or ``"large"``.
            patch_size: pixels on a side, 8 or 16 in the paper.
            **fields: any other field of this class.

        Raises:
            ValueError: the size is unknown or a field out of range.
        """
        _check_choice("size", size, tuple(VIT_SIZES))
        embed_dim, depth, num_heads = VIT_SIZES[size]
        shape = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
        return cls.from_dict({**shape, **fields})

    @property
    def grid_size(self) -> int:
        """Patches on a side of a training crop."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class PropagationConfig(_Settings):
    """How labels travel from context frames to the next frame. The defaults are siammae's own, not a paper's.

    Attributes:
        top_k: context patches mixed for each query patch.
        keep_ties: also keep every patch as similar as the ``top_k``-th one (DINO) instead of exactly ``top_k``.
        temperature: divides the cosine similarity before the softmax.
        radius: of the window around a query patch, in patches; None looks everywhere.
        neighborhood: ``"disk"`` keeps patches with Euclidean ``distance < radius``;
            ``"square"`` those with ``|dx| <= radius`` and ``|dy| <= radius``.
        queue_length: last frames kept as context, besides pinned ones.
        pin_first: frames that came with a mask stay in the context for ever.
        restrict_first: the window applies to pinned frames too.
        pad_queue: the queue starts with ``queue_length`` copies of the first frame (videowalk, CropMAE).
        resize: input size: the short side in pixels, exact ``(H, W)``, or None for the frame's own size.
        size_multiple: with a short side given, the long side becomes a multiple of this; None = the patch size.
        rounding: how the long side gets to its multiple: ``"nearest"``, ``"floor"`` or ``"ceil"``.
        interpolation: of the frame: ``"area"`` averages when shrinking; ``"bilinear"`` samples (public evaluators).
        pixel_std: divisor of the normalised pixels; None = the extractor's own.
        first_labels: a given mask on the patch grid: ``"area"`` = part of each patch covered; ``"bilinear"`` =
            one-hot at the input size, sampled bilinearly; ``"nearest"`` = the id at each patch's centre.
        min_max: stretch every label's map to [0, 1] over the frame before the argmax.
        upsample_to: ``"frame"`` = soft labels go bilinearly to the frame's size, then argmax; ``"input"`` = to the
            network's input size, argmax, then nearest neighbour to the frame's size.
        first_output: for a frame that came with a mask: ``"given"`` = the mask itself; ``"rendered"`` = its soft
            labels rendered like any other frame's.
        keypoint_rule: ``"subpixel"`` = Gaussians at the exact position; ``"cell"`` = videowalk's and CropMAE's
            rounded cells, whose half-patch offset cancels between encoding and decoding.
        keypoint_sigma: standard deviation of a keypoint's Gaussian, in patches.
        keypoint_top_k: patches whose weighted mean is the keypoint's position.

    Raises:
        ValueError: a field is out of range.
    """

    top_k: int = 7
    keep_ties: bool = False
    temperature: float = 0.1
    radius: int | None = 12
    neighborhood: Literal["disk", "square"] = "disk"
    queue_length: int = 7
    pin_first: bool = True
    restrict_first: bool = True
    pad_queue: bool = False
    resize: int | tuple[int, int] | None = None
    size_multiple: int | None = None
    rounding: Literal["nearest", "floor", "ceil"] = "nearest"
    interpolation: Literal["area", "bilinear"] = "area"
    pixel_std: tuple[float, float, float] | None = None
    first_labels: Literal["area", "bilinear", "nearest"] = "area"
    min_max: bool = False
    upsample_to: Literal["frame", "input"] = "frame"
    first_output: Literal["given", "rendered"] = "given"
    keypoint_rule: Literal["subpixel", "cell"] = "subpixel"
    keypoint_sigma: float = 0.5
    keypoint_top_k: int = 5

    def __post_init__(self) -> None:
        _check_integers(self)
        _check(self.top_k >= 1, "top_k", self.top_k, "at least 1")
        _check(
            self.temperature > 0 and math.isfinite(self.temperature), "temperature", self.temperature, "above 0, finite"
        )
        _check(self.radius is None or self.radius >= 1, "radius", self.radius, "at least 1, or None for no window")
        _check(self.queue_length >= 0, "queue_length", self.queue_length, "at least 0")
        _check(
            self.queue_length > 0 or self.pin_first, "queue_length", 0, "at least 1 when pin_first is False: no context"
        )
        sides: Sequence[int] = self.resize if isinstance(self.resize, tuple) else (self.resize or 0, 1)
        _check(
            self.resize is None or (len(sides) == 2 and min(sides) >= 1),
            "resize",
            self.resize,
            "the short side in pixels, (H, W), or None",
        )
        _check(self.size_multiple is None or self.size_multiple >= 1, "size_multiple", self.size_multiple, "at least 1")
        if self.pixel_std is not None:
            _check_color("pixel_std", self.pixel_std, least=1e-6)
        _check_choice("neighborhood", self.neighborhood, ("disk", "square"))
        _check_choice("rounding", self.rounding, ("nearest", "floor", "ceil"))
        _check_choice("interpolation", self.interpolation, ("area", "bilinear"))
        _check_choice("first_labels", self.first_labels, ("area", "bilinear", "nearest"))
        _check_choice("upsample_to", self.upsample_to, ("frame", "input"))
        _check_choice("first_output", self.first_output, ("given", "rendered"))
        _check_choice("keypoint_rule", self.keypoint_rule, ("subpixel", "cell"))
        _check(self.keypoint_sigma > 0, "keypoint_sigma", self.keypoint_sigma, "above 0")
        _check(self.keypoint_top_k >= 1, "keypoint_top_k", self.keypoint_top_k, "at least 1")

    @classmethod
    def preset(cls, name: str, *, dataset: str = "davis") -> Self:
        """Return the rules of a public evaluation code.

        Args:
            name: ``"siammae"`` = CropMAE's published evaluation of SiamMAE (downstreams/propagation/src);
                ``"dino"`` = DINO's eval_video_segmentation.py.
            dataset: ``"davis"``, or ``"jhmdb"`` for ``"siammae"``.

        Raises:
            ValueError: there is no such preset.
        """
        try:
            return cls(**_PRESETS[name, dataset])
        except KeyError:
            known = ", ".join(f"{preset} for {data}" for preset, data in _PRESETS)
            raise ValueError(f"no preset {name!r} for {dataset!r}: known are {known}.") from None


# CropMAE, downstreams/propagation/src: test.py, data/vos.py, utils/test_utils.py; its DAVIS is resized to 480x880.
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
_PRESETS: Mapping[tuple[str, str], dict[str, Any]] = {
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(_Settings):
    """Everything a pretraining run depends on; saved as JSON beside every checkpoint.

    Attributes:
        videos: a folder searched for videos, a text file with one path a line, or one video.
        output_dir: gets ``state.pt`` (to resume), ``log.jsonl`` and ``model/`` (for ``from_pretrained``).
        model: the network.
        mask_ratio: part of the future frame's patches that is hidden, in (0, 1).
        frame_gap: least and largest distance of the two frames, inclusive, in frames; cut to what a clip allows.
        samples_per_video: pairs drawn from each video in one epoch (repeated sampling).
        crop_scale: part of the frame's area that a crop covers, least and largest.
        crop_ratio: width over height of a crop, least and largest.
        flip: probability of a horizontal flip.
        still_share: part of the pairs made from one frame by two different crops instead of two frames by one crop.
        short_side: frames are shrunk to this short side when read; None keeps them.
        cache_mb: memory for decoded frames in each reading process, in MiB; 0 decodes anew for every sample.
        epochs: passes over the videos.
        warmup_epochs: epochs in which the learning rate rises from 0.
        batch_size: pairs in one optimiser step.
        base_lr: learning rate for a batch of 256 pairs; scaled by ``batch_size / 256``.
        weight_decay: of AdamW, on matrices only.
        betas: decay rates of AdamW's two running averages.
        precision: ``"bf16"`` = bfloat16 autocast, ``"fp32"``.
        workers: processes that read ahead; 0 reads in the training process.
        checkpoint_every: optimiser steps between saved states.
        seed: of weights, masks, pairs and crops.

    Raises:
        ValueError: a field is out of range.

    Source:
        Gupta et al. 2023, table 4a; still_share is ours (CropMAE's idea as a part of the diet).
    """

    videos: str
    output_dir: str
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    mask_ratio: float = 0.95
    frame_gap: tuple[int, int] = (4, 48)
    samples_per_video: int = 2
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    still_share: float = 0.0
    short_side: int | None = None
    cache_mb: int = 0
    epochs: int = 400
    warmup_epochs: int = 40
    batch_size: int = 2048
    base_lr: float = 1.5e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    precision: Literal["bf16", "fp32"] = "bf16"
    workers: int = 0
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        _check_integers(self)
        if isinstance(self.model, Mapping):  # from JSON
            object.__setattr__(self, "model", ModelConfig.from_dict(self.model))
        for field in ("videos", "output_dir"):  # a Path would fit neither JSON nor the saved state
            object.__setattr__(self, field, os.fspath(getattr(self, field)))
        _check(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "between 0 and 1")
        _check(1 <= self.frame_gap[0] <= self.frame_gap[1], "frame_gap", self.frame_gap, "(least, largest), from 1 up")
        low, high = self.crop_scale
        _check(0 < low <= high <= 1, "crop_scale", self.crop_scale, "(least, largest) in (0, 1]")
        _check(0 < self.crop_ratio[0] <= self.crop_ratio[1], "crop_ratio", self.crop_ratio, "(least, largest) above 0")
        _check(0 <= self.flip <= 1, "flip", self.flip, "a probability")
        _check(0 <= self.still_share <= 1, "still_share", self.still_share, "between 0 and 1")
        _check(self.short_side is None or self.short_side >= 1, "short_side", self.short_side, "at least 1, or None")
        for field in ("samples_per_video", "epochs", "batch_size", "checkpoint_every"):
            _check(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        _check(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        for field in ("cache_mb", "warmup_epochs", "workers", "weight_decay", "base_lr"):
            _check(getattr(self, field) >= 0, field, getattr(self, field), "at least 0")
        _check_choice("precision", self.precision, ("bf16", "fp32"))
