"""Masks in and out: palette PNG, grey PNG, id map or boolean stack becomes one ``(H, W)`` map of object ids.

0 is background, 1 to 254 are objects, 255 is void: pixels that belong to no object and are not scored.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from siammae.annotations.mask_images import check_levels, davis_colours, mask_pixels, open_mask, values_of
from siammae.frames import PathLike, write_bytes

MaskSource: TypeAlias = PathLike | Image.Image | NDArray[np.integer[Any]] | NDArray[np.bool_] | Tensor

BACKGROUND = 0
VOID = 255
MAX_OBJECTS = 254


def read_mask(
    mask: MaskSource,
    *,
    object_ids: Sequence[int] | None = None,
    binary: bool | None = None,
    threshold: int | None = None,
) -> NDArray[np.uint8]:
    """Read a mask of any kind as a map of object ids.

    255 has two meanings in the wild. In palette images it is void. In grey images and integer maps it is void as soon
    as there is an id from 1 to 254; where 0 and 255 are the only values, 255 is the object and becomes id 1
    (DAVIS-2016), because a mask of void alone would name no object. ``binary`` overrules this.

    A palette's pixel values are ids where its colours are DAVIS's or of the file's own, with black for 0. A palette of
    greys is a grey image. DAVIS's colours at other places, with black not at 0, are read by colour, as a tool that
    quantized the picture has moved them. What can be read in two ways is refused.

    Args:
        mask: the path of a PNG or other image of one page, turned upright by its EXIF tag, or a PIL image: mode P, L, 1
            or I (ids as pixel values), or RGB, RGBA, LA without colours (grey; transparent is background); an integer
            map ``(H, W)`` with values 0 to 255; a boolean map ``(H, W)``, its object gets id 1; or a boolean stack
            ``(O, H, W)``, one object a layer, no pixel in two of them. Arrays may be NumPy or torch.
        object_ids: ids of the layers of a boolean stack, distinct, 1 to 254; None counts from 1.
        binary: True makes everything that is not 0 id 1; False takes pixel values for ids and 255 for void; None
            decides by the rules above. Boolean masks are what they are.
        threshold: the grey level from which a pixel is the object, id 1; for masks with soft edges. At least 1.

    Returns:
        uint8 ``(H, W)``: 0 background, 1 to 254 object ids, 255 void.

    Raises:
        ValueError: the image has colours or a palette that can be read in two ways; it has soft edges and neither
            ``binary`` nor ``threshold`` says what is meant; the shape, dtype or a value is wrong, layers overlap, or
            ``object_ids`` do not fit.
        TypeError: ``mask`` is none of the above.
        FileNotFoundError: there is nothing at the path.
        VideoReadError: the file does not decode, has several pages, or more pixels than :func:`read_frames` takes.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> stack = np.zeros((2, 4, 4), bool)  # two objects, a layer each
        >>> stack[0, :2], stack[1, 3] = True, True
        >>> siammae.read_mask(stack, object_ids=(1, 7)).tolist()
        [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [7, 7, 7, 7]]
    """
    if threshold is not None and (threshold < 1 or binary is not None):
        raise ValueError(
            f"threshold is {threshold} and binary {binary}: threshold must be at least 1, and binary None."
        )
    if not isinstance(mask, str | os.PathLike):
        return _read(mask, object_ids, binary, threshold)
    image = open_mask(Path(mask))
    try:
        return _read(image, object_ids, binary, threshold)
    except ValueError as error:
        raise ValueError(f"{os.fspath(mask)}: {error}") from error


def _read(
    mask: Image.Image | NDArray[np.integer[Any]] | NDArray[np.bool_] | Tensor,
    object_ids: Sequence[int] | None,
    binary: bool | None,
    threshold: int | None,
) -> NDArray[np.uint8]:
    are_ids = binary is False
    if isinstance(mask, Image.Image):
        take: Literal["ids", "levels"] | None = "ids" if binary is not None else "levels" if threshold else None
        mask, are_ids = mask_pixels(mask, take)
    values = _array(mask)
    if isinstance(values, np.ndarray) and values.dtype == np.bool_ and values.ndim == 3:
        return stack_masks(values, object_ids)
    if object_ids is not None:
        raise ValueError(f"object_ids {list(object_ids)} need a boolean stack (O, H, W), got {_kind(values)}.")
    values = _checked_map(values)
    if values.dtype == np.bool_ or binary or threshold is not None:
        return np.greater_equal(values, threshold or 1).astype(np.uint8)
    labels = _id_map(values)
    return labels if are_ids or binary is False else _from_levels(labels)


def stack_masks(stack: NDArray[np.bool_], object_ids: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """Merge one boolean mask an object into a map of object ids.

    Args:
        stack: ``(O, H, W)`` bool, no pixel in two layers, O at most 254.
        object_ids: one id a layer, distinct, 1 to 254; None counts from 1.

    Returns:
        uint8 ``(H, W)``: 0 background, else the id of the layer.

    Raises:
        ValueError: shape or dtype is wrong, layers overlap, or the ids do not fit.
    """
    if stack.ndim != 3 or stack.dtype != np.bool_:
        raise ValueError(f"a stack of masks must be (O, H, W) bool, got {_kind(stack)}.")
    if len(stack) > MAX_OBJECTS:
        raise ValueError(f"the stack has {len(stack)} objects: an id map holds at most {MAX_OBJECTS}. Split it.")
    ids = list(range(1, len(stack) + 1)) if object_ids is None else list(object_ids)
    _check_ids(ids, len(stack))
    _check_overlap(stack, ids)
    labels = np.zeros(stack.shape[1:], np.uint8)
    for layer, object_id in zip(stack, ids, strict=True):
        labels[layer] = object_id
    return labels


def mask_ids(mask: NDArray[np.integer[Any]]) -> tuple[int, ...]:
    """Return the object ids in an id map ``(H, W)``, ascending, without background and void."""
    return tuple(int(value) for value in values_of(mask) if value not in (BACKGROUND, VOID))


def check_frame_size(mask: NDArray[np.uint8], frame_size: tuple[int, int], *, name: str = "first_mask") -> None:
    """Refuse a mask of another size than the video.

    Args:
        mask: ``(H, W)``.
        frame_size: ``(H, W)`` of the video.
        name: what the caller calls the mask, for the message.

    Raises:
        ValueError: the sizes differ.
    """
    if mask.shape != tuple(frame_size):
        raise ValueError(
            f"{name} is {mask.shape} but the video is {tuple(frame_size)}. "
            "Resize it with nearest neighbour; masks are never resized here."
        )


def write_mask(path: PathLike, mask: NDArray[np.integer[Any]] | NDArray[np.bool_] | Tensor) -> None:
    """Write an id map as a palette PNG that the DAVIS tools read; the file appears whole or not at all.

    Args:
        path: ends in ``.png``; an existing file is replaced.
        mask: ``(H, W)``, integers 0 to 255 or bool; written as they are.

    Raises:
        ValueError: the suffix, the shape, the dtype or a value is wrong.
        TypeError: ``mask`` is neither array nor tensor.
        FileNotFoundError: the folder does not exist.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> siammae.write_mask("mask.png", np.array([[0, 1], [2, 255]]))
        >>> siammae.read_mask("mask.png").tolist()
        [[0, 1], [2, 255]]
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"cannot write a mask to {path.name}: the name must end in .png, which keeps ids exact.")
    buffer = io.BytesIO()
    mask_image(mask).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def mask_image(mask: NDArray[np.integer[Any]] | NDArray[np.bool_] | Tensor) -> Image.Image:
    """Return an id map as a palette image in DAVIS's colours, which is never read as anything but these ids.

    Args:
        mask: ``(H, W)``, integers 0 to 255 or bool.

    Raises:
        ValueError: the shape, the dtype or a value is wrong.
        TypeError: ``mask`` is neither array nor tensor.
    """
    image = Image.fromarray(_id_map(_checked_map(_array(mask))))
    image.putpalette(davis_colours().tobytes())  # turns grey into palette mode
    return image


def mask_name(index: int, count: int | None = None) -> str:
    """Name the mask file of a frame, ``00000.png``, so that the names of all ``count`` frames sort in their order."""
    width = max(5, len(str((count or 1) - 1)))
    return f"{index:0{width}d}.png"


def _array(mask: object) -> Any:  # noqa: ANN401 -- what it is comes out in the checks that follow
    """Bring a tensor to NumPy, which has no bfloat16: floats are refused later as they are."""
    return mask.detach().cpu().numpy() if isinstance(mask, Tensor) and not mask.is_floating_point() else mask


def _kind(values: object) -> str:
    if isinstance(values, np.ndarray | Tensor):
        return f"{tuple(values.shape)} {values.dtype}"
    return type(values).__name__


def _checked_map(values: object) -> NDArray[np.integer[Any]] | NDArray[np.bool_]:
    """Refuse what is no integer or boolean map."""
    wanted = "a mask must be an integer or bool map (H, W) or a bool stack (O, H, W)"
    if not isinstance(values, np.ndarray | Tensor):
        raise TypeError(f"{wanted}, or a PNG path or PIL image, got {_kind(values)}.")
    if isinstance(values, Tensor) or values.dtype.kind not in "iub":
        raise ValueError(f"{wanted}, got {_kind(values)}. Round floats to ids or compare them with a threshold.")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{wanted}, got {_kind(values)}. Take one channel or frame that holds the ids.")
    return values


def _id_map(values: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Check the values of a map and return it as uint8."""
    if values.min() < 0 or values.max() > VOID:
        wrong = np.unique(values[(values < 0) | (values > VOID)])[:5].tolist()
        raise ValueError(f"the mask has the values {wrong}: ids must be 0 to {MAX_OBJECTS}, void {VOID}. Renumber it.")
    return values.astype(np.uint8)


def _from_levels(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Apply the rule for 255 of ``read_mask`` to what may be ids or grey levels."""
    if ((labels > BACKGROUND) & (labels < VOID)).any():
        check_levels(labels)
        return labels
    return (labels > BACKGROUND).astype(np.uint8)


def _check_ids(ids: list[int], layers: int) -> None:
    if len(ids) != layers:
        raise ValueError(f"{len(ids)} object_ids for {layers} masks: there must be one a mask.")
    if repeated := sorted({value for value in ids if ids.count(value) > 1}):
        raise ValueError(f"object_ids repeat {repeated}: they must be distinct.")
    if wrong := [value for value in ids if not 1 <= value <= MAX_OBJECTS]:
        raise ValueError(f"object_ids hold {wrong}: they must be 1 to {MAX_OBJECTS}.")


def _check_overlap(stack: NDArray[np.bool_], ids: list[int]) -> None:
    crowded = np.argwhere(stack.sum(axis=0, dtype=np.uint8) > 1)
    if len(crowded):
        first, second = np.flatnonzero(stack[:, crowded[0][0], crowded[0][1]])[:2]
        pixels = np.count_nonzero(stack[first] & stack[second])
        raise ValueError(
            f"objects {ids[first]} and {ids[second]} overlap on {pixels} pixels: a pixel belongs to one object. "
            "Take these pixels out of one mask."
        )
