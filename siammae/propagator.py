"""Label propagation, one frame a call: the context queue, and the propagators for masks and keypoints."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from siammae.affinity import Kernels, choose_kernels, topk_affinity, unit_length
from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor, input_size
from siammae.frames import FrameSource, resize_frame, to_rgb
from siammae.labels import (
    decode_keypoints,
    encode_keypoints,
    encode_mask,
    gather_labels,
    render_labels,
    resize_nearest,
)
from siammae.masks import MaskSource, check_frame_size, mask_ids, read_mask

Size = tuple[int, int]


class ContextQueue:
    """The frames labels come from: pinned ones for ever, the last few besides. Memory is bounded by their number.

    Args:
        config: gives the rules.
    """

    def __init__(self, config: PropagationConfig) -> None:
        self._config = config
        self._pinned: list[tuple[Tensor, Tensor]] = []
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.queue_length)

    def __len__(self) -> int:
        return len(self._pinned) + len(self._recent)

    @property
    def pinned(self) -> int:
        """Leading context frames that are pinned."""
        return len(self._pinned)

    def add(self, features: Tensor, labels: Tensor, *, annotated: bool) -> None:
        """Take a frame: features ``(C, h, w)`` of unit length and labels ``(L, h, w)``."""
        first = not len(self)
        if annotated and self._config.pin_first:
            self._pinned.append((features, labels))
        else:
            self._recent.append((features, labels))
        if first and self._config.pad_queue:
            self._recent.extend([(features, labels)] * self._config.queue_length)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Return features ``(M, C, h, w)`` and labels ``(M, L, h, w)``, pinned frames first, then oldest to newest."""
        features, labels = zip(*self._pinned, *self._recent, strict=True)
        return torch.stack(features), torch.stack(labels)

    def change_labels(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply a function to the labels ``(L, h, w)`` of every frame."""
        self._pinned = [(features, change(labels)) for features, labels in self._pinned]
        self._recent = deque(((features, change(labels)) for features, labels in self._recent), self._recent.maxlen)


class _Stream:
    """What both propagators do: frame to features, context to labels; nothing changes when a step fails."""

    def __init__(self, extractor: FeatureExtractor, config: PropagationConfig, kernels: Kernels) -> None:
        choose_kernels(kernels)  # a backend that cannot run is refused now, not at the second frame
        self.extractor, self.config, self.kernels = extractor, config, kernels
        self.reset()

    def reset(self) -> None:
        self.queue = ContextQueue(self.config)
        self.frame_index = 0
        self.frame_size: Size | None = None
        self.device = torch.device("cpu")

    def open_frame(self, frame: FrameSource) -> tuple[NDArray[np.uint8], Size]:
        """Read a frame and check that it has the size of those before."""
        rgb = to_rgb(frame, index=self.frame_index)
        size = (rgb.shape[0], rgb.shape[1])
        if self.frame_size not in (None, size):
            raise ValueError(
                f"frame {self.frame_index} is {size} but the frames before are {self.frame_size}. "
                "Resize it, or call reset() to begin a new video."
            )
        return rgb, size

    def extract(self, rgb: NDArray[np.uint8]) -> tuple[Tensor, Size]:
        """Return unit-length features ``(C, h, w)`` and the network's input size."""
        config = self.config
        size = input_size(
            (rgb.shape[0], rgb.shape[1]),
            patch_size=self.extractor.patch_size,
            resize=config.resize,
            multiple=config.size_multiple,
            rounding=config.rounding,
        )
        resized = resize_frame(rgb, size, interpolation=config.interpolation)[None]
        # Presets that fix the normalisation say so; any other extractor need not know the argument.
        features = (
            self.extractor.extract(resized)
            if config.pixel_std is None
            else self.extractor.extract(resized, pixel_std=config.pixel_std)
        )[0]
        if not features.isfinite().all():
            raise ValueError(
                f"the features of frame {self.frame_index} have NaN or infinite values: check the weights, "
                "and use float32 or bfloat16 instead of float16."
            )
        self.device = features.device
        return unit_length(features), size

    def propagate(self, features: Tensor) -> Tensor:
        """Mix the context's labels for a new frame: ``(L, h, w)``."""
        config = self.config
        context, labels = self.queue.stacked()
        matches = topk_affinity(
            features,
            context,
            top_k=config.top_k,
            temperature=config.temperature,
            radius=config.radius,
            neighborhood=config.neighborhood,
            free_frames=0 if config.restrict_first else self.queue.pinned,
            keep_ties=config.keep_ties,
            normalized=True,
            kernels=self.kernels,
        )
        return gather_labels(matches, labels)

    def close_frame(self, size: Size, features: Tensor, labels: Tensor, *, annotated: bool) -> None:
        """Remember a frame; the only place where a step changes the stream."""
        self.frame_size = size
        self.queue.add(features, labels, annotated=annotated)
        self.frame_index += 1


@dataclass(frozen=True, slots=True)
class FrameMasks:
    """Soft labels of one frame; pixels are made only when asked for.

    Attributes:
        frame_index: counted from 0 since the propagator's start or reset.
        object_ids: the followed objects, in the order of ``scores[1:]``.
        scores: ``(1 + objects, h, w)`` float32 on the model's device; channel 0 is the background.
        frame_size: ``(H, W)``.
        input_size: ``(H, W)`` of the network's input.
        config: the rules of rendering.
        given: the mask that came with this frame, ``(H, W)`` uint8, or None.
        given_ids: the objects that mask speaks for.
    """

    frame_index: int
    object_ids: tuple[int, ...]
    scores: Tensor
    frame_size: Size
    input_size: Size
    config: PropagationConfig
    given: NDArray[np.uint8] | None = field(default=None, repr=False)
    given_ids: tuple[int, ...] = ()

    def label_map(self) -> NDArray[np.uint8]:
        """Return ``(H, W)`` uint8 object ids; 0 is background."""
        config = self.config
        size = self.frame_size if config.upsample_to == "frame" else self.input_size
        channels = render_labels(self.scores, size, min_max=config.min_max)
        labels = np.array([0, *self.object_ids], np.uint8)[resize_nearest(channels, self.frame_size)]
        if self.given is None or config.first_output == "rendered":
            return labels
        spoken_for = np.isin(self.given, self.given_ids)
        labels[np.isin(labels, self.given_ids)] = 0
        return np.where(spoken_for, self.given, labels)

    def masks(self) -> NDArray[np.bool_]:
        """Return one mask per object: ``(objects, H, W)`` bool, in the order of ``object_ids``."""
        return np.equal(self.label_map(), np.array(self.object_ids, np.uint8).reshape(-1, 1, 1))


class Propagator:
    """Carries object masks through a stream, one frame a call, in memory that does not grow.

    Args:
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends, else the defaults.
        kernels: backend of the affinity.

    Raises:
        KernelUnavailableError: the backend asked for cannot run here.
    """

    def __init__(
        self, extractor: FeatureExtractor, config: PropagationConfig | None = None, *, kernels: Kernels = "auto"
    ) -> None:
        self._stream = _Stream(extractor, config or recommended_config(extractor), kernels)
        self._ids: tuple[int, ...] = ()

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids followed now, in the order in which they came."""
        return self._ids

    @property
    def config(self) -> PropagationConfig:
        """The rules in use."""
        return self._stream.config

    def reset(self) -> None:
        """Forget frames and objects; keep the model."""
        self._stream.reset()
        self._ids = ()

    def step(
        self, frame: FrameSource, *, mask: MaskSource | None = None, object_ids: Sequence[int] | None = None
    ) -> FrameMasks:
        """Take the next frame.

        A mask starts objects on the first frame; on a later frame it adds new objects and corrects known ones. It
        speaks only for the ids it holds (or ``object_ids``): all others are followed on, outside its pixels. A frame
        with a mask stays in the context for good, so each mask adds one frame to the memory.

        Args:
            frame: RGB; NumPy ``(H, W, 3)`` uint8, torch ``(3, H, W)`` or PIL.
            mask: see :func:`siammae.read_mask`; of the frame's size.
            object_ids: ids of a bool stack's layers; for an id map, the ids it speaks for, also absent ones.

        Returns:
            The frame's masks.

        Raises:
            RuntimeError: there was no mask yet.
            ValueError: frame or mask are refused; nothing has changed then, and the frame may be given again.
        """
        stream = self._stream
        rgb, size = stream.open_frame(frame)
        given, given_ids = self._read(mask, object_ids, size) if mask is not None else (None, ())
        if given is None and not len(stream.queue):
            raise RuntimeError("no mask yet: give a mask on the first frame, step(frame, mask=...).")
        features, in_size = stream.extract(rgb)
        scores = stream.propagate(features) if len(stream.queue) else None
        ids = (*self._ids, *(i for i in given_ids if i not in self._ids))
        if given is not None:
            scores = self._correct(scores, given, given_ids, ids, (features.shape[-2], features.shape[-1]), in_size)
        # From here on nothing is refused.
        if added := len(ids) - len(self._ids):
            stream.queue.change_labels(lambda labels: F.pad(labels, (0, 0, 0, 0, 0, added)))
        self._ids = ids
        result = FrameMasks(
            stream.frame_index, ids, cast(Tensor, scores), size, in_size, stream.config, given, tuple(given_ids)
        )
        stream.close_frame(size, features, result.scores, annotated=given is not None)
        return result

    def _read(
        self, mask: MaskSource, object_ids: Sequence[int] | None, size: Size
    ) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
        """Return the mask as ids and the objects it speaks for."""
        stack = getattr(mask, "ndim", 2) == 3
        given = read_mask(mask, object_ids=object_ids if stack else None)
        first = not len(self._stream.queue)
        check_frame_size(given, size, name="first_mask" if first else "mask")
        present = mask_ids(given)
        ids = present if object_ids is None else tuple(int(i) for i in object_ids)
        if unlisted := sorted(set(present) - set(ids)):
            raise ValueError(f"the mask holds ids {unlisted} that object_ids {ids} lacks: list every id, or pass None.")
        if first and not present:
            raise ValueError("the first mask is empty: it must hold at least one object (an id from 1 to 254).")
        if not ids:
            raise ValueError("the mask names no object: pass object_ids=[...] to say which objects are gone.")
        return given, ids

    def _correct(
        self,
        scores: Tensor | None,
        given: NDArray[np.uint8],
        given_ids: Sequence[int],
        ids: tuple[int, ...],
        grid: Size,
        in_size: Size,
    ) -> Tensor:
        """Put a mask over propagated scores; those of objects it does not speak for stay, outside its pixels."""
        rule, device = self._stream.config.first_labels, self._stream.device
        drawn = encode_mask(given, given_ids, grid, in_size, rule).to(device)
        if scores is None:
            return drawn
        merged = F.pad(scores, (0, 0, 0, 0, 0, 1 + len(ids) - len(scores)))  # (1+ids, h, w)
        channels = [1 + ids.index(i) for i in given_ids]
        merged[0] += merged[channels].sum(dim=0)  # where the mask denies an object, there is background
        merged = merged * (1 - drawn[1:].sum(dim=0)).clamp_min(0)
        merged[channels] = drawn[1:]
        return merged

    def remove_object(self, object_id: int) -> None:
        """Stop following one object; its share of every remembered frame goes to the background.

        Raises:
            ValueError: the object is not followed.
        """
        if object_id not in self._ids:
            raise ValueError(f"object {object_id} is not followed: the ids are {list(self._ids)}.")
        channel = 1 + self._ids.index(object_id)

        def without(labels: Tensor) -> Tensor:
            background = labels[:1] + labels[channel : channel + 1]
            return torch.cat([background, labels[1:channel], labels[channel + 1 :]])

        self._stream.queue.change_labels(without)
        self._ids = tuple(i for i in self._ids if i != object_id)


class FrameKeypoints(NamedTuple):
    """Keypoints of one frame."""

    points: NDArray[np.float32]  # (N, 2) x, y pixels
    confidence: NDArray[np.float32]  # (N,) in [0, 1]


class KeypointPropagator:
    """Carries keypoints through a stream, one frame a call, in memory that does not grow.

    Args:
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends, else the defaults.
        kernels: backend of the affinity.

    Raises:
        KernelUnavailableError: the backend asked for cannot run here.
    """

    def __init__(
        self, extractor: FeatureExtractor, config: PropagationConfig | None = None, *, kernels: Kernels = "auto"
    ) -> None:
        self._stream = _Stream(extractor, config or recommended_config(extractor), kernels)
        self._count = 0

    @property
    def config(self) -> PropagationConfig:
        """The rules in use."""
        return self._stream.config

    def reset(self) -> None:
        """Forget frames and keypoints; keep the model."""
        self._stream.reset()
        self._count = 0

    def step(self, frame: FrameSource, *, keypoints: NDArray[np.floating] | None = None) -> FrameKeypoints:
        """Take the next frame.

        Args:
            frame: RGB; NumPy ``(H, W, 3)`` uint8, torch ``(3, H, W)`` or PIL.
            keypoints: ``(N, 2)`` x, y in pixels, needed on the first frame; pixel (0, 0) has its centre at 0.0. On a
                later frame they correct: the same N, and rows of NaN are followed on.

        Returns:
            Points ``(N, 2)`` and confidence ``(N,)``. Given points come back as they are, with confidence 1.

        Raises:
            RuntimeError: there were no keypoints yet.
            ValueError: frame or keypoints are refused; nothing has changed then.
        """
        stream = self._stream
        rgb, size = stream.open_frame(frame)
        first = not len(stream.queue)
        if first and keypoints is None:
            raise RuntimeError("no keypoints yet: give them on the first frame, step(frame, keypoints=...).")
        given = None if keypoints is None else self._check(np.asarray(keypoints), size, first)
        features, _ = stream.extract(rgb)
        maps = None if first else stream.propagate(features)
        if given is not None:
            maps = self._correct(maps, given, size, (features.shape[-2], features.shape[-1]))
        config = stream.config
        points, confidence = decode_keypoints(
            cast(Tensor, maps), size, rule=config.keypoint_rule, top_k=config.keypoint_top_k
        )
        if given is not None and config.first_output == "given":
            known = ~np.isnan(given).any(axis=1)
            points[known], confidence[known] = given[known], 1.0
        self._count = len(points)
        stream.close_frame(size, features, cast(Tensor, maps), annotated=given is not None)
        return FrameKeypoints(points, confidence)

    def _check(self, keypoints: NDArray[np.floating], size: Size, first: bool) -> NDArray[np.floating]:
        if keypoints.ndim != 2 or keypoints.shape[1] != 2 or not len(keypoints) or keypoints.dtype.kind not in "fiu":
            raise ValueError(
                f"keypoints are {keypoints.shape} {keypoints.dtype}: they must be (N, 2) numbers, x and y in pixels."
            )
        if not first and len(keypoints) != self._count:
            raise ValueError(f"{len(keypoints)} keypoints, but {self._count} are followed. NaN rows are followed on.")
        limits = (size[1] - 0.5, size[0] - 0.5)
        missing = np.isnan(keypoints).all(axis=1)
        inside = ((keypoints >= -0.5) & (keypoints <= limits)).all(axis=1)
        if (bad := np.flatnonzero(~(inside if first else inside | missing))).size:
            x, y = keypoints[bad[0]]
            raise ValueError(
                f"keypoint {bad[0]} is ({x}, {y}): it must lie inside the frame, x in [-0.5, {limits[0]}] and y in "
                f"[-0.5, {limits[1]}]" + (", and not be NaN on the first frame." if first else ", or be all NaN.")
            )
        return keypoints

    def _correct(self, maps: Tensor | None, given: NDArray[np.floating], size: Size, grid: Size) -> Tensor:
        config = self._stream.config
        known = ~np.isnan(given).any(axis=1)
        drawn = encode_keypoints(given[known], size, grid, rule=config.keypoint_rule, sigma=config.keypoint_sigma)
        drawn = drawn.to(self._stream.device)
        if maps is None:
            return drawn
        maps[torch.from_numpy(known).to(maps.device)] = drawn
        return maps


def recommended_config(extractor: FeatureExtractor) -> PropagationConfig:
    """Return the rules an extractor recommends in its attribute ``propagation``, else the defaults."""
    return getattr(extractor, "propagation", None) or PropagationConfig()
