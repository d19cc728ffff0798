"""Public label-propagation codes, restated slowly in NumPy from their published rules; nothing here is the library's.

Only OpenCV and Pillow resize pixels, as they do in the sources. Arithmetic is float64.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

NEAR = 2e-6  # similarities closer than this can change places in float32
MEAN, STD, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.228, 0.224, 0.225)


# ---------------------------------------------------------------- resizing


def nearest(values, size):
    """Sample at the centre of each new pixel, as Pillow's NEAREST and torch's nearest-exact."""
    rows, columns = [
        [(2 * i + 1) * old // (2 * new) for i in range(new)] for old, new in zip(values.shape[:2], size, strict=True)
    ]
    return values[rows][:, columns]


def inside_pixels(old_size, size):
    """Tell which new pixels have their centre inside an old one; on a border, rounding errors choose."""
    rows, columns = [
        np.array([(2 * i + 1) * old % (2 * new) > 0 for i in range(new)]) | (new == old)
        for old, new in zip(old_size, size, strict=True)
    ]
    return rows[:, None] & columns


def corner_nearest(values, size):
    """Sample at the corner of each new pixel, as torch's nearest, whose scale is a float32."""
    places = [
        np.floor(np.arange(new, dtype=np.float32) * np.float32(old / new)).astype(int)
        for new, old in zip(size, values.shape, strict=True)
    ]
    return values[np.minimum(places[0], values.shape[0] - 1)][:, np.minimum(places[1], values.shape[1] - 1)]


def bilinear(values, size):
    """Resize one map with pixel centres at half and the border repeated."""

    def taps(new, old):
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        return low, np.minimum(low + 1, old - 1), place - low

    top, bottom, dy = taps(size[0], values.shape[0])
    left, right, dx = taps(size[1], values.shape[1])
    rows = values[top] * (1 - dy)[:, None] + values[bottom] * dy[:, None]
    return rows[:, left] * (1 - dx) + rows[:, right] * dx


def opencv(frame, size):
    return frame if frame.shape[:2] == size else cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)


def pillow_bicubic(frame, size):
    return np.array(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC))


def one_hot(labels, ids):
    return np.stack([labels == i for i in ids]).astype(np.float64)


def stretched(maps):
    """Bring each label's map to [0, 1] over the frame; a map of zeros stays."""
    return np.stack([one if one.max() == 0 else (one - one.min()) / (one.max() - one.min()) for one in maps])


# ---------------------------------------------------------------- contexts: which frames a new frame looks at


def padded_history(t, length):
    """videowalk and CropMAE: frame 0, then the last frames of a video that begins with ``length`` copies of it."""
    return [0, *(max(0, i) for i in range(t - length, t))]


def growing_queue(t, length):
    """DINO, RSP, DINOv3: frame 0, then the last frames, frame 0 not among them."""
    return [0, *range(max(1, t - length), t)]


def first_and_preceding(t, length):
    """VFS: frame 0, then the last frames, frame 0 among them at the beginning."""
    return [0, *range(max(0, t - length), t)]


# ---------------------------------------------------------------- windows, by offsets in rows and columns


def open_circle(dy, dx, r):
    return np.sqrt(dy**2 + dx**2) < r


def closed_circle(dy, dx, r):
    return np.sqrt(dy**2 + dx**2) <= r


def square(dy, dx, r):
    return (abs(dy) <= r) & (abs(dx) <= r)


# ---------------------------------------------------------------- the codes


@dataclass(frozen=True)
class Protocol:
    """What one code does at each step; the functions above say how."""

    context: object
    length: int
    window: object
    free_first: bool  # the first entry of the context has no window
    top_k: int
    ties: bool  # all as good as the k-th
    temperature: float
    resize: object
    std: tuple
    soft_first: bool  # bilinear one-hot labels, or the id at the patch's centre
    renders_first: bool
    normalize: bool
    min_max: bool
    upsample: object
    at_input: bool  # argmax at the network's input size

    def first_labels(self, mask, ids, grid, input_size):
        if not self.soft_first:
            return one_hot(nearest(mask, grid), ids)
        maps = one_hot(nearest(mask, input_size), ids).astype(np.float32)
        return np.stack([cv2.resize(one, grid[::-1], interpolation=cv2.INTER_LINEAR) for one in maps]).astype(float)

    def step(self, features, stored, radius):
        """Mix the labels ``(L, h, w)`` of frame t = len(stored); also tell which patches are near a tie."""
        t, (labels, h, w) = len(stored), stored[0].shape
        used = self.context(t, self.length)
        y, x = np.mgrid[:h, :w].reshape(2, -1)
        inside = self.window(y[:, None] - y, x[:, None] - x, radius)
        table = np.concatenate([stored[i].reshape(labels, -1) for i in used], axis=1)  # (L, M*h*w)
        keys = np.concatenate([features[i].reshape(len(features[i]), -1) for i in used], axis=1)
        mixed, near = np.zeros((labels, h * w)), np.zeros(h * w, bool)
        for q in range(h * w):
            row = features[t].reshape(len(features[t]), -1)[:, q] @ keys
            allowed = np.tile(inside[q], len(used))
            if self.free_first:
                allowed[: h * w] = True
            row = np.where(allowed, row, -np.inf)
            order = np.argsort(-row, kind="stable")
            last = row[order[min(self.top_k, allowed.sum()) - 1]]
            kept = np.flatnonzero(row >= last) if self.ties else order[: min(self.top_k, allowed.sum())]
            weights = np.exp((row[kept] - row[kept].max()) / self.temperature)
            mixed[:, q] = table[:, kept] @ (weights / weights.sum())
            close = np.flatnonzero(np.abs(row - last) < NEAR)
            # Copies of a frame tie for ever, and have the same labels: then it does not matter which one is kept.
            near[q] = len(close) > 1 and (self.ties or np.ptp(table[:, close], axis=1).max() > 1e-9)
        if self.normalize:
            mixed /= mixed.sum(axis=0)
        return mixed.reshape(labels, h, w), near.reshape(h, w)

    def render(self, soft, ids, input_size, frame_size):
        """Return the label map, and where the best two labels are clearly apart."""
        maps = np.stack([self.upsample(one, input_size if self.at_input else frame_size) for one in soft])
        ranked = stretched(maps) if self.min_max else maps
        labels = np.array(ids)[ranked.argmax(axis=0)]
        best = np.sort(ranked, axis=0)
        clear = nearest(best[-1] - best[-2] > 1e-4, frame_size) & inside_pixels(labels.shape, frame_size)
        return nearest(labels, frame_size), clear


_CROPMAE = {
    "context": padded_history,
    "length": 20,
    "window": open_circle,
    "free_first": True,
    "top_k": 7,
    "ties": False,
    "temperature": 0.7,
    "resize": opencv,
    "std": STD,
    "soft_first": True,
    "renders_first": True,
    "normalize": False,
    "min_max": False,
    "upsample": bilinear,
    "at_input": True,
}
_DINO = {
    "context": growing_queue,
    "length": 7,
    "window": square,
    "free_first": False,
    "top_k": 5,
    "ties": True,
    "temperature": 0.1,
    "resize": opencv,
    "std": DINO_STD,
    "soft_first": False,
    "renders_first": False,
    "normalize": False,
    "min_max": True,
    "upsample": bilinear,
    "at_input": True,
}
_VIDEOWALK = {**_CROPMAE, "top_k": 10, "temperature": 0.05}

PROTOCOLS = {
    ("siammae", "davis"): Protocol(**_CROPMAE),
    ("siammae", "vip"): Protocol(**{**_CROPMAE, "top_k": 10}),
    ("siammae", "jhmdb"): Protocol(**_CROPMAE),
    ("crw", "davis"): Protocol(**{**_VIDEOWALK, "at_input": False}),  # native: input and frame are one
    ("crw", "vip"): Protocol(**{**_VIDEOWALK, "length": 4}),
    ("crw", "jhmdb"): Protocol(**{**_VIDEOWALK, "length": 7}),
    ("dino", "davis"): Protocol(**_DINO),
    ("rsp", "davis"): Protocol(**{**_DINO, "top_k": 7, "length": 30}),
    ("vfs", "davis"): Protocol(
        **{
            **_DINO,
            "context": first_and_preceding,
            "length": 20,
            "window": open_circle,
            "top_k": 10,
            "ties": False,
            "temperature": 0.07,
            "std": STD,
            "at_input": False,
        }
    ),
    ("dinov3", "davis"): Protocol(
        **{
            **_DINO,
            "window": closed_circle,
            "temperature": 0.2,
            "resize": pillow_bicubic,
            "std": STD,
            "normalize": True,
            "upsample": corner_nearest,
            "at_input": False,
        }
    ),
}
