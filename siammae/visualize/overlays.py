"""Results over a frame: masks and keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from siammae.annotations.mask_images import davis_colours
from siammae.annotations.masks import VOID
from siammae.visualize.pixels import check, check_frame, text_font, to_uint8

_Floats = NDArray[np.floating]
_RIM = (20, 20, 20)


def label_color(object_id: int) -> tuple[int, int, int]:
    """Return the colour of an object in the DAVIS palette.

    Args:
        object_id: from 0 (background, black) to 255.

    Returns:
        Red, green and blue, each 0 to 255.

    Raises:
        ValueError: the id is out of range.
    """
    check(0 <= object_id <= 255, f"object_id is {object_id}: it must be from 0 to 255, as in a label map.")
    red, green, blue = davis_colours()[object_id].tolist()
    return red, green, blue


def overlay_masks(
    frame: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    alpha: float = 0.5,
    outline: bool = True,
    colors: Mapping[int, tuple[int, int, int]] | None = None,
) -> NDArray[np.uint8]:
    """Mix the objects of a label map over a frame, each in its DAVIS colour or the one that is given for it.

    Args:
        frame: RGB, ``(H, W, 3)``, uint8.
        labels: object ids, ``(H, W)``, uint8. 0 leaves the frame as it is; 255 (void) is hatched in grey.
        alpha: share of the colour, from 0 (frame only) to 1 (colour only).
        outline: draw a line of one pixel, in a lighter tint, just inside the border of each object.
        colors: red, green and blue, each 0 to 255, of objects that are to have other colours than DAVIS's.

    Returns:
        The picture, ``(H, W, 3)``, uint8.

    Raises:
        ValueError: ``frame`` or ``labels`` has another shape or dtype, or ``alpha`` is out of range.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> frame = np.zeros((2, 2, 3), np.uint8)
        >>> labels = np.array([[0, 1], [0, 0]], np.uint8)
        >>> picture = siammae.overlay_masks(frame, labels, alpha=1.0, outline=False)
        >>> picture[0].tolist()  # the first object of DAVIS is dark red
        [[0, 0, 0], [128, 0, 0]]
    """
    check_frame(frame, "frame")
    got = f"{labels.shape} {labels.dtype} for a frame of {frame.shape[:2]}"
    valid = labels.dtype == np.uint8 and labels.shape == frame.shape[:2]
    check(valid, f"labels must be (H, W) uint8 ids of the frame's size, got {got}. Resize with nearest neighbour.")
    check(0 <= alpha <= 1, f"alpha is {alpha}: it must be from 0 (frame only) to 1 (colour only).")
    picture = frame.astype(np.float32)
    palette = _palette(colors or {})
    picture += (_label_colors(labels, palette) - picture) * (alpha * (labels > 0)[..., None])
    if outline:
        edge = _inner_edge(labels)
        # The palette is dark (object 1 is a half-bright red): only a tint stands out from dark clothes.
        picture[edge] = 0.4 * palette[labels[edge]] + 0.6 * 255
    return to_uint8(picture)


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
        points: ``(N, 2)``, x and y in pixels, the centre of pixel (0, 0) at 0.0. Rows with NaN or
            of -1, -1 (not there) are skipped.
        confidence: ``(N,)``; 1 and above draws a full dot, 0 and below (and NaN) a faint one. None = all full.
        names: N texts, written beside the dots.
        radius: of the dots, in pixels, > 0. None = one hundredth of the frame's short side, at least 3.

    Returns:
        The picture, ``(H, W, 3)``, uint8. A row of ``points`` has the same colour in every frame.

    Raises:
        ValueError: ``frame``, ``points``, ``confidence`` or ``names`` has another shape, or ``radius`` is not above 0.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> frame = np.zeros((48, 64, 3), np.uint8)
        >>> siammae.overlay_keypoints(frame, np.array([[10.0, 20.0], [40.0, 30.0]]), names=["hand", "foot"]).shape
        (48, 64, 3)
    """
    check_frame(frame, "frame")
    points = np.asarray(points, dtype=np.float64)
    valid = points.ndim == 2 and points.shape[1] == 2
    check(valid, f"points must be (N, 2), x and y, got {points.shape}. Give the points of one frame.")
    opacity = _opacity(confidence, len(points))
    count = len(points) if names is None else len(names)
    check(count == len(points), f"names must be {len(points)}, one a point, got {count}. Or leave them out.")
    radius = max(3.0, min(frame.shape[:2]) / 100) if radius is None else radius
    check(radius > 0, f"radius is {radius}: it must be above 0, in pixels. Leave it out to fit the frame.")
    visible = np.flatnonzero(np.isfinite(points).all(axis=1) & (points != -1).any(axis=1)).tolist()
    texts = {} if names is None else {i: names[i] for i in visible}
    canvas = _add_names(frame, points, texts, radius).astype(np.float32)  # first, so that no text hides a dot
    for i in visible:
        _blend_disc(canvas, points[i], radius + max(1.0, radius / 4), _RIM, opacity[i])
        _blend_disc(canvas, points[i], radius, _point_color(i), opacity[i])
    return to_uint8(canvas)


def _palette(colors: Mapping[int, tuple[int, int, int]]) -> NDArray[np.float32]:
    palette = davis_colours().astype(np.float32)
    for object_id, color in colors.items():
        palette[object_id] = color
    return palette


def _label_colors(labels: NDArray[np.uint8], palette: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour of each pixel, ``(H, W, 3)``: the palette's, or grey diagonal stripes for void."""
    colors = palette[labels]
    y, x = np.nonzero(labels == VOID)
    colors[y, x] = np.where((x + y) % 8 < 4, 225, 105)[:, None]
    return colors


def _inner_edge(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of an object with another label above, below, left or right; the picture's border is no edge."""
    around = np.pad(labels, 1, mode="edge")
    vertical = (labels != around[:-2, 1:-1]) | (labels != around[2:, 1:-1])
    horizontal = (labels != around[1:-1, :-2]) | (labels != around[1:-1, 2:])
    return np.asarray((vertical | horizontal) & (labels > 0) & (labels < VOID), dtype=np.bool_)


def _point_color(index: int) -> tuple[int, ...]:
    """A bright colour; steps of the golden ratio keep any number of hues apart."""
    return ImageColor.getrgb(f"hsv({(7 + 222.5 * index) % 360}, 80%, 100%)")


def _opacity(confidence: NDArray[np.floating] | None, count: int) -> list[float]:
    """Opacity of each dot, 0.25 to 1: a point that nobody trusts must still be found in the picture."""
    confidence = np.ones(count) if confidence is None else np.asarray(confidence, dtype=np.float64)
    check(confidence.shape == (count,), f"confidence must be ({count},), one a point, got {confidence.shape}.")
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
    draw, font = ImageDraw.Draw(image), text_font(min(picture.shape[:2]) / 32)
    for i, text in texts.items():
        x, y = points[i].tolist()
        fits = x + 2 * radius + font.getlength(text) < image.width
        place, anchor = (x + (2 if fits else -2) * radius, y), "lm" if fits else "rm"
        draw.text(place, text, font=font, anchor=anchor, fill="white", stroke_width=2, stroke_fill=_RIM)
    return np.array(image)
