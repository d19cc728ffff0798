"""Several annotated frames: what lies between two of them is followed from both, and the two answers become one.

Frames are read and encoded once, in their order. What the way back needs of a frame, its features and its resized
image, waits on disk until the next annotated frame is there; memory does not grow with the video, and neither does the
disk, beyond the longest stretch between two annotated frames: 1.5 MB a frame with the bundled network at a short side
of 240 pixels, in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import IO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.annotations.masks import MaskSource, mask_ids
from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.propagation.affinity import FrameFeatures, Kernels
from siammae.propagation.context import EncodedFrame
from siammae.propagation.labels import FrameMasks, confidence
from siammae.propagation.propagator import Propagator

_Frames = Iterable[NDArray[np.uint8]]


class _Spool:
    """Arrays of equal shapes on disk, written one after the other and read in any order; gone when it is closed."""

    def __init__(self, stack: ExitStack) -> None:
        self._file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(prefix="siammae-"))  # noqa: SIM115
        self._forms: list[tuple[tuple[int, ...], np.dtype[np.generic]]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, *arrays: NDArray[np.generic]) -> None:
        """Write the arrays of a frame."""
        forms = [(array.shape, array.dtype) for array in arrays]
        if self._forms not in ([], forms):
            raise ValueError(f"a frame gives {forms} where those before gave {self._forms}: all must have one size.")
        self._forms = forms
        self._file.seek(0, 2)
        for array in arrays:
            self._file.write(np.ascontiguousarray(array).data)
        self._count += 1

    def __getitem__(self, index: int) -> list[NDArray[np.generic]]:
        lengths = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in self._forms]
        self._file.seek(index * sum(lengths))
        return [
            np.frombuffer(self._file.read(length), dtype).reshape(shape).copy()
            for length, (shape, dtype) in zip(lengths, self._forms, strict=True)
        ]


class _Stretch:
    """The frames since an annotated one, or since the beginning: encoded, with the forward pass's masks of each."""

    def __init__(self, stack: ExitStack, present: frozenset[int]) -> None:
        self.present = present  # ids in the annotated frame before
        self._encoded, self._scores = _Spool(stack), _Spool(stack)
        self.object_ids: tuple[int, ...] = ()  # of the forward pass; none before the first annotated frame
        self._size: tuple[int, int] = (0, 0)
        self._device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._encoded)

    def add(self, frame: EncodedFrame, forward: FrameMasks | None) -> None:
        """Keep a frame."""
        self._size, self._device = frame.size, frame.features.tensor.device
        self._encoded.add(frame.features.tensor.cpu().numpy(), frame.image)
        if forward is not None:
            self._scores.add(forward.scores.cpu().numpy())
            self.object_ids = forward.object_ids

    def frame(self, index: int) -> EncodedFrame:
        """Return a frame again."""
        features, image = self._encoded[index]
        return EncodedFrame(self._size, FrameFeatures(self._tensor(features)), image.astype(np.uint8, copy=False))

    def scores(self, index: int) -> Tensor:
        """Return the forward pass's soft labels of a frame."""
        return self._tensor(self._scores[index][0])

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


class _Rules(NamedTuple):
    """What every propagator is made of."""

    extractor: FeatureExtractor
    config: PropagationConfig | None
    kernels: Kernels

    def propagator(self) -> Propagator:
        """Return one that knows nothing yet."""
        return Propagator(self.extractor, self.config, kernels=self.kernels)


def follow_keyframes(
    frames: _Frames,
    masks: Mapping[int, MaskSource],
    extractor: FeatureExtractor,
    config: PropagationConfig | None,
    *,
    object_ids: Sequence[int] | None = None,
    kernels: Kernels = "auto",
) -> Iterator[FrameMasks]:
    """Follow objects from several annotated frames, both ways in time.

    Args:
        frames: of the video, from frame 0.
        masks: frame number to mask, at least one; see :meth:`Propagator.step` for what a mask speaks for.
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends.
        object_ids: the ids that every mask speaks for; None = each for those it holds.
        kernels: backend of the affinity.

    Yields:
        One :class:`FrameMasks` a frame. Those between two annotated frames come when the second one was reached.

    Raises:
        ValueError: a number is negative or beyond the video's end, or a mask is refused.
    """
    wanted = sorted(masks)
    if not wanted or wanted[0] < 0:
        raise ValueError(f"masks are of the frames {wanted}: they must be at least one, counted from 0.")
    rules = _Rules(extractor, config, kernels)
    forward, index = rules.propagator(), -1
    with ExitStack() as stack:
        stretch = _Stretch(stack, frozenset())
        for index, frame in enumerate(frames):
            if index > wanted[-1]:
                yield replace(forward.step(frame), frame_index=index)
                continue
            encoded = forward.encode(frame)
            if index in masks:
                given = forward.step_encoded(encoded, mask=masks[index], object_ids=object_ids)
                given = replace(given, frame_index=index)
                present = frozenset(mask_ids(given.label_map()))
                yield from _both_ways(rules, stretch, encoded, given, present)
                yield given
                stack.pop_all().close()
                stretch = _Stretch(stack, present)
            else:
                stretch.add(encoded, forward.step_encoded(encoded) if index > wanted[0] else None)
    if index < wanted[-1]:
        raise ValueError(f"there is a mask of frame {wanted[-1]}, but the video ends at frame {index}. Number from 0.")


def _both_ways(
    rules: _Rules, stretch: _Stretch, encoded: EncodedFrame, given: FrameMasks, present: frozenset[int]
) -> Iterator[FrameMasks]:
    """Follow a stretch back from the annotated frame at its end, then yield it in the video's order."""
    with ExitStack() as stack:
        spool = _Spool(stack)
        backward = rules.propagator() if present else None
        if backward and len(stretch):
            # As drawn and as followed: an object that this frame's mask does not speak for is followed back as well.
            backward.step_encoded(encoded, mask=given.label_map(), object_ids=given.object_ids)
            for index in reversed(range(len(stretch))):
                spool.add(backward.step_encoded(stretch.frame(index)).scores.cpu().numpy())
        for index in range(len(stretch)):
            frame = stretch.frame(index)
            nearness = (index + 1) / (len(stretch) + 1)  # 0 at the annotated frame before, 1 at this one
            if backward:
                back = torch.from_numpy(spool[len(stretch) - 1 - index][0]).to(frame.features.tensor.device)
            else:  # nothing is there any more: the background has all
                back = torch.zeros_like(given.scores)
                back[0] = 1
            if stretch.object_ids:
                ends = stretch.present, present
                back = fuse(stretch.scores(index), stretch.object_ids, back, given.object_ids, nearness, ends)
            image = frame.image if given.config.refine != "none" else None
            number = given.frame_index - len(stretch) + index
            yield replace(given, frame_index=number, scores=back, given=None, given_ids=(), image=image)


def fuse(
    forward: Tensor,
    forward_ids: Sequence[int],
    backward: Tensor,
    backward_ids: Sequence[int],
    nearness: float,
    present: tuple[frozenset[int], frozenset[int]],
) -> Tensor:
    """Make one answer of two: each object from where it is nearer and surer.

    Args:
        forward: soft labels of the pass from the annotated frame before, ``(1 + len(forward_ids), h, w)``.
        forward_ids: its objects.
        backward: of the pass from the annotated frame after, ``(1 + len(backward_ids), h, w)``.
        backward_ids: its objects, among which are all of ``forward_ids``.
        nearness: to the frame after, in (0, 1).
        present: the objects seen in the frame before, and in the frame after. One that is not in such a frame has
            left or not yet come there: its pass is sure that it is nowhere. In another pass it was lost.

    Returns:
        ``(1 + len(backward_ids), h, w)``, objects as in ``backward_ids``. An object that one pass only knows is as that
        pass has it; the background is what objects leave.
    """
    sure = [
        dict(zip(ids, confidence(labels), strict=True))
        for ids, labels in ((forward_ids, forward), (backward_ids, backward))
    ]
    layers = []
    for place, object_id in enumerate(backward_ids, start=1):
        layer = backward[place]
        if object_id in forward_ids:
            before, after = (
                part * (known[object_id] if object_id in seen else 1.0)
                for part, known, seen in zip((1 - nearness, nearness), sure, present, strict=True)
            )
            share = after / (before + after) if before + after > 0 else nearness
            layer = (1 - share) * forward[1 + forward_ids.index(object_id)] + share * layer
        layers.append(layer)
    objects = torch.stack(layers)
    total = objects.sum(dim=0)
    return torch.cat([(1 - total).clamp_min(0)[None], objects / total.clamp_min(1)])
