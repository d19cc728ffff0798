"""Masks in and out: palette PNG, grey PNG, id map or boolean stack becomes one ``(H, W)`` map of object ids.

0 is background, 1 to 254 are objects, 255 is void: pixels that belong to no object and are not scored.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from siammae.errors import VideoReadError

PathLike: TypeAlias = str | os.PathLike[str]
MaskSource: TypeAlias = PathLike | Image.Image | NDArray[np.integer[Any]] | NDArray[np.bool_] | Tensor

BACKGROUND = 0
VOID = 255
MAX_OBJECTS = 254


def read_mask(
    mask: MaskSource, *, object_ids: Sequence[int] | None = None, binary: bool | None = None
) -> NDArray[np.uint8]:
    """Read a mask of any kind as a map of object ids.

    255 has two meanings in the wild. In palette images it is always void. In grey images and integer maps it is void
    as soon as there is an id from 1 to 254; where 0 and 255 are the only values, 255 is the object and becomes id 1
    (DAVIS-2016), because a mask of void alone would name no object. ``binary`` overrules this.

    Args:
        mask: a PNG path or PIL image of mode P, L, 1 or I (ids as pixel values); an integer map ``(H, W)`` with values
            0 to 255; a boolean map ``(H, W)``, its object gets id 1; or a boolean stack ``(O, H, W)``, one object a
            layer, no pixel in two of them. Arrays may be NumPy or torch.
        object_ids: ids of the layers of a boolean stack, distinct, 1 to 254; None counts from 1.
        binary: True makes everything that is not 0 id 1; False takes 255 for void; None decides by the rule above.
            Boolean masks are what they are.

    Returns:
        uint8 ``(H, W)``: 0 background, 1 to 254 object ids, 255 void.

    Raises:
        ValueError: the image has colours, the shape, dtype or a value is wrong, layers overlap, or ``object_ids`` do
            not fit.
        TypeError: ``mask`` is none of the above.
        FileNotFoundError: there is nothing at the path.
        VideoReadError: the file does not decode.
    """
    if isinstance(mask, str | os.PathLike):
        mask = _read_image(Path(mask))
    if isinstance(mask, Image.Image):
        binary = False if mask.mode == "P" and binary is None else binary
        mask = _image_values(mask)
    values = _array(mask)
    if isinstance(values, np.ndarray) and values.dtype == np.bool_ and values.ndim == 3:
        return stack_masks(values, object_ids)
    if object_ids is not None:
        raise ValueError(f"object_ids {list(object_ids)} need a boolean stack (O, H, W), got {_kind(values)}.")
    return _resolve_void(_id_map(values), binary)


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
    return tuple(int(value) for value in np.unique(mask) if value not in (BACKGROUND, VOID))


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
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"cannot write a mask to {path.name}: the name must end in .png, which keeps ids exact.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent}: create it first.")
    image = Image.fromarray(_id_map(_array(mask)))
    image.putpalette(davis_palette())  # turns grey into palette mode
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        image.save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def davis_palette() -> bytes:
    """Return the colours of PASCAL VOC and DAVIS: 768 bytes, R, G, B for each of 256 ids.

    Bits 0, 1, 2 of an id go to the top bit of red, green, blue; bits 3, 4, 5 to the next bit; 6, 7 to the third.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for place in range(8):
        colours[:, place % 3] |= (ids >> place & 1) << (7 - place // 3)
    return colours.astype(np.uint8).tobytes()


def _read_image(path: Path) -> Image.Image:
    if not path.exists():
        raise FileNotFoundError(f"no mask at {path}: it must be a PNG.")
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoReadError(f"{path} cannot be read as a mask: {error}") from error


def _image_values(image: Image.Image) -> NDArray[np.integer[Any]] | NDArray[np.bool_]:
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise ValueError(
            f"the mask image has mode {image.mode}: it must be a palette (P) or grey (L, 1, I) image whose pixel "
            "values are object ids. Give every colour an id and save the ids with siammae.write_mask."
        )
    return np.asarray(image)


def _array(mask: object) -> Any:  # noqa: ANN401 -- what it is comes out in the checks that follow
    """Bring a tensor to NumPy, which has no bfloat16: floats are refused later as they are."""
    return mask.detach().cpu().numpy() if isinstance(mask, Tensor) and not mask.is_floating_point() else mask


def _kind(values: object) -> str:
    if isinstance(values, np.ndarray | Tensor):
        return f"{tuple(values.shape)} {values.dtype}"
    return type(values).__name__


def _id_map(values: object) -> NDArray[np.uint8]:
    """Check an integer or boolean map and return it as uint8."""
    wanted = "a mask must be an integer or bool map (H, W) or a bool stack (O, H, W)"
    if not isinstance(values, np.ndarray | Tensor):
        raise TypeError(f"{wanted}, or a PNG path or PIL image, got {_kind(values)}.")
    if isinstance(values, Tensor) or values.dtype.kind not in "iub":
        raise ValueError(f"{wanted}, got {_kind(values)}. Round floats to ids or compare them with a threshold.")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{wanted}, got {_kind(values)}. Take one channel or frame that holds the ids.")
    if values.min() < 0 or values.max() > VOID:
        wrong = np.unique(values[(values < 0) | (values > VOID)])[:5].tolist()
        raise ValueError(f"the mask has the values {wrong}: ids must be 0 to {MAX_OBJECTS}, void {VOID}. Renumber it.")
    return values.astype(np.uint8)


def _resolve_void(labels: NDArray[np.uint8], binary: bool | None) -> NDArray[np.uint8]:
    """Apply the rule for 255 of ``read_mask``."""
    if binary is None:
        binary = not ((labels > BACKGROUND) & (labels < VOID)).any()
    return (labels > BACKGROUND).astype(np.uint8) if binary else labels


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
