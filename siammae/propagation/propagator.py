"""Masks through a stream, one frame a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from siammae.annotations.masks import MAX_OBJECTS, MaskSource, check_frame_size, mask_ids, read_mask
from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.frames import FrameSource
from siammae.propagation.affinity import FrameFeatures, Kernels
from siammae.propagation.context import (
    ContextFrame,
    EncodedFrame,
    Size,
    StreamPropagator,
    in_turn,
)
from siammae.propagation.focus import Focus
from siammae.propagation.labels import FrameMasks, encode_mask, unit_sum


class Propagator(StreamPropagator):
    """Carries object masks through a stream, one frame a call, in memory that does not grow.

    Args:
        extractor: turns frames into features.
        config: the rules; None = what the extractor recommends, else the defaults.
        kernels: backend of the affinity.

    Raises:
        KernelUnavailableError: the backend asked for cannot run here.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((4, 48, 64, 3), np.uint8)
        >>> video[:, 16:32, 16:32] = 255  # a white square on black
        >>> mask = np.zeros((48, 64), np.uint8)
        >>> mask[16:32, 16:32] = 1
        >>> follow = siammae.Propagator(siammae.PixelExtractor())
        >>> for index, frame in enumerate(video):  # or frames from a camera
        ...     result = follow.step(frame, mask=mask if index == 0 else None)
        >>> follow.object_ids, result.label_map().shape
        ((1,), (48, 64))
    """

    def __init__(
        self, extractor: FeatureExtractor, config: PropagationConfig | None = None, *, kernels: Kernels = "auto"
    ) -> None:
        super().__init__(extractor, config, kernels=kernels)
        rules = self._stream.config
        self._stream.cells = rules.label_cells
        self._focus = None if rules.focus_margin is None else Focus(rules.focus_margin, rules.label_cells)
        self._ids: tuple[int, ...] = ()

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids followed now, in the order in which they came."""
        return self._ids

    @in_turn
    def reset(self) -> None:
        """Forget frames and objects; keep the model."""
        super().reset()
        if self._focus:
            self._focus.reset()
        self._ids = ()

    @in_turn
    def step(
        self, frame: FrameSource, *, mask: MaskSource | None = None, object_ids: Sequence[int] | None = None
    ) -> FrameMasks:
        """Take the next frame.

        A mask starts objects on the first frame; on a later frame it adds new objects and corrects known ones. It
        speaks only for the ids it holds (or ``object_ids``): all others are followed on, outside its pixels. The frames
        remembered from before learn of its objects by propagation backwards. A frame with a mask stays in the context
        for good, so each mask adds one frame to the memory.

        Args:
            frame: RGB; NumPy ``(H, W, 3)`` uint8, torch ``(3, H, W)`` or PIL.
            mask: see :func:`siammae.read_mask`; of the frame's size.
            object_ids: ids of a bool stack's layers; for an id map, the ids it speaks for, also absent ones.

        Returns:
            The frame's masks.

        Raises:
            RuntimeError: there was no mask yet, or another thread is at work in this propagator.
            ValueError: frame or mask are refused; nothing has changed then, and the frame may be given again.
        """
        rgb, size = self._stream.open_frame(frame)
        given = self._accept(mask, object_ids, size)
        return self._advance(self._stream.encode(rgb, None if mask is not None else self._focus), *given)

    @in_turn
    def encode(self, frame: FrameSource) -> EncodedFrame:
        """Make a frame's features without a step: for :meth:`step_encoded`, here or in another propagator."""
        return self._stream.encode(self._stream.open_frame(frame)[0])

    @in_turn
    def step_encoded(
        self, frame: EncodedFrame, *, mask: MaskSource | None = None, object_ids: Sequence[int] | None = None
    ) -> FrameMasks:
        """Take the next frame as :meth:`step` does, its features made before."""
        return self._advance(frame, *self._accept(mask, object_ids, frame.size))

    def _accept(
        self, mask: MaskSource | None, object_ids: Sequence[int] | None, size: Size
    ) -> tuple[NDArray[np.uint8] | None, tuple[int, ...]]:
        """Check what comes with a frame."""
        if mask is not None:
            return self._read(mask, object_ids, size)
        if object_ids is not None:
            raise ValueError(f"object_ids are {tuple(object_ids)} but there is no mask for them to describe: pass one.")
        if not len(self._stream.queue):
            raise RuntimeError("no mask yet: give a mask on the first frame, step(frame, mask=...).")
        return None, ()

    def _advance(self, frame: EncodedFrame, given: NDArray[np.uint8] | None, given_ids: tuple[int, ...]) -> FrameMasks:
        stream, features = self._stream, frame.features
        in_size = (frame.image.shape[0], frame.image.shape[1])
        scores = stream.propagate(features, frame.region) if len(stream.queue) else None
        if scores is not None and self._focus:
            scores = self._focus.keep_near(scores)
        if scores is not None and stream.config.normalize_labels:
            scores = unit_sum(scores)
        ids = (*self._ids, *(i for i in given_ids if i not in self._ids))
        if given is not None:
            scores = self._correct(scores, given, given_ids, ids, stream.label_grid(features), in_size)
            self._revise_past(features, scores, given_ids, ids)
        image = frame.image if stream.config.refine != "none" else None
        # From here on nothing is refused.
        self._ids = ids
        if self._focus:
            self._focus.learn(cast(Tensor, scores), given=given is not None)
        result = FrameMasks(
            stream.frame_index, ids, cast(Tensor, scores), frame.size, in_size, stream.config, given, given_ids, image
        )
        spoken_for = None if given is None else frozenset(given_ids)
        stream.close_frame(frame.size, ContextFrame(features, result.scores, spoken_for))
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
        if len(set(ids)) < len(ids) or any(not 1 <= i <= MAX_OBJECTS for i in ids):
            raise ValueError(f"object_ids are {ids}: they must be distinct, 1 to {MAX_OBJECTS}.")
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
        merged = _to_background(scores, given_ids, ids)  # where the mask denies an object, there is background
        merged *= (1 - drawn[1:].sum(dim=0)).clamp_min(0)
        merged[[1 + ids.index(i) for i in given_ids]] = drawn[1:]
        return merged

    def _revise_past(
        self, features: FrameFeatures, scores: Tensor, given_ids: Sequence[int], ids: tuple[int, ...]
    ) -> None:
        """Tell the frames before what a mask has shown, or they would outvote it in the next frame.

        To them a new object is background, and a corrected one is where it was wrongly followed; one that is said not
        to be there is nowhere. They get its labels from the mask's frame, as far as they have background there: other
        objects stay, and so do those that came with a frame's own mask.
        """

        def revised(past: ContextFrame) -> ContextFrame:
            late = [i for i in given_ids if i not in (past.given or ())]
            labels = _to_background(past.labels, late, ids)
            if late:
                channels = [1 + ids.index(i) for i in late]
                shares = self._stream.look_back(past, features, scores)[channels]
                labels[channels] = shares * labels[0]
                labels[0] *= (1 - shares.sum(dim=0)).clamp_min(0)
            return past._replace(labels=labels)

        self._stream.queue.change(revised)

    @in_turn
    def remove_object(self, object_id: int) -> None:
        """Stop following one object; its share of every remembered frame goes to the background.

        Raises:
            ValueError: the object is not followed.
        """
        if object_id not in self._ids:
            raise ValueError(f"object {object_id} is not followed: the ids are {list(self._ids)}.")
        channel = 1 + self._ids.index(object_id)

        def without(frame: ContextFrame) -> ContextFrame:
            labels = frame.labels
            background = labels[:1] + labels[channel : channel + 1]
            labels = torch.cat([background, labels[1:channel], labels[channel + 1 :]])
            return ContextFrame(frame.features, labels, None if frame.given is None else frame.given - {object_id})

        self._stream.queue.change(without)
        self._ids = tuple(i for i in self._ids if i != object_id)


def _to_background(labels: Tensor, objects: Sequence[int], ids: Sequence[int]) -> Tensor:
    """Return labels for all ``ids``, new ones last and empty, where the background has what ``objects`` had."""
    moved = F.pad(labels, (0, 0, 0, 0, 0, 1 + len(ids) - len(labels)))  # (1+ids, h, w), a copy
    channels = [1 + ids.index(i) for i in objects]
    moved[0] += moved[channels].sum(dim=0)
    moved[channels] = 0
    return moved
