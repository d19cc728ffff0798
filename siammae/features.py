"""Frames to features: resize, normalise, run an encoder in batches; what propagation needs of any backbone."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from siammae.config import IMAGENET_MEAN, IMAGENET_STD
from siammae.frames import VideoSource, read_frames, resize_frame

logger = logging.getLogger(__name__)

Rounding = Literal["nearest", "floor", "ceil"]
Interpolation = Literal["area", "bilinear", "bicubic"]
# On a CPU, activations of more tokens come from fresh memory pages each time: 8 frames of 1590 patches at once take
# 10 to 17 % longer than 2 or 4 (ViT-Ti/8, one core of an Intel Xeon with AVX-512, torch 2.14).
_CPU_TOKENS = 4096
# Patches of a frame from which its cost is measured before it is begun, and the seconds from which it is said.
_MANY_PATCHES, _LONG_SECONDS = 10_000, 10.0
_SAMPLE_SIDES = (16, 32, 48)  # patches on a side of the squares that are timed; the first only warms up
_ACTIVATIONS = 24  # channels' worth of a ViT block's activations: tokens, queries, keys, values, the MLP's four

_said: set[tuple[int, int, int, str]] = set()  # sizes whose cost was looked at

_ORIENTATIONS = 9  # of gradients
_ROUND: dict[str, Callable[[float], int]] = {"nearest": round, "floor": math.floor, "ceil": math.ceil}


class FeatureExtractor(Protocol):
    """What propagation needs of a backbone. SiamMAE and PixelExtractor have it; so can any class of yours.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> import torch
        >>> class Brightness:
        ...     patch_size = 8
        ...
        ...     def extract(self, frames, *, resize=None, batch_size=8):
        ...         pixels = torch.stack([torch.from_numpy(frame) for frame in siammae.read_frames(frames)])
        ...         return torch.nn.functional.avg_pool2d(pixels.float().mean(dim=-1)[:, None], 8)
        >>> video, mask = np.zeros((4, 48, 64, 3), np.uint8), np.ones((48, 64), np.uint8)
        >>> siammae.propagate_masks(video, mask, model=Brightness()).labels.shape
        (4, 48, 64)
    """

    patch_size: int

    def extract(
        self, frames: VideoSource, *, batch_size: int = 8, pixel_std: tuple[float, float, float] | None = None
    ) -> Tensor:
        """Return patch features.

        Args:
            frames: whose sides are multiples of ``patch_size``.
            batch_size: frames encoded at once.
            pixel_std: overrides the divisor of normalised pixels; only presets that fix it pass one.

        Returns:
            ``(T, C, H // patch_size, W // patch_size)``, float, on the extractor's device.
        """
        ...


class FeatureStream(Protocol):
    """A stream's features where an extractor keeps what has not changed; what its ``open_stream`` returns.

    Attributes:
        region: the patches that the last frame was encoded in, ``(top, left, bottom, right)``; None before the first.
        computed: patches encoded so far.
        asked: patches that would have been without reuse.
    """

    region: tuple[int, int, int, int] | None
    computed: int
    asked: int

    def extract(self, frame: NDArray[np.uint8], *, region: tuple[int, int, int, int] | None = None) -> Tensor:
        """Return the features of the next frame, see :meth:`siammae.network.token_reuse.TokenStream.extract`."""
        ...


def input_size(
    frame_size: tuple[int, int],
    *,
    patch_size: int,
    resize: int | tuple[int, int] | None = None,
    side: Literal["short", "long"] = "short",
    multiple: int | None = None,
    rounding: Rounding = "nearest",
    round_both: bool = False,
) -> tuple[int, int]:
    """Choose the size at which a frame enters the network; the aspect is kept as far as whole patches allow.

    Args:
        frame_size: ``(H, W)`` in pixels.
        patch_size: every side becomes a multiple of this.
        resize: None = the frame's own size; an int = one side, the other in proportion; ``(H, W)`` = that.
        side: which one an int gives; of a square frame the long side is the height.
        multiple: the side that follows becomes a multiple of this; None = ``patch_size``.
        rounding: how the side that follows gets to its multiple, and without ``resize`` both sides.
        round_both: the side given is rounded by that rule too and not to the nearest multiple, and the other one
            follows from the rounded one.

    Returns:
        ``(H, W)``, multiples of ``patch_size``.

    Raises:
        ValueError: the frame is smaller than a patch, or an exact size or ``multiple`` is no multiple of it.
    """
    if isinstance(resize, tuple):
        if any(side % patch_size or side < patch_size for side in resize):
            raise ValueError(f"resize is {resize}: both sides must be multiples of the patch size {patch_size}.")
        return resize
    if multiple is not None and multiple % patch_size:
        raise ValueError(f"multiple is {multiple}: it must be a multiple of the patch size {patch_size}.")
    by_long = resize is not None and side == "long"
    own, other = sorted(frame_size, reverse=by_long)
    given = own if resize is None else resize
    first = _to_multiple(given, patch_size, rounding if resize is None or round_both else "nearest")
    follows = (first if round_both else given) * other / max(own, 1)
    second = _to_multiple(follows, multiple or patch_size, rounding)
    short, long_side = (second, first) if by_long else (first, max(first, second))
    if min(frame_size) < 1 or short < patch_size:
        raise ValueError(
            f"the frame is {frame_size} and would enter the network with a short side of "
            f"{follows if by_long else given:g} pixels: at least one patch of {patch_size} is needed. "
            "Pass resize=... to enlarge it."
        )
    upright = frame_size[0] > frame_size[1] or (by_long and frame_size[0] == frame_size[1])
    return (long_side, short) if upright else (short, long_side)


def _to_multiple(side: float, multiple: int, rounding: Rounding) -> int:
    return _ROUND[rounding](side / multiple) * multiple


def to_batch(frames: list[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Stack frames ``(H, W, 3)`` uint8 into ``(B, 3, H, W)`` uint8 on a device."""
    return torch.from_numpy(np.stack(frames)).to(device).permute(0, 3, 1, 2)


def normalize(
    images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float], dtype: torch.dtype
) -> Tensor:
    """Bring RGB images ``(B, 3, H, W)``, uint8 or float in [0, 1], to zero mean and unit deviation per channel."""
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    shape = (1, 3, 1, 1)
    return ((x - x.new_tensor(mean).view(shape)) / x.new_tensor(std).view(shape)).to(dtype)


def extract_features(
    frames: VideoSource,
    encode: Callable[[Tensor], Tensor],
    *,
    patch_size: int,
    device: torch.device,
    resize: int | tuple[int, int] | None = None,
    interpolation: Interpolation = "area",
    batch_size: int = 8,
) -> Tensor:
    """Read, resize and encode a video batch by batch.

    Args:
        frames: any video source.
        encode: turns ``(B, 3, H, W)`` uint8 on ``device`` into ``(B, C, h, w)``.
        patch_size: of the encoder.
        device: where the encoder lives.
        resize: see :func:`input_size`.
        interpolation: see :func:`siammae.frames.resize_frame`.
        batch_size: frames encoded at once, at least 1; on a CPU fewer where they have more than 4096 patches together.

    Returns:
        ``(T, C, h, w)``.

    Raises:
        ValueError: ``batch_size`` is below 1, or a frame is refused.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1.")

    def resized() -> Iterator[NDArray[np.uint8]]:
        for frame in read_frames(frames):
            size = input_size((frame.shape[0], frame.shape[1]), patch_size=patch_size, resize=resize)
            yield resize_frame(frame, size, interpolation=interpolation)

    stream = resized()
    parts: list[Tensor] = []
    while batch := list(islice(stream, batch_size)):
        images = to_batch(batch, device)
        if not parts:
            say_cost(encode, images[:1], patch_size)
        patches = images.shape[-2] * images.shape[-1] // patch_size**2
        at_once = max(1, _CPU_TOKENS // patches) if device.type == "cpu" else batch_size
        parts += [encode(some) for some in torch.split(images, at_once)]
    return torch.cat(parts)


def say_cost(encode: Callable[[Tensor], Tensor], image: Tensor, patch_size: int) -> None:
    """Warn, once for a size, of a frame that takes long: how many patches it has, and about what seconds and memory.

    Time is what small squares of it take, continued with the number of patches and its square (attention).

    Args:
        encode: turns ``(1, 3, H, W)`` into ``(1, C, h, w)``.
        image: the first frame ``(1, 3, H, W)``.
        patch_size: of the encoder.
    """
    height, width = image.shape[-2:]
    patches = height * width // patch_size**2
    size = (width, height, patch_size, image.device.type)
    if patches < _MANY_PATCHES or size in _said:
        return
    _said.add(size)
    took, channels = {}, 0
    for side in (side for side in _SAMPLE_SIDES if side * patch_size <= min(height, width)):
        began = time.perf_counter()
        sample = encode(image[..., : side * patch_size, : side * patch_size])
        channels = sample.shape[1]
        sample.float().sum().item()  # waits for the device
        took[side**2] = time.perf_counter() - began
    if len(took) < len(_SAMPLE_SIDES):
        return
    (few, fast), (more, slow) = list(took.items())[1:]
    squared = max(0.0, (slow / more - fast / few) / (more - few))
    seconds = patches * (max(0.0, fast / few - squared * few) + squared * patches)
    if seconds >= _LONG_SECONDS:
        gigabytes = patches * channels * _ACTIVATIONS * 4 / 1e9
        logger.warning(
            "%d x %d pixels are %d patches: about %.0f s and %.1f GB for each frame's features on %s. "
            "Shrink the frames: a short side of 480 pixels (resize=480, --short-side 480) is usual.",
            *(width, height, patches, seconds, gigabytes, image.device.type),
        )


class PixelExtractor:
    """Plain RGB patches as features: the baseline that any trained network must beat.

    Args:
        patch_size: pixels on a side.
        device: where the features are made.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> features = siammae.PixelExtractor(8).extract(np.zeros((2, 48, 64, 3), np.uint8))
        >>> tuple(features.shape)  # 8 x 8 x 3 numbers a patch
        (2, 192, 6, 8)
    """

    def __init__(self, patch_size: int = 8, *, device: torch.device | str = "cpu") -> None:
        if patch_size < 1:
            raise ValueError(f"patch_size is {patch_size}: it must be at least 1.")
        self.patch_size = patch_size
        self.device = torch.device(device)

    def extract(
        self,
        frames: VideoSource,
        *,
        resize: int | tuple[int, int] | None = None,
        batch_size: int = 8,
        pixel_std: tuple[float, float, float] | None = None,
    ) -> Tensor:
        """Return every patch's normalised pixels: ``(T, 3 * patch_size**2, h, w)`` float32."""

        def encode(images: Tensor) -> Tensor:
            pixels = normalize(images, IMAGENET_MEAN, pixel_std or IMAGENET_STD, torch.float32)
            return F.pixel_unshuffle(pixels, self.patch_size)

        return extract_features(
            frames, encode, patch_size=self.patch_size, device=self.device, resize=resize, batch_size=batch_size
        )


class HogExtractor:
    """Histograms of oriented gradients (HOG) as features: the descriptor to beat from before networks learnt.

    Args:
        patch_size: pixels on a side of a cell, even.
        device: where the features are made.

    Source:
        Dalal and Triggs 2005: 9 orientations without sign, blocks of 2 x 2 cells, here with a patch's centre in theirs.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> features = siammae.HogExtractor(8).extract(np.zeros((2, 48, 64, 3), np.uint8))
        >>> tuple(features.shape)  # 4 cells of 9 orientations a patch
        (2, 36, 6, 8)
    """

    def __init__(self, patch_size: int = 8, *, device: torch.device | str = "cpu") -> None:
        if patch_size < 2 or patch_size % 2:
            raise ValueError(f"patch_size is {patch_size}: it must be even and at least 2.")
        self.patch_size = patch_size
        self.device = torch.device(device)

    def extract(
        self,
        frames: VideoSource,
        *,
        resize: int | tuple[int, int] | None = None,
        batch_size: int = 8,
        pixel_std: tuple[float, float, float] | None = None,
    ) -> Tensor:
        """Return every patch's histograms, of length 1 together: ``(T, 36, h, w)`` float32.

        ``pixel_std`` changes nothing: gradients are measured in the frame's own grey levels.
        """

        def encode(images: Tensor) -> Tensor:
            edge = self.patch_size // 2 + 1
            grey = F.pad(images.float().mean(dim=1, keepdim=True), (edge,) * 4, mode="replicate")
            dx, dy = grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2], grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]
            turn = torch.atan2(dy, dx) * (_ORIENTATIONS / math.pi)  # in bins, any sign
            bins = torch.arange(_ORIENTATIONS, dtype=torch.int64, device=images.device).view(1, -1, 1, 1)
            apart = (turn - bins + _ORIENTATIONS / 2).remainder(_ORIENTATIONS) - _ORIENTATIONS / 2
            votes = (1 - apart.abs()).clamp(min=0) * torch.hypot(dx, dy)  # shared by the two nearest bins
            cells = F.avg_pool2d(votes, self.patch_size)  # (B, 9, h + 1, w + 1), corners of patches in their middle
            blocks = [cells[..., y : y - 1 or None, x : x - 1 or None] for y in (0, 1) for x in (0, 1)]
            return F.normalize(torch.cat(blocks, dim=1), dim=1, eps=1e-3)

        return extract_features(
            frames, encode, patch_size=self.patch_size, device=self.device, resize=resize, batch_size=batch_size
        )
