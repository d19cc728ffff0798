"""Objects from several annotated frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.annotations.masks import MaskSource, check_frame_size, mask_ids, read_mask
from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.propagation.affinity import Kernels
from siammae.propagation.context import EncodedFrame, Size
from siammae.propagation.keyframes.both_ways import Between, Frames, Said, follow_both_ways
from siammae.propagation.labels import FrameMasks, confidence
from siammae.propagation.propagator import Propagator

# A pass that has lost an object behind something often runs out over the ground, and is half sure of it. Beyond so many
# times the larger area of both annotated frames its confidence falls, by the power of the excess. On DAVIS's bmx-bumps
# (first, middle and last frame annotated) that is worth 15 points of J; six other sequences are as without it to 0.1.
_GROWTH = 2.0
_EXCESS = 4


@dataclass(frozen=True, slots=True)
class _Masks:
    """The walk's steps, for masks: see :class:`Kind`."""

    given: Mapping[int, MaskSource]
    object_ids: Sequence[int] | None
    extractor: FeatureExtractor
    config: PropagationConfig | None
    kernels: Kernels

    def check(self, number: int, size: Size) -> None:
        mask = self.given[number]
        stack = getattr(mask, "ndim", 2) == 3
        check_frame_size(read_mask(mask, object_ids=self.object_ids if stack else None), size, name="mask")

    def propagator(self) -> Propagator:
        return Propagator(self.extractor, self.config, kernels=self.kernels)

    def annotated(self, propagator: Propagator, frame: EncodedFrame, index: int) -> tuple[FrameMasks, dict[int, Said]]:
        result = propagator.step_encoded(frame, mask=self.given[index], object_ids=self.object_ids)
        present = mask_ids(result.label_map())
        areas = dict(zip(result.object_ids, result.scores[1:].sum(dim=(1, 2)).tolist(), strict=True))
        word = {key: Said(index, key in present, areas[key]) for key in result.given_ids}
        return replace(result, frame_index=index), word

    def plain(self, propagator: Propagator, frame: EncodedFrame) -> FrameMasks:
        return propagator.step_encoded(frame)

    def after_all(self, propagator: Propagator, frame: NDArray[np.uint8], index: int) -> FrameMasks:
        return replace(propagator.step(frame), frame_index=index)

    def turn(self, propagator: Propagator, frame: EncodedFrame, given: FrameMasks, index: int) -> bool:
        # As drawn and as followed: an object that this frame's mask does not speak for competes for pixels as well.
        labels = given.label_map()
        if present := bool(mask_ids(labels)):
            propagator.step_encoded(frame, mask=labels, object_ids=given.object_ids)
        return present

    def fused(self, between: Between[FrameMasks]) -> FrameMasks:
        given, backward = between.given, between.backward
        if backward is None:  # nothing is there any more: the background has all
            backward = torch.zeros_like(given.scores)
            backward[0] = 1
        scores = backward
        if between.forward:
            scores = fuse(between, *between.forward, backward)
        image = between.frame.image if given.config.refine != "none" else None
        return replace(given, frame_index=between.number, scores=scores, given=None, given_ids=(), image=image)


def follow_keyframes(
    frames: Frames,
    masks: Mapping[int, MaskSource],
    extractor: FeatureExtractor,
    config: PropagationConfig | None,
    *,
    object_ids: Sequence[int] | None = None,
    kernels: Kernels = "auto",
    on_forward: Callable[[FrameMasks], None] | None = None,
) -> Iterator[FrameMasks]:
    """Follow objects from several annotated frames, both ways in time.

    Args:
        frames: of the video, from frame 0.
        masks: frame number to mask, at least one; see :meth:`Propagator.step` for what a mask speaks for.
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends.
        object_ids: the ids that every mask speaks for; None = each for those it holds.
        kernels: backend of the affinity.
        on_forward: is given what the forward pass alone says of a frame between two annotated ones, as soon as it is
            there, for whoever wants to see the work.

    Yields:
        One :class:`FrameMasks` a frame. Those between two annotated frames come when the second one was reached.

    Raises:
        ValueError: a number is negative or beyond the video's end, or a mask is refused.
    """
    kind = _Masks(masks, object_ids, extractor, config, kernels)
    seen = None if on_forward is None else lambda number, result: on_forward(replace(result, frame_index=number))
    return follow_both_ways(frames, kind, "masks", seen)


def _kept(layer: Tensor, most: float) -> float:
    """Return what is left of a pass's confidence in an object that covers more cells than it may."""
    covered = int((layer > 0.5).sum())
    return min(1.0, most / covered) ** _EXCESS if covered else 1.0


def fuse(between: Between[FrameMasks], forward: Tensor, known: FrameMasks, backward: Tensor) -> Tensor:
    """Make one answer of two: each object from where it is nearer and surer.

    Args:
        between: the frame.
        forward: soft labels of the pass from the annotated frame before, ``(1 + its objects, h, w)``.
        known: a result of that pass.
        backward: of the pass from the annotated frame after, ``(1 + its objects, h, w)``, among which are all of the
            forward pass's.

    Returns:
        ``(1 + objects, h, w)`` as in ``backward``; the background is what objects leave.
    """
    ids = between.given.object_ids
    seen = dict(zip(known.object_ids, zip(forward[1:], confidence(forward), strict=True), strict=True))
    layers = []
    for object_id, layer, surely in zip(ids, backward[1:], confidence(backward), strict=True):
        if object_id in seen:
            first, sure = seen[object_id]
            said = (words[object_id] for words in (between.before, between.after) if object_id in words)
            most = _GROWTH * max((word.area for word in said), default=0.0)
            ahead, back = between.weights(object_id, sure * _kept(first, most), surely * _kept(layer, most))
            layers.append(ahead * first + back * layer)
        else:
            layers.append(layer)
    objects = torch.stack(layers)
    total = objects.sum(dim=0)
    return torch.cat([(1 - total).clamp_min(0)[None], objects / total.clamp_min(1)])
