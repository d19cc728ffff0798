"""What a training pair shows: crops of two frames, and where each patch of one lies in the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.clips.clip import Skipped
from siammae.config import PretrainConfig
from siammae.frames import find_flow, residual_motion, resize_frame, turned_crop
from siammae.pretraining.data.copy_paste import copy_paste

Box = tuple[int, int, int, int]  # top, left, height, width
_OWN = 1.5  # pixels against the dominant motion from which something moves on its own: flow errs by less


class Pairs(NamedTuple):
    """Some training pairs.

    Attributes:
        frames: ``(B, 2, 3, S, S)`` uint8 RGB; index 0 of the second axis is the past frame.
        places: ``(B, h*w, 2)`` float32: x, y of each future patch in past patches; NaN = not known.
        moves: ``(B, h*w)`` bool: whether each future patch moves on its own, against the frame's dominant motion or as
            a pasted piece.
        skipped: the clips that could not be read and had others take their turn.
    """

    frames: Tensor
    places: Tensor
    moves: Tensor
    skipped: Sequence[Skipped] = ()

    def to(self, device: torch.device) -> Self:
        """Bring the tensors to a device."""
        frames, places, moves = (part.to(device, non_blocking=True) for part in (self.frames, self.places, self.moves))
        return self._replace(frames=frames, places=places, moves=moves)


def collate(parts: Sequence[Pairs]) -> Pairs:
    """Join pairs to a batch."""
    # NumPy copies in one thread: torch.cat of two pairs took 5 ms in two threads instead of 0.03 (AMD EPYC, 2 cores).
    frames = np.concatenate([part.frames.numpy() for part in parts])
    places = np.concatenate([part.places.numpy() for part in parts])
    moves = np.concatenate([part.moves.numpy() for part in parts])
    skipped = tuple(one for part in parts for one in part.skipped)
    return Pairs(torch.from_numpy(frames), torch.from_numpy(places), torch.from_numpy(moves), skipped)


def draw_crop(
    rng: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """Draw a crop as torchvision's RandomResizedCrop: uniform area, log-uniform aspect; centred after ten tries."""
    height, width = size
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = float(np.exp(rng.uniform(*np.log(ratio))))
        h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def crop_pair(
    past: NDArray[np.uint8],
    future: NDArray[np.uint8],
    config: PretrainConfig,
    rng: np.random.Generator,
    *,
    still: bool,
) -> Pairs:
    """Crop two frames: both alike, or for a still pair the future inside the past crop.

    In a still pair all that is hidden can be found in the past crop, but never by its place alone.

    Args:
        past: ``(H, W, 3)``.
        future: the same size; of a still pair the same frame, or one so near that nothing has moved far, or with
            ``config.still_flow`` any that optical flow can follow.
        config: ranges of all that is drawn.
        rng: source of randomness.
        still: the kind of pair.

    Returns:
        One pair.
    """
    box = inner = draw_crop(rng, (past.shape[0], past.shape[1]), config.crop_scale, config.crop_ratio)
    degrees, motion = 0.0, _Motion()
    if still:
        motion = _motion(past, future, config)
        top, left, height, width = draw_crop(rng, box[2:], config.still_scale, config.crop_ratio)
        inner = (box[0] + top, box[1] + left, height, width)
        degrees = rng.uniform(-config.still_rotation, config.still_rotation) if config.still_rotation else 0.0
    flip = bool(rng.random() < config.flip)
    side = config.crop_side
    grid = side // config.model.patch_size
    crops = [_crop(past, box, side, flip=flip), _crop(future, inner, side, flip=flip, degrees=degrees)]
    places, moves = np.full((grid**2, 2), np.nan, np.float32), np.zeros(grid**2, bool)
    if still:
        places, moves = _places(box, inner, degrees, grid, flip=flip, motion=motion)
        if most := config.still_copy_paste:
            pair = crops[0], crops[1]
            crops, places, pasted = copy_paste(pair, places, past, rng, most=most, degrees=config.still_rotation)
            moves |= pasted
    if config.color_jitter:
        crops = [_jitter(crop, config.color_jitter, rng) for crop in crops]
    frames = np.stack(crops).transpose(0, 3, 1, 2)[None]  # (1, 2, 3, S, S)
    known = torch.from_numpy(places)[None], torch.from_numpy(moves)[None]
    return Pairs(torch.from_numpy(np.ascontiguousarray(frames)), *known)


class _Motion(NamedTuple):
    """What moved from the past frame to the future one; None = nothing did, or nobody asks."""

    flow: NDArray[np.float32] | None = None  # (H, W, 2), from the future frame's pixels to the past frame's
    own: NDArray[np.bool_] | None = None  # (H, W): what moves against the frame's dominant motion


def _motion(past: NDArray[np.uint8], future: NDArray[np.uint8], config: PretrainConfig) -> _Motion:
    if not config.still_flow or past is future:
        return _Motion()
    flow = find_flow(past, future)
    if not config.match_motion:
        return _Motion(flow)
    return _Motion(flow, residual_motion(flow) > _OWN)  # no comparison holds for NaN


def _crop(frame: NDArray[np.uint8], box: Box, side: int, *, flip: bool, degrees: float = 0.0) -> NDArray[np.uint8]:
    if degrees:
        crop = turned_crop(np.ascontiguousarray(frame), box, (side, side), degrees=degrees)
    else:
        top, left, height, width = box
        cut = np.ascontiguousarray(frame[top : top + height, left : left + width])
        crop = resize_frame(cut, (side, side), interpolation="area")
    return crop[:, ::-1] if flip else crop  # (S, S, 3)


def _jitter(crop: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change contrast, colour balance and brightness; now and then take some of the colour away."""
    pixels = crop.astype(np.float32)
    pixels *= rng.uniform(1 - strength, 1 + strength) * (1 + rng.uniform(-strength / 2, strength / 2, 3))
    pixels += 64 * rng.uniform(-strength, strength)
    if rng.random() < 0.3:
        greyness = rng.uniform()
        pixels += greyness * (pixels.mean(axis=2, keepdims=True) - pixels)
    return pixels.clip(0, 255).astype(np.uint8)


def _places(
    past: Box, future: Box, degrees: float, grid: int, *, flip: bool, motion: _Motion
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return x, y of every future patch's centre in past patches, ``(grid*grid, 2)``, where patch i's centre is i.

    And whether what it shows moves on its own.
    """
    steps = (np.arange(grid) + 0.5) / grid - 0.5
    x, y = (axis.ravel() for axis in np.meshgrid(-steps if flip else steps, steps))
    x, y = x * future[3], y * future[2]  # pixels from the future crop's centre, before the turn
    turn = math.radians(degrees)
    x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
    x, y = future[1] + future[3] / 2 + x, future[0] + future[2] / 2 + y  # pixels of the frame, edges at whole numbers
    moves = np.zeros(grid**2, bool)
    if motion.flow is not None:
        row, column = (axis.astype(int).clip(0, n - 1) for axis, n in zip((y, x), motion.flow.shape[:2], strict=True))
        x, y = x + motion.flow[row, column, 0], y + motion.flow[row, column, 1]
        moves = moves if motion.own is None else motion.own[row, column]
    x, y = (x - past[1]) / past[3], (y - past[0]) / past[2]  # 0 to 1 across the past crop
    return (np.stack([1 - x if flip else x, y], axis=1) * grid - 0.5).astype(np.float32), moves
