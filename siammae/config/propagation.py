"""How labels travel from context frames to the next frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from siammae.config.presets import PRESETS
from siammae.config.settings import Settings, check, check_choice, check_color, check_integers


@dataclass(frozen=True, slots=True, kw_only=True)
class PropagationConfig(Settings):
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
        check_integers(self)
        check(self.top_k >= 1, "top_k", self.top_k, "at least 1")
        check(
            self.temperature > 0 and math.isfinite(self.temperature), "temperature", self.temperature, "above 0, finite"
        )
        check(self.radius is None or self.radius >= 1, "radius", self.radius, "at least 1, or None for no window")
        check(self.queue_length >= 0, "queue_length", self.queue_length, "at least 0")
        check(
            self.queue_length > 0 or self.pin_first, "queue_length", 0, "at least 1 when pin_first is False: no context"
        )
        sides: Sequence[int] = self.resize if isinstance(self.resize, tuple) else (self.resize or 0, 1)
        check(
            self.resize is None or (len(sides) == 2 and min(sides) >= 1),
            "resize",
            self.resize,
            "the short side in pixels, (H, W), or None",
        )
        check(self.size_multiple is None or self.size_multiple >= 1, "size_multiple", self.size_multiple, "at least 1")
        if self.pixel_std is not None:
            check_color("pixel_std", self.pixel_std, least=1e-6)
        check_choice("neighborhood", self.neighborhood, ("disk", "square"))
        check_choice("rounding", self.rounding, ("nearest", "floor", "ceil"))
        check_choice("interpolation", self.interpolation, ("area", "bilinear"))
        check_choice("first_labels", self.first_labels, ("area", "bilinear", "nearest"))
        check_choice("upsample_to", self.upsample_to, ("frame", "input"))
        check_choice("first_output", self.first_output, ("given", "rendered"))
        check_choice("keypoint_rule", self.keypoint_rule, ("subpixel", "cell"))
        check(self.keypoint_sigma > 0, "keypoint_sigma", self.keypoint_sigma, "above 0")
        check(self.keypoint_top_k >= 1, "keypoint_top_k", self.keypoint_top_k, "at least 1")

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
            return cls(**PRESETS[name, dataset])
        except KeyError:
            known = ", ".join(f"{preset} for {data}" for preset, data in PRESETS)
            raise ValueError(f"no preset {name!r} for {dataset!r}: known are {known}.") from None


# CropMAE, downstreams/propagation/src: test.py, data/vos.py, utils/test_utils.py; its DAVIS is resized to 480x880.
