"""How labels travel from context frames to the next frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from siammae.config.presets import PRESETS, QUALITIES
from siammae.config.settings import (
    TEMPERATURES,
    Settings,
    check,
    check_choice,
    check_color,
    check_flags,
    check_integers,
    check_range,
)

# Patches. Near a border the label of a rounded cell falls off the grid for less than 0.3; no grid has 100 sigmas.
# Grey levels; chosen on real clips with and without noise added: benchmarks/token_reuse.md.
_REUSE = 5.0
_SIGMAS = {"subpixel": (1e-3, 100.0), "cell": (0.3, 100.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PropagationConfig(Settings):
    """How labels travel from context frames to the next frame. The defaults are siammae's own, not a paper's.

    Attributes:
        top_k: context patches mixed for each query patch.
        keep_ties: also keep every patch as similar as the ``top_k``-th one (DINO) instead of exactly ``top_k``.
        temperature: divides the cosine similarity before the softmax; 1e-6 to 1e6.
        radius: of the window around a query patch, in patches; None looks everywhere.
        neighborhood: ``"disk"`` keeps patches with Euclidean ``distance < radius``; ``"closed_disk"`` those with
            ``distance <= radius``; ``"square"`` those with ``|dx| <= radius`` and ``|dy| <= radius``.
        queue_length: last frames kept as context, besides pinned ones.
        pin_first: frames that came with a mask stay in the context for ever.
        restrict_first: the window applies to pinned frames too.
        pad_queue: the queue starts with ``queue_length`` copies of the first frame (videowalk, CropMAE).
        queue_pinned: a pinned frame is queued too, so the context holds it twice until the queue drops it (VFS).
        resize: input size: one side in pixels, exact ``(H, W)``, or None for the frame's own size.
        resize_side: the side that an int ``resize`` gives, ``"short"`` or ``"long"``; it goes to the nearest multiple
            of the patch size, the other one follows in proportion. Of a square frame the long side is the height.
        size_multiple: the side that follows becomes a multiple of this; None = the patch size.
        rounding: how the side that follows gets to its multiple: ``"nearest"``, ``"floor"`` or ``"ceil"``. With
            ``resize`` None, how both sides do.
        round_both: the side that ``resize`` gives is rounded by that rule too, and the other one follows from the
            rounded one (DINOv3).
        interpolation: of the frame: ``"area"`` averages when shrinking; ``"bilinear"`` samples (most public
            evaluators); ``"bicubic"`` is Pillow's, which averages when shrinking (DINOv3).
        pixel_std: divisor of the normalised pixels; None = the extractor's own.
        center_features: subtract from the features of each frame their mean over its patches before they are compared;
            off in the presets of public codes.
        second_size: encode each frame at so much of the input's size too, 0.1 to 0.9, and compare patches by both: a
            large input shows a large object's inside without its surroundings, see
            ``siammae.propagation.two_sizes``. None = one size, as all public codes.
        first_labels: a given mask on the patch grid: ``"area"`` = part of each patch covered; ``"bilinear"`` =
            one-hot at the input size, sampled bilinearly; ``"nearest"`` = the id at each patch's centre.
        label_cells: a mask's labels are kept at ``label_cells`` x ``label_cells`` cells a patch: a match brings the
            matched patch's own cells along, so that edges are finer than patches. 1 in the presets of public codes;
            memory of labels, not of features, grows with its square. Keypoints are not affected.
        normalize_labels: a mask's propagated soft labels are divided by their sum at every patch, which differs from
            1 by void pixels and rounding only; keypoints are left alone.
        min_max: stretch every label's map to [0, 1] over the frame before the argmax.
        upsampling: of soft labels: ``"bilinear"`` or ``"nearest"``.
        upsample_to: ``"frame"`` = soft labels go to the frame's size, then argmax; ``"input"`` = to the network's
            input size, argmax, then nearest neighbour to the frame's size.
        focus_margin: encode only the patches near the objects: their box in the frames before and so many patches
            around it; the whole frame when one is lost. Of several objects each keeps to its own box and margin.
            None = always the whole frame, as all public codes. Masks only, and only with an extractor that can
            (``SiamMAE``).
        pool_keys: the encoder's attention looks at means of so many by so many patches, see ``SiamMAE.extract``; 1 in
            the presets of public codes. Only with an extractor that can (``SiamMAE``, plain ViTs of timm).
        reuse_threshold: patches whose pixels have changed by no more than so many grey levels since they were last
            encoded keep their features, see ``siammae.network.token_reuse``; 0 = only where nothing has changed in the
            whole frame; None = every patch is encoded in every frame, as in all public codes. Only with an extractor
            that can (``SiamMAE``, plain ViTs of timm).
        reuse_refresh: with ``reuse_threshold``, everything is encoded anew in every so many frames.
        refine: what is done to a mask when it is rendered, never to the labels that travel: ``"none"``, or
            ``"local-colour"`` = pixels go to the object whose colours around them fit best, see
            ``siammae.propagation.refinement``.
        refine_radius: of the neighbourhood whose colours count, in pixels of the network's input.
        refine_strength: weight of the colours against the propagated labels.
        first_output: for a frame that came with a mask: ``"given"`` = the mask itself; ``"rendered"`` = its soft
            labels rendered like any other frame's.
        keypoint_rule: ``"subpixel"`` = Gaussians at the exact position; ``"cell"`` = videowalk's and CropMAE's
            rounded cells, whose half-patch offset cancels between encoding and decoding.
        keypoint_sigma: standard deviation of a keypoint's Gaussian, in patches: 0.001 to 100, or 0.3 to 100 with
            ``"cell"``.
        keypoint_top_k: patches whose weighted mean is the keypoint's position.

    Raises:
        ValueError: a field is out of range.

    Example:
        >>> import siammae
        >>> rules = siammae.PropagationConfig(top_k=5, queue_length=4)
        >>> rules.replace(radius=8).radius
        8
        >>> siammae.PropagationConfig.preset("dino").keep_ties  # the rules of a public code
        True
    """

    top_k: int = 7
    keep_ties: bool = False
    temperature: float = 0.1
    radius: int | None = 12
    neighborhood: Literal["disk", "closed_disk", "square"] = "disk"
    queue_length: int = 7
    pin_first: bool = True
    restrict_first: bool = True
    pad_queue: bool = False
    queue_pinned: bool = False
    resize: int | tuple[int, int] | None = None
    resize_side: Literal["short", "long"] = "short"
    size_multiple: int | None = None
    rounding: Literal["nearest", "floor", "ceil"] = "nearest"
    round_both: bool = False
    interpolation: Literal["area", "bilinear", "bicubic"] = "area"
    pixel_std: tuple[float, float, float] | None = None
    center_features: bool = False
    second_size: float | None = None
    first_labels: Literal["area", "bilinear", "nearest"] = "area"
    label_cells: int = 1
    normalize_labels: bool = False
    min_max: bool = False
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    upsample_to: Literal["frame", "input"] = "frame"
    focus_margin: int | None = None
    pool_keys: int = 1
    reuse_threshold: float | None = None
    reuse_refresh: int = 30
    refine: Literal["none", "local-colour"] = "none"
    refine_radius: int = 8
    refine_strength: float = 0.3
    first_output: Literal["given", "rendered"] = "given"
    keypoint_rule: Literal["subpixel", "cell"] = "subpixel"
    keypoint_sigma: float = 0.5
    keypoint_top_k: int = 5

    def __post_init__(self) -> None:
        check_integers(self)
        check_flags(self)
        check(self.top_k >= 1, "top_k", self.top_k, "at least 1")
        check_range("temperature", self.temperature, TEMPERATURES)
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
            "one side in pixels, (H, W), or None",
        )
        check(self.size_multiple is None or self.size_multiple >= 1, "size_multiple", self.size_multiple, "at least 1")
        if self.pixel_std is not None:
            check_color("pixel_std", self.pixel_std, least=1e-6)
        if self.second_size is not None:
            check_range("second_size", self.second_size, (0.1, 0.9))
        check(1 <= self.label_cells <= 16, "label_cells", self.label_cells, "1 to 16")
        check(1 <= self.refine_radius <= 1024, "refine_radius", self.refine_radius, "1 to 1024")
        check(0 <= self.refine_strength <= 10, "refine_strength", self.refine_strength, "in [0, 10]")
        check(
            self.focus_margin is None or self.focus_margin >= 1,
            "focus_margin",
            self.focus_margin,
            "at least 1, or None",
        )
        check(1 <= self.pool_keys <= 16, "pool_keys", self.pool_keys, "1 to 16")
        if self.reuse_threshold is not None:
            check_range("reuse_threshold", self.reuse_threshold, (0, 255))
        check(self.reuse_refresh >= 1, "reuse_refresh", self.reuse_refresh, "at least 1")
        check_choice("refine", self.refine, ("none", "local-colour"))
        check_choice("neighborhood", self.neighborhood, ("disk", "closed_disk", "square"))
        check_choice("resize_side", self.resize_side, ("short", "long"))
        check_choice("rounding", self.rounding, ("nearest", "floor", "ceil"))
        check_choice("interpolation", self.interpolation, ("area", "bilinear", "bicubic"))
        check_choice("first_labels", self.first_labels, ("area", "bilinear", "nearest"))
        check_choice("upsampling", self.upsampling, ("bilinear", "nearest"))
        check_choice("upsample_to", self.upsample_to, ("frame", "input"))
        check_choice("first_output", self.first_output, ("given", "rendered"))
        check_choice("keypoint_rule", self.keypoint_rule, ("subpixel", "cell"))
        check_range("keypoint_sigma", self.keypoint_sigma, _SIGMAS[self.keypoint_rule])
        check(self.keypoint_top_k >= 1, "keypoint_top_k", self.keypoint_top_k, "at least 1")

    @classmethod
    def preset(cls, name: str, *, dataset: str = "davis") -> Self:
        """Return the rules of a public evaluation code; every field can be changed with :meth:`replace`.

        A radius counts patches of whatever extractor is used; the sources' own have the stride given here.

        Args:
            name: one of

                - ``"siammae"``: CropMAE's evaluation of SiamMAE, downstreams/propagation (stride 16);
                - ``"crw"``: videowalk, code/test.py (Jabri et al. 2020; stride 8);
                - ``"dino"``: DINO, eval_video_segmentation.py (Caron et al. 2021; stride 16 or 8);
                - ``"rsp"``: RSP, eval_video_segmentation_davis.py (Jang et al. 2024; stride 16);
                - ``"vfs"``: VFS, VanillaTracker with the ResNet-18 settings (Xu and Wang 2021; stride 8);
                - ``"dinov3"``: DINOv3, notebooks/segmentation_tracking.ipynb (Siméoni et al. 2025; stride 16).

                What could not be taken over, and what the sources leave open, stands beside the values in
                ``siammae/config/presets.py``.
            dataset: ``"davis"`` for all of them; ``"vip"`` and ``"jhmdb"`` for ``"siammae"`` and ``"crw"``, the only
                codes that publish them.

        Raises:
            ValueError: there is no such preset.
        """
        try:
            return cls(**PRESETS[name, dataset])
        except KeyError:
            known = ", ".join(f"{preset} for {data}" for preset, data in PRESETS)
            raise ValueError(f"no preset {name!r} for {dataset!r}: known are {known}.") from None

    def is_public(self) -> bool:
        """Tell whether these are the rules of a preset, at whatever input size."""
        sides = {"resize": self.resize, "resize_side": self.resize_side}
        return any(self == type(self)(**{**fields, **sides}) for fields in PRESETS.values())

    @classmethod
    def recommended(
        cls, extractor: object, quality: Literal["fast", "balanced", "best"] = "balanced"
    ) -> PropagationConfig:
        """Return the rules that give the best masks for a cost; every field can be changed with :meth:`replace`.

        They begin with what the extractor recommends itself (``extractor.propagation``), or with the defaults, and
        choose the input size, in patches, and how fine masks become. What each costs and gives: the page on finer
        masks.

        Args:
            extractor: any extractor; it has a ``patch_size``.
            quality: ``"fast"`` = a short side of 30 patches; ``"balanced"`` = 52, what ``siammae-ti8`` does by itself;
                ``"best"`` = 60, and 40 beside it.

        Raises:
            ValueError: there is no such quality.
        """
        check_choice("quality", quality, tuple(QUALITIES))
        patches, changes = QUALITIES[quality]
        own: PropagationConfig = getattr(extractor, "propagation", None) or cls()
        side = {"resize": patches * getattr(extractor, "patch_size"), "resize_side": "short"}  # noqa: B009
        rules = own.replace(**{"refine": "local-colour", "pool_keys": 2, "reuse_threshold": _REUSE, **side, **changes})
        return rules.for_extractor(extractor)

    def for_extractor(self, extractor: object) -> Self:
        """Return these rules without what an extractor cannot do: a focus, pooled keys, token reuse."""
        known: frozenset[str] = getattr(extractor, "extract_options", frozenset())
        return self.replace(
            focus_margin=self.focus_margin if "region" in known else None,
            pool_keys=self.pool_keys if "pool_keys" in known else 1,
            reuse_threshold=self.reuse_threshold if "reuse" in known else None,
        )
