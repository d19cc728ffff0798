"""Many pictures on one sheet of light paper, with captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from siammae.visualize.pixels import check, check_frame, text_font

_INK, _PAPER = (34, 34, 34), (250, 250, 248)


def contact_sheet(
    frames: Sequence[NDArray[np.uint8]],
    *,
    columns: int = 4,
    captions: Sequence[str] | None = None,
    confidence: Sequence[float] | NDArray[np.floating] | None = None,
    width: int = 320,
    title: str | None = None,
) -> NDArray[np.uint8]:
    """Lay pictures out in a grid, row by row, on light paper.

    Args:
        frames: RGB pictures, each ``(H, W, 3)``, uint8; their sizes may differ.
        columns: pictures in a row, at least 1; fewer where there are fewer pictures.
        captions: one text for each picture, written below it; cut where it is wider than the picture.
        confidence: of each picture, in [0, 1]: a bar along its lower edge, as long as the number says, green when sure
            and red when not; NaN draws none.
        width: of each thumbnail, in pixels, at least 1; heights follow from the pictures.
        title: written above the grid.

    Returns:
        The sheet, ``(H, W, 3)``, uint8.

    Raises:
        ValueError: no frames, a frame of another shape or dtype, captions or confidence too few or many, a number out
            of range.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> frames = [np.full((48, 64, 3), level, np.uint8) for level in (0, 100, 200)]
        >>> sheet = siammae.contact_sheet(frames, columns=3, captions=["first", "second", "third"], width=64)
        >>> sheet.dtype.name, sheet.ndim
        ('uint8', 3)
    """
    check(len(frames) > 0, "frames is empty: a contact sheet needs at least one picture. Check what was read.")
    check(min(columns, width) >= 1, f"columns is {columns} and width is {width}: both must be at least 1.")
    for i, frame in enumerate(frames):
        check_frame(frame, f"frames[{i}]")
    texts = [""] * len(frames) if captions is None else captions
    check(len(texts) == len(frames), f"captions must be {len(frames)}, one a frame, got {len(texts)}.")
    sure = [math.nan] * len(frames) if confidence is None else [float(value) for value in confidence]
    check(len(sure) == len(frames), f"confidence must be {len(frames)} numbers, one a frame, got {len(sure)}.")
    check(all(not value < 0 and not value > 1 for value in sure), f"confidence is {sure}: it must be in [0, 1].")
    cells = [_captioned(*cell, width) for cell in zip(frames, texts, sure, strict=True)]
    columns, gap = min(columns, len(cells)), max(8, width // 16)
    head = gap if title is None else 2 * gap + max(16, width // 10)
    step = width + gap, max(cell.height for cell in cells) + gap
    sheet = Image.new("RGB", (columns * step[0] + gap, math.ceil(len(cells) / columns) * step[1] + head), _PAPER)
    for i, cell in enumerate(cells):
        sheet.paste(cell, (gap + i % columns * step[0], head + i // columns * step[1]))
    _write(sheet, title or "", (gap, gap), width / 12, sheet.width - 2 * gap)
    return np.array(sheet)


def picture_table(
    rows: Mapping[str, Sequence[NDArray[np.uint8]]],
    *,
    columns: Sequence[str] | None = None,
    width: int = 192,
    title: str | None = None,
) -> NDArray[np.uint8]:
    """Lay pictures out in rows that have a name at their left and columns that have one above them.

    Args:
        rows: for each name, RGB pictures ``(H, W, 3)`` uint8; all of one size, as many in every row.
        columns: a text for each column, cut where it is wider than the pictures.
        width: of each picture, in pixels, at least 1. Smaller pictures are enlarged by the whole number that comes
            nearest, pixel by pixel, so that patches keep their sharp borders.
        title: written above.

    Returns:
        The table, ``(H, W, 3)``, uint8.

    Raises:
        ValueError: no pictures, or they differ in size or number, or there are too few or too many texts.
    """
    pictures = [picture for row in rows.values() for picture in row]
    check(len(pictures) > 0, "rows are empty: a table needs at least one picture.")
    for picture in pictures:
        check_frame(picture, "each picture")
    sizes, counts = {picture.shape[:2] for picture in pictures}, {name: len(row) for name, row in rows.items()}
    check(len(sizes) == 1, f"pictures have the sizes {sorted(sizes)}: all of a table must be of one size.")
    check(len(set(counts.values())) == 1, f"rows have {counts} pictures: they must have equally many.")
    count = next(iter(counts.values()))
    texts = [""] * count if columns is None else columns
    check(len(texts) == count, f"columns must be {count} texts, one a picture of a row, got {len(texts)}.")
    check(width >= 1, f"width is {width}: it must be at least 1.")
    cells = [[_scaled(picture, width) for picture in row] for row in rows.values()]
    gap, size = max(4, width // 32), max(12.0, width / 14)
    names = max(text_font(size).getlength(name) for name in rows)
    left, line = round(gap + (names + 2 * gap if names else 0)), round(1.7 * size)
    top = gap + (round(1.3 * line) if title else 0) + (line if columns else 0)
    step = cells[0][0].width + gap, cells[0][0].height + gap
    sheet = Image.new("RGB", (left + count * step[0], top + len(cells) * step[1]), _PAPER)
    _write(sheet, title or "", (gap, gap), 1.15 * size, sheet.width - 2 * gap)
    for i, text in enumerate(texts):
        _write(sheet, text, (left + i * step[0], top - line), size, step[0] - gap)
    for j, (name, row) in enumerate(zip(rows, cells, strict=True)):
        _write(sheet, name, (gap, top + j * step[1] + round((step[1] - gap - size) / 2)), size, left)
        for i, cell in enumerate(row):
            sheet.paste(cell, (left + i * step[0], top + j * step[1]))
    return np.array(sheet)


def _scaled(picture: NDArray[np.uint8], width: int) -> Image.Image:
    """Bring a picture to about this width: larger by a whole number, or smaller by averaging."""
    image = Image.fromarray(picture)
    if image.width <= width:
        factor = round(width / image.width)
        return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


def _write(sheet: Image.Image, text: str, place: tuple[int, int], size: float, width: int) -> None:
    """Write one line, its top left corner at place, cut where it is wider than width."""
    font = text_font(size)
    while len(text) > 3 and font.getlength(text) > width:
        text = text[:-4] + "..."
    ImageDraw.Draw(sheet).text(place, text, font=font, fill=_INK)


def _captioned(frame: NDArray[np.uint8], caption: str, sure: float, width: int) -> Image.Image:
    """One cell of a contact sheet: the picture at this width, how sure it is along its edge, and the text below it."""
    height, size = max(1, round(frame.shape[0] * width / frame.shape[1])), max(11, width / 20)
    cell = Image.new("RGB", (width, height + (round(1.6 * size) if caption else 0)), _PAPER)
    cell.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
    if not math.isnan(sure):
        bar, draw = max(3, width // 40), ImageDraw.Draw(cell)
        draw.rectangle((0, height - bar, width - 1, height - 1), fill=_INK)
        if (length := round(sure * width)) > 0:
            color = ImageColor.getrgb(f"hsl({round(120 * sure)}, 75%, 50%)")
            draw.rectangle((0, height - bar, length - 1, height - 1), fill=color)
    _write(cell, caption, (0, height + round(0.3 * size)), size, width)
    return cell
