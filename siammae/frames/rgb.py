"""One frame: to RGB uint8 ``(H, W, 3)``, to another size, and a turned part of it."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from siammae.config.bounds import bound
from siammae.errors import VideoReadError

FrameSource: TypeAlias = NDArray[np.uint8] | Tensor | Image.Image


def to_rgb(frame: FrameSource, *, index: int = 0) -> NDArray[np.uint8]:
    """Convert one frame to RGB.

    Args:
        frame: uint8 NumPy ``(H, W, 3)``; torch ``(3, H, W)``, uint8 or float in [0, 1], on any device; or a PIL image
            of any mode with a fixed range: grey is repeated, alpha dropped, 16 bits scaled to 8.
        index: the frame's number, for messages.

    Returns:
        Contiguous RGB uint8 ``(H, W, 3)``; shares memory with ``frame`` where nothing had to be converted.

    Raises:
        ValueError: shape, dtype or value range is wrong.
        TypeError: ``frame`` is none of the above.
    """
    if isinstance(frame, np.ndarray):
        check_layout(frame, f"frame {index}", "(H, W, 3)")
        return np.ascontiguousarray(frame)
    if isinstance(frame, Tensor):
        check_layout(frame, f"frame {index}", "(3, H, W)")
        check_unit_range(frame, f"frame {index}")
        scaled = frame.detach().float().mul(255).round() if frame.is_floating_point() else frame
        return np.ascontiguousarray(scaled.to("cpu", torch.uint8).permute(1, 2, 0).numpy())  # (H, W, 3)
    if isinstance(frame, Image.Image):
        return _pil_to_rgb(frame, index)
    raise TypeError(f"frame {index} is a {type(frame).__name__}: it must be a NumPy array, a torch tensor or PIL.")


def resize_frame(
    frame: NDArray[np.uint8], size: tuple[int, int], *, interpolation: Literal["area", "bilinear", "bicubic"]
) -> NDArray[np.uint8]:
    """Resize one frame.

    Args:
        frame: RGB uint8 ``(H, W, 3)``.
        size: new ``(H, W)``, each at least 1.
        interpolation: ``"bilinear"`` samples, as OpenCV's default and the public evaluators do; ``"area"`` averages
            along a side that shrinks and is bilinear along one that grows; ``"bicubic"`` is Pillow's, which widens
            the cubic kernel along a side that shrinks.

    Returns:
        RGB uint8 of the new size; ``frame`` itself where it has that size already.

    Raises:
        ValueError: the frame, the size or the interpolation is wrong.
    """
    check_layout(frame, "frame", "(H, W, 3)")
    if interpolation not in ("area", "bilinear", "bicubic"):
        raise ValueError(f"interpolation is {interpolation!r}: it must be 'area', 'bilinear' or 'bicubic'.")
    if min(size) < 1:
        raise ValueError(f"size is {size}: it must be (H, W), each at least 1.")
    if frame.shape[:2] == tuple(size):
        return frame
    if interpolation == "bicubic":
        return np.array(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    if interpolation == "area":
        frame = _scale(frame, (min(size[0], frame.shape[0]), min(size[1], frame.shape[1])), averaged=True)
    return _scale(frame, size, averaged=False)


def shrink_frame(frame: NDArray[np.uint8], short_side: int | None) -> NDArray[np.uint8]:
    """Shrink a frame to a short side, averaging; a smaller one, and any where ``short_side`` is None, stays as it is.

    Args:
        frame: RGB uint8 ``(H, W, 3)``.
        short_side: in pixels.
    """
    height, width = frame.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return frame
    factor = short_side / min(height, width)
    return resize_frame(frame, (round(height * factor), round(width * factor)), interpolation="area")


def _scale(frame: NDArray[np.uint8], size: tuple[int, int], *, averaged: bool) -> NDArray[np.uint8]:
    if frame.shape[:2] == tuple(size):
        return frame
    import cv2

    rule = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
    return cv2.resize(frame, (size[1], size[0]), interpolation=rule).astype(np.uint8, copy=False)


def turned_crop(
    frame: NDArray[np.uint8], box: tuple[int, int, int, int], size: tuple[int, int], *, degrees: float
) -> NDArray[np.uint8]:
    """Cut a box that is turned about its centre, and resize it.

    Args:
        frame: ``(H, W, 3)``.
        box: top, left, height and width before the turn, in pixels.
        size: ``(H, W)`` of the result.
        degrees: of the turn, clockwise as seen. What lies outside the frame is its mirror image.

    Returns:
        ``(*size, 3)`` uint8; bilinear samples twice as dense as the result, averaged.
    """
    import cv2

    top, left, height, width = box
    turn, fine = math.radians(degrees), (2 * size[0], 2 * size[1])
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    to_frame = np.empty((2, 3))  # from x, y of the result to x, y of the frame, pixel centres at whole numbers
    to_frame[:, :2] = turned * (width / fine[1], height / fine[0])
    centre = np.array([left + width / 2 - 0.5, top + height / 2 - 0.5])
    to_frame[:, 2] = centre - to_frame[:, :2] @ np.array([fine[1] / 2 - 0.5, fine[0] / 2 - 0.5])
    dense = cv2.warpAffine(
        frame, to_frame, fine[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101
    )
    return _scale(dense.astype(np.uint8, copy=False), size, averaged=True)


def check_layout(frames: NDArray[np.uint8] | Tensor, name: str, wanted: str) -> None:
    """Refuse anything but the shape ``wanted``, spelled with its 3 in place, and a pixel dtype."""
    channels_first = isinstance(frames, Tensor)
    dtypes = "uint8 or float" if channels_first else "uint8"
    got = f"{name} must be {wanted} {dtypes} RGB, got {tuple(frames.shape)} {frames.dtype}."
    if frames.ndim != wanted.count(",") + 1:
        raise ValueError(f"{got} A video has one axis more than a frame: wrap a single frame in a list.")
    channels, swapped = (-3, -1) if channels_first else (-1, -3)
    if frames.shape[channels] != 3:
        hint = "Drop or repeat channels until they are three."
        if frames.shape[swapped] == 3 and channels_first:
            hint = "torch video is channels-first; pass tensor.numpy() for channels-last."
        elif frames.shape[swapped] == 3:
            hint = "NumPy video is channels-last; pass torch.from_numpy(...) for channels-first."
        raise ValueError(f"{got} {hint}")
    if 0 in frames.shape:
        raise ValueError(f"{got} It is empty.")
    floating = isinstance(frames, Tensor) and frames.is_floating_point()
    if frames.dtype not in (torch.uint8, np.uint8) and not floating:
        raise ValueError(f"{got} Scale it to 0 to 255 and convert it to uint8.")


def check_unit_range(frames: Tensor, name: str) -> None:
    """Refuse float pixels outside [0, 1]."""
    if frames.is_floating_point():
        low, high = (float(end) for end in frames.detach().aminmax())
        if not (low >= 0 and high <= 1):  # NaN fails as well
            raise ValueError(f"{name} has values in [{low:g}, {high:g}]: floats must lie in [0, 1]. Divide or clamp.")


def check_area(size: tuple[int, int], name: str) -> None:
    """Refuse a file's frame ``(H, W)`` that would take gigabytes, before it is decoded.

    Raises:
        VideoReadError: it has more pixels than ``SIAMMAE_MAX_PIXELS``, by default 67,108,864.
        ValueError: that variable is no number.
    """
    if size[0] * size[1] > (most := bound("SIAMMAE_MAX_PIXELS")):
        raise VideoReadError(
            f"{name} has {size[1]} x {size[0]} pixels: at most {most:,} are read, as larger frames take gigabytes of "
            f"memory. Make it smaller, or set SIAMMAE_MAX_PIXELS."
        )


def check_depth(peak: int, index: int) -> None:
    """Refuse a 16-bit frame without a value above 4095: 12-bit data, which would come out black.

    Raises:
        ValueError: ``peak``, the frame's largest value, is from 1 to 4095.
    """
    if 0 < peak < 4096:
        raise ValueError(
            f"frame {index} has 16 bits but no value above {peak}, as 12-bit data has: with white at 65535 it would be "
            "black. Multiply the values by 16, or save the frames with 8 bits."
        )


def _pil_to_rgb(image: Image.Image, index: int) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ValueError(f"frame {index} is a PIL image of mode F: floats have no fixed range. Convert it to RGB.")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255
        grey = np.asarray(image)
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65535:
            raise ValueError(f"frame {index} has values in [{low}, {high}]: 16 bits hold 0 to 65535.")
        check_depth(high, index)
        eight = ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(eight[..., None], 3, axis=-1)
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when a palette's transparency is dropped in one step
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
