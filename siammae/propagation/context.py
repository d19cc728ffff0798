"""The context: the frames that labels come from, and how a new frame gets its labels from them."""

from __future__ import annotations

import copy
import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor, FeatureStream, input_size
from siammae.frames import FrameSource, resize_frame, to_rgb
from siammae.propagation.affinity import (
    FrameFeatures,
    Kernels,
    Window,
    backend_for,
    centered,
    choose_kernels,
    match_frames,
    unit_length,
)
from siammae.propagation.focus import Focus, Region
from siammae.propagation.labels import gather_labels
from siammae.propagation.two_sizes import covering, joined, smaller_grid

Size = tuple[int, int]


class _Propagates(Protocol):
    _turn: Turn


_P = TypeVar("_P", bound=_Propagates)
_R = TypeVar("_R")
_Arguments = ParamSpec("_Arguments")


class ContextFrame(NamedTuple):
    """What is remembered of a frame."""

    features: FrameFeatures
    labels: Tensor  # (L, h, w)
    given: frozenset[int] | None  # objects or keypoints that were given with this frame; None = a plain frame


class EncodedFrame(NamedTuple):
    """A frame as propagation needs it."""

    size: Size  # of the frame
    features: FrameFeatures
    image: NDArray[np.uint8]  # as the network took it, RGB (H, W, 3)
    region: Region | None = None  # the patches that were encoded; None = all


class ContextQueue:
    """The frames labels come from: pinned ones for ever, the last few besides. Memory is bounded by their number.

    Args:
        config: gives the rules.
    """

    def __init__(self, config: PropagationConfig) -> None:
        self._config = config
        self._pinned: list[ContextFrame] = []
        self._recent: deque[ContextFrame] = deque(maxlen=config.queue_length)

    def __len__(self) -> int:
        return len(self._pinned) + len(self._recent)

    @property
    def pinned(self) -> int:
        """Leading context frames that are pinned."""
        return len(self._pinned)

    def add(self, frame: ContextFrame) -> None:
        """Take the newest frame."""
        first = not len(self)
        pinned = frame.given is not None and self._config.pin_first
        if pinned:
            self._pinned.append(frame)
        if not pinned or self._config.queue_pinned:
            self._recent.append(frame)
        if first and self._config.pad_queue:
            self._recent.extend([frame] * self._config.queue_length)

    def features(self) -> list[FrameFeatures]:
        """Return the features of M frames, pinned ones first, then oldest to newest."""
        return [frame.features for frame in (*self._pinned, *self._recent)]

    def labels(self) -> Tensor:
        """Return their labels ``(M, L, h, w)``."""
        return torch.stack([frame.labels for frame in (*self._pinned, *self._recent)])

    def change(self, change: Callable[[ContextFrame], ContextFrame]) -> None:
        """Apply a function to every frame."""
        pinned, recent = [change(frame) for frame in self._pinned], [change(frame) for frame in self._recent]
        self._pinned, self._recent = pinned, deque(recent, self._recent.maxlen)


class Turn:
    """Lets one thread at a time into a propagator; copies of it are free."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()

    def __enter__(self) -> None:
        """Begin.

        Raises:
            RuntimeError: another thread is inside.
        """
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "this propagator is at work in another thread: it follows one stream, a frame after the other. Make a "
                "propagator for each thread (they may share the extractor), or let the threads wait for each other."
            )

    def __exit__(self, *error: object) -> None:
        """End."""
        self._lock.release()


def in_turn(method: Callable[Concatenate[_P, _Arguments], _R]) -> Callable[Concatenate[_P, _Arguments], _R]:
    """Make a method of a propagator refuse a second thread while one is inside, in this or another of them."""

    @functools.wraps(method)
    def alone(self: _P, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _R:
        with self._turn:
            return method(self, *args, **kwargs)

    return alone


class Stream:
    """What both propagators do: frame to features, context to labels; nothing changes when a step fails."""

    def __init__(self, extractor: FeatureExtractor, config: PropagationConfig, kernels: Kernels) -> None:
        choose_kernels(kernels)  # a backend that cannot run is refused now, not at the second frame
        _check_options(extractor, config)
        self.extractor, self.config, self.kernels = extractor, config, kernels
        self.cells = 1  # of labels on a side of a patch; masks may have more
        self.reset()

    def reset(self) -> None:
        """Forget all frames; keep the extractor."""
        self.queue = ContextQueue(self.config)
        self.frame_index = 0
        self.frame_size: Size | None = None
        self.device = torch.device("cpu")
        self.tokens: dict[bool, FeatureStream] = {}  # of the first size and of the second

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

    def encode(self, rgb: NDArray[np.uint8], focus: Focus | None = None) -> EncodedFrame:
        """Resize a frame as the rules say, and extract its features; those near the objects, with a focus."""
        config = self.config
        size = input_size(
            (rgb.shape[0], rgb.shape[1]),
            patch_size=self.extractor.patch_size,
            resize=config.resize,
            side=config.resize_side,
            multiple=config.size_multiple,
            rounding=config.rounding,
            round_both=config.round_both,
        )
        resized = resize_frame(rgb, size, interpolation=config.interpolation)
        patch = self.extractor.patch_size
        region = focus.look((size[0] // patch, size[1] // patch)) if focus else None
        features = self._features(resized, region)
        self.device = features.device
        frame = FrameFeatures(unit_length(features))
        # Refused now, not at the second frame.
        backend_for(frame.tensor, kernels=self.kernels, **self._window(self.queue.pinned))
        return EncodedFrame((rgb.shape[0], rgb.shape[1]), frame, resized, region)

    def _features(self, frame: NDArray[np.uint8], region: Region | None) -> Tensor:
        """Return what a resized frame is compared by, ``(C, h, w)``: the features of one size or of two."""
        features = self._extract(frame, region)
        if self.config.second_size is None:
            return features
        patch, grid = self.extractor.patch_size, (features.shape[1], features.shape[2])
        smaller = smaller_grid(grid, self.config.second_size)
        small = resize_frame(frame, (smaller[0] * patch, smaller[1] * patch), interpolation=self.config.interpolation)
        return joined(features, self._extract(small, covering(region, grid, smaller), second=True), region)

    def _extract(self, frame: NDArray[np.uint8], region: Region | None, *, second: bool = False) -> Tensor:
        """Return the features of a frame at one size, ``(C, h, w)``."""
        features = self._run(frame, region, second)
        if not features.isfinite().all():
            raise ValueError(
                f"the features of frame {self.frame_index} have NaN or infinite values: check the weights, "
                "and use float32 or bfloat16 instead of float16."
            )
        return centered(features, region) if self.config.center_features else features

    def _run(self, frame: NDArray[np.uint8], region: Region | None, second: bool) -> Tensor:
        """Run the extractor."""
        config = self.config
        # Presets that fix the normalisation say so; any other extractor need not know the argument.
        options: dict[str, Any] = {} if config.pixel_std is None else {"pixel_std": config.pixel_std}
        if config.pool_keys > 1:
            options["pool_keys"] = config.pool_keys
        if config.reuse_threshold is None:
            if region:
                options["region"] = region
            return self.extractor.extract(frame[None], **options)[0]
        if second not in self.tokens:
            extractor: Any = self.extractor  # one with the option "reuse" has open_stream
            self.tokens[second] = extractor.open_stream(
                threshold=config.reuse_threshold, refresh=config.reuse_refresh, **options
            )
        return self.tokens[second].extract(frame, region=region)

    def label_grid(self, features: FrameFeatures) -> Size:
        """Return the grid of labels: that of the patches, each in ``cells`` x ``cells``."""
        return features.grid[0] * self.cells, features.grid[1] * self.cells

    def propagate(self, features: FrameFeatures, region: Region | None = None) -> Tensor:
        """Mix the context's labels for a new frame: ``(L, h, w)``.

        With a region, its patches are matched within it, in all frames, and all others are background: they were not
        encoded.
        """
        context, labels, pinned = self.queue.features(), self.queue.labels(), self.queue.pinned
        if region is None:
            return self._mix(features, context, labels, pinned)
        top, left, bottom, right = region
        inside = (..., slice(self.cells * top, self.cells * bottom), slice(self.cells * left, self.cells * right))
        query, *near = (frame.within(region) for frame in (features, *context))
        mixed = labels.new_zeros(labels.shape[1:])
        mixed[0] = 1
        mixed[inside] = self._mix(query, near, labels[inside], pinned)
        return mixed

    def look_back(self, past: ContextFrame, features: FrameFeatures, labels: Tensor) -> Tensor:
        """Mix the labels of an annotated frame for one before it, as :meth:`propagate` does for one after it."""
        return self._mix(past.features, [features], labels[None], int(self.config.pin_first))

    def _mix(self, query: FrameFeatures, context: list[FrameFeatures], labels: Tensor, pinned: int) -> Tensor:
        temperature, window = self.config.temperature, self._window(pinned)
        matches = match_frames(query, context, temperature=temperature, kernels=self.kernels, **window)
        if self.cells == 1:
            return gather_labels(matches, labels)
        # A patch's cells travel together: as so many labels more.
        mixed = gather_labels(matches, F.pixel_unshuffle(labels, self.cells))  # (L*c*c, h, w)
        return F.pixel_shuffle(mixed, self.cells)  # (L, h*c, w*c)

    def _window(self, pinned: int) -> Window:
        config = self.config
        return {
            "top_k": config.top_k,
            "radius": config.radius,
            "neighborhood": config.neighborhood,
            "free_frames": 0 if config.restrict_first else pinned,
            "keep_ties": config.keep_ties,
        }

    def close_frame(self, size: Size, frame: ContextFrame) -> None:
        """Remember a frame; what comes before this can be refused, this cannot."""
        self.frame_size = size
        self.queue.add(frame)
        self.frame_index += 1


def _check_options(extractor: FeatureExtractor, config: PropagationConfig) -> None:
    """Refuse rules that ask an extractor for what it has not."""
    name = getattr(extractor, "kind", type(extractor).__name__)
    known: frozenset[str] = getattr(extractor, "extract_options", frozenset())
    for option, field, off in (
        ("region", "focus_margin", None),
        ("pool_keys", "pool_keys", 1),
        ("reuse", "reuse_threshold", None),
    ):
        given = getattr(config, field)
        if given != off and option not in known:
            raise ValueError(f"{field} is {given}, but {name}.extract knows no {option!r}: pass {field}={off}.")


class StreamPropagator:
    """What both propagators are: an extractor, rules and a stream of frames."""

    def __init__(
        self, extractor: FeatureExtractor, config: PropagationConfig | None = None, *, kernels: Kernels = "auto"
    ) -> None:
        self._turn = Turn()
        self._stream = Stream(extractor, config or recommended_config(extractor), kernels)

    def __copy__(self) -> Self:
        """Return a propagator that goes on from here by itself, with the same extractor."""
        return copy.deepcopy(self, {id(self._stream.extractor): self._stream.extractor})

    @property
    def config(self) -> PropagationConfig:
        """The rules in use."""
        return self._stream.config

    @property
    def encoded_share(self) -> float:
        """Part of the patches, of those near the objects with a focus, that was encoded so far: 1 without reuse."""
        streams = self._stream.tokens.values()
        asked = sum(stream.asked for stream in streams)
        return sum(stream.computed for stream in streams) / asked if asked else 1.0

    @in_turn
    def reset(self) -> None:
        """Forget frames and labels; keep the model."""
        self._stream.reset()


def recommended_config(extractor: FeatureExtractor) -> PropagationConfig:
    """Return the rules an extractor recommends in its attribute ``propagation``, else the defaults."""
    return getattr(extractor, "propagation", None) or PropagationConfig()
