"""Pictures from results: masks and keypoints over a frame, contact sheets, features as colours.

Every picture is RGB ``uint8``, ``(H, W, 3)``, and new: the frames given are never written to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from siammae.masks import VOID, davis_palette

_Floats = NDArray[np.floating]
_INK, _PAPER, _RIM = (34, 34, 34), (250, 250, 248), (20, 20, 20)


def label_color(object_id: int) -> tuple[int, int, int]:
    """Return the colour of an object in the DAVIS palette.

    Args:
        object_id: from 0 (background, black) to 255.

    Returns:
        Red, green and blue, each 0 to 255.

    Raises:
        ValueError: the id is out of range.
    """
    _check(0 <= object_id <= 255, f"object_id is {object_id}: it must be from 0 to 255, as in a label map.")
    red, green, blue = davis_palette()[3 * object_id : 3 * object_id + 3]
    return red, green, blue


def overlay_masks(
    frame: NDArray[np.uint8], labels: NDArray[np.uint8], *, alpha: float = 0.5, outline: bool = True
) -> NDArray[np.uint8]:
    """Mix the objects of a label map over a frame, each in its DAVIS colour.

    Args:
        frame: RGB, ``(H, W, 3)``, uint8.
        labels: object ids, ``(H, W)``, uint8. 0 leaves the frame as it is; 255 (void) is hatched in grey.
        alpha: share of the colour, from 0 (frame only) to 1 (colour only).
        outline: draw a line of one pixel, in a lighter tint, just inside the border of each object.

    Returns:
        The picture, ``(H, W, 3)``, uint8.

    Raises:
        ValueError: ``frame`` or ``labels`` has another shape or dtype, or ``alpha`` is out of range.
    """
    _check_frame(frame, "frame")
    got = f"{labels.shape} {labels.dtype} for a frame of {frame.shape[:2]}"
    valid = labels.dtype == np.uint8 and labels.shape == frame.shape[:2]
    _check(valid, f"labels must be (H, W) uint8 ids of the frame's size, got {got}. Resize with nearest neighbour.")
    _check(0 <= alpha <= 1, f"alpha is {alpha}: it must be from 0 (frame only) to 1 (colour only).")
    picture = frame.astype(np.float32)
    picture += (_label_colors(labels) - picture) * (alpha * (labels > 0)[..., None])
    if outline:
        edge = _inner_edge(labels)
        # The palette is dark (object 1 is a half-bright red): only a tint stands out from dark clothes.
        picture[edge] = 0.4 * _palette()[labels[edge]] + 0.6 * 255
    return _to_uint8(picture)


def overlay_keypoints(
    frame: NDArray[np.uint8],
    points: NDArray[np.floating],
    *,
    confidence: NDArray[np.floating] | None = None,
    names: Sequence[str] | None = None,
    radius: float | None = None,
) -> NDArray[np.uint8]:
    """Draw keypoints over a frame as dots with a dark rim, each in its own colour.

    Args:
        frame: RGB, ``(H, W, 3)``, uint8.
        points: ``(N, 2)``, x and y in pixels, the centre of pixel (0, 0) at 0.0. Rows with NaN are skipped.
        confidence: ``(N,)``; 1 and above draws a full dot, 0 and below (and NaN) a faint one. None = all full.
        names: N texts, written beside the dots.
        radius: of the dots, in pixels, > 0. None = one hundredth of the frame's short side, at least 3.

    Returns:
        The picture, ``(H, W, 3)``, uint8. A row of ``points`` has the same colour in every frame.

    Raises:
        ValueError: ``frame``, ``points``, ``confidence`` or ``names`` has another shape, or ``radius`` is not above 0.
    """
    _check_frame(frame, "frame")
    points = np.asarray(points, dtype=np.float64)
    valid = points.ndim == 2 and points.shape[1] == 2
    _check(valid, f"points must be (N, 2), x and y, got {points.shape}. Give the points of one frame.")
    opacity = _opacity(confidence, len(points))
    count = len(points) if names is None else len(names)
    _check(count == len(points), f"names must be {len(points)}, one a point, got {count}. Or leave them out.")
    radius = max(3.0, min(frame.shape[:2]) / 100) if radius is None else radius
    _check(radius > 0, f"radius is {radius}: it must be above 0, in pixels. Leave it out to fit the frame.")
    visible = np.flatnonzero(np.isfinite(points).all(axis=1)).tolist()
    texts = {} if names is None else {i: names[i] for i in visible}
    canvas = _add_names(frame, points, texts, radius).astype(np.float32)  # first, so that no text hides a dot
    for i in visible:
        _blend_disc(canvas, points[i], radius + max(1.0, radius / 4), _RIM, opacity[i])
        _blend_disc(canvas, points[i], radius, _point_color(i), opacity[i])
    return _to_uint8(canvas)


def contact_sheet(
    frames: Sequence[NDArray[np.uint8]],
    *,
    columns: int = 4,
    captions: Sequence[str] | None = None,
    width: int = 320,
    title: str | None = None,
) -> NDArray[np.uint8]:
    """Lay pictures out in a grid, row by row, on light paper.

    Args:
        frames: RGB pictures, each ``(H, W, 3)``, uint8; their sizes may differ.
        columns: pictures in a row, at least 1; fewer where there are fewer pictures.
        captions: one text for each picture, written below it; cut where it is wider than the picture.
        width: of each thumbnail, in pixels, at least 1; heights follow from the pictures.
        title: written above the grid.

    Returns:
        The sheet, ``(H, W, 3)``, uint8.

    Raises:
        ValueError: no frames, a frame of another shape or dtype, captions too few or many, a number out of range.
    """
    _check(len(frames) > 0, "frames is empty: a contact sheet needs at least one picture. Check what was read.")
    _check(min(columns, width) >= 1, f"columns is {columns} and width is {width}: both must be at least 1.")
    for i, frame in enumerate(frames):
        _check_frame(frame, f"frames[{i}]")
    texts = [""] * len(frames) if captions is None else captions
    _check(len(texts) == len(frames), f"captions must be {len(frames)}, one a frame, got {len(texts)}.")
    cells = [_captioned(frame, text, width) for frame, text in zip(frames, texts, strict=True)]
    columns, gap = min(columns, len(cells)), max(8, width // 16)
    head = gap if title is None else 2 * gap + max(16, width // 10)
    step = width + gap, max(cell.height for cell in cells) + gap
    sheet = Image.new("RGB", (columns * step[0] + gap, math.ceil(len(cells) / columns) * step[1] + head), _PAPER)
    for i, cell in enumerate(cells):
        sheet.paste(cell, (gap + i % columns * step[0], head + i // columns * step[1]))
    _write(sheet, title or "", (gap, gap), width / 12, sheet.width - 2 * gap)
    return np.array(sheet)


def feature_pca(features: Tensor, *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Show features as colours: their first three principal components become red, green and blue.

    The components are those of all frames together, so a colour means the same in each; every colour runs from the
    1st to the 99th percentile of its component.

    Args:
        features: ``(T, C, h, w)``, floating point, any device, C at least 3.
        size: of the pictures, ``(H, W)``, reached by bicubic interpolation. None = ``(h, w)``, a pixel for a patch.

    Returns:
        Pictures, ``(T, H, W, 3)``, uint8.

    Raises:
        ValueError: ``features`` has another shape or dtype or is not finite, or ``size`` is not two positive numbers.
    """
    _check_features(features)
    frames, channels, height, width = features.shape
    height_out, width_out = size or (height, width)
    _check(min(height_out, width_out) >= 1, f"size is {size}: it must be (H, W), both at least 1.")
    flat = features.detach().float().permute(0, 2, 3, 1).reshape(-1, channels)  # (T*h*w, C)
    flat = flat - flat.mean(dim=0)
    projected = (flat @ _principal_components(flat)).cpu().numpy()  # (T*h*w, 3)
    colors = torch.from_numpy(_stretch(projected)).reshape(frames, height, width, 3).permute(0, 3, 1, 2)
    # Frame by frame: a whole clip as floats at full size would need gigabytes.
    return np.stack([_to_picture(frame, (height_out, width_out)) for frame in colors])


def _palette() -> NDArray[np.float32]:
    return np.frombuffer(davis_palette(), dtype=np.uint8).reshape(256, 3).astype(np.float32)


def _label_colors(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colour of each pixel, ``(H, W, 3)``: the palette's, or grey diagonal stripes for void."""
    colors = _palette()[labels]
    y, x = np.nonzero(labels == VOID)
    colors[y, x] = np.where((x + y) % 8 < 4, 225, 105)[:, None]
    return colors


def _inner_edge(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of an object with another label above, below, left or right; the picture's border is no edge."""
    around = np.pad(labels, 1, mode="edge")
    vertical = (labels != around[:-2, 1:-1]) | (labels != around[2:, 1:-1])
    horizontal = (labels != around[1:-1, :-2]) | (labels != around[1:-1, 2:])
    return np.asarray((vertical | horizontal) & (labels > 0) & (labels < VOID), dtype=np.bool_)


def _to_uint8(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _point_color(index: int) -> tuple[int, ...]:
    """A bright colour; steps of the golden ratio keep any number of hues apart."""
    return ImageColor.getrgb(f"hsv({(7 + 222.5 * index) % 360}, 80%, 100%)")


def _opacity(confidence: NDArray[np.floating] | None, count: int) -> list[float]:
    """Opacity of each dot, 0.25 to 1: a point that nobody trusts must still be found in the picture."""
    confidence = np.ones(count) if confidence is None else np.asarray(confidence, dtype=np.float64)
    _check(confidence.shape == (count,), f"confidence must be ({count},), one a point, got {confidence.shape}.")
    return [0.25 + 0.75 * value for value in np.clip(np.nan_to_num(confidence), 0, 1).tolist()]


def _blend_disc(canvas: _Floats, center: _Floats, radius: float, color: tuple[int, ...], opacity: float) -> None:
    """Mix a disc into the canvas, in place; pixels on the rim count by the part that the disc covers."""
    left, top = np.maximum(np.floor(center - radius - 1), 0).astype(int)
    right, bottom = np.maximum(np.ceil(center + radius + 2), 0).astype(int)
    window = canvas[top:bottom, left:right]
    y, x = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
    cover = np.clip(radius + 0.5 - np.hypot(x - center[0], y - center[1]), 0, 1)
    window += (np.array(color) - window) * (opacity * cover[..., None])


def _add_names(picture: NDArray[np.uint8], points: _Floats, texts: dict[int, str], radius: float) -> NDArray[np.uint8]:
    """Write each text right of its point, or left of it where the picture ends."""
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), _font(min(picture.shape[:2]) / 32)
    for i, text in texts.items():
        x, y = points[i].tolist()
        fits = x + 2 * radius + font.getlength(text) < image.width
        place, anchor = (x + (2 if fits else -2) * radius, y), "lm" if fits else "rm"
        draw.text(place, text, font=font, anchor=anchor, fill="white", stroke_width=2, stroke_fill=_RIM)
    return np.array(image)


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow: texts look the same everywhere."""
    return ImageFont.load_default(size=max(11, round(size)))


def _write(sheet: Image.Image, text: str, place: tuple[int, int], size: float, width: int) -> None:
    """Write one line, its top left corner at place, cut where it is wider than width."""
    font = _font(size)
    while len(text) > 3 and font.getlength(text) > width:
        text = text[:-4] + "..."
    ImageDraw.Draw(sheet).text(place, text, font=font, fill=_INK)


def _captioned(frame: NDArray[np.uint8], caption: str, width: int) -> Image.Image:
    """One cell of a contact sheet: the picture at this width and the text below it."""
    height, size = max(1, round(frame.shape[0] * width / frame.shape[1])), max(11, width / 20)
    cell = Image.new("RGB", (width, height + (round(1.6 * size) if caption else 0)), _PAPER)
    cell.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
    _write(cell, caption, (0, height + round(0.3 * size)), size, width)
    return cell


def _principal_components(flat: Tensor) -> Tensor:
    """The three directions of largest variance, ``(C, 3)``; the largest entry of each is positive."""
    covariance = (flat.T @ flat / len(flat)).cpu().double()
    directions: Tensor = torch.linalg.eigh(covariance).eigenvectors[:, -3:].flip(1)  # largest first
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    return (directions * largest.sign()).to(device=flat.device, dtype=flat.dtype)


def _stretch(projected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring each column's 1st to 99th percentile to 0..1; a column without variance becomes 0.5."""
    low, high = np.percentile(projected, (1, 99), axis=0)
    # Such a column holds rounding errors: its span is measured against the widest one.
    span = np.maximum(high - low, 1e-4 * (high - low).max() + 1e-12)
    return np.asarray((projected - (low + high) / 2) / span + 0.5, dtype=np.float32)


def _to_picture(colors: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize one ``(3, h, w)`` map of colours; bicubic overshoot is clipped only afterwards."""
    colors = F.interpolate(colors[None], size=size, mode="bicubic", align_corners=False)[0]
    return _to_uint8(255 * colors.permute(1, 2, 0).numpy())


def _check(valid: bool, message: str) -> None:
    if not valid:
        raise ValueError(message)


def _check_frame(frame: NDArray[np.uint8], name: str) -> None:
    got = f"{frame.shape} {frame.dtype}"
    valid = frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[-1] == 3 and frame.size > 0
    _check(valid, f"{name} must be (H, W, 3) uint8 RGB, got {got}. Put channels last, scale floats to 0..255.")


def _check_features(features: Tensor) -> None:
    got = f"{tuple(features.shape)} {features.dtype}"
    valid = features.ndim == 4 and features.shape[1] >= 3 and features.is_floating_point() and features.numel() > 0
    _check(valid, f"features must be (T, C, h, w) floating point, C >= 3, got {got}. One frame: features[None].")
    _check(bool(features.isfinite().all()), "features hold NaN or infinity: they must be finite. Check the model.")
