"""What a picture is: checked on its way in, rounded on its way out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont


def check(valid: bool, message: str) -> None:
    """Raise a ValueError with this message unless valid."""
    if not valid:
        raise ValueError(message)


def check_frame(frame: NDArray[np.uint8], name: str) -> None:
    """Refuse anything but RGB ``(H, W, 3)`` uint8."""
    got = f"{frame.shape} {frame.dtype}"
    valid = frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[-1] == 3 and frame.size > 0
    check(valid, f"{name} must be (H, W, 3) uint8 RGB, got {got}. Put channels last, scale floats to 0..255.")


def to_uint8(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round and clip pixels on the scale of 0 to 255."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def text_font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that comes with Pillow: texts look the same everywhere."""
    return ImageFont.load_default(size=max(11, round(size)))
