"""What lies between two annotated frames is followed from both, and the two answers become one.

Frames are read and encoded once, in their order. What the way back needs of a frame, its features and its resized
image, waits on disk until the next annotated frame is there; memory does not grow with the video, and neither does the
disk, beyond the longest stretch between two annotated frames: 1.5 MB a frame with the bundled network at a short side
of 240 pixels, in float32. Frames are encoded whole here, whatever ``focus_margin`` says: both passes need them, and
each looking near its own objects was worse (benchmarks/several_annotated_frames.md).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siammae.frames import FrameSource
from siammae.propagation.affinity import FrameFeatures
from siammae.propagation.context import EncodedFrame

Frames = Iterable[NDArray[np.uint8]]


class _Soft(Protocol):
    """A result of a step: soft labels, and whatever else."""

    @property
    def scores(self) -> Tensor: ...


class _Encoder(Protocol):
    def encode(self, frame: FrameSource) -> EncodedFrame: ...


_P = TypeVar("_P", bound=_Encoder)  # the propagator
_R = TypeVar("_R", bound=_Soft)  # what its steps return


class Said(NamedTuple):
    """The last word of an annotated frame on an object or keypoint."""

    frame: int
    there: bool  # or it said that it is not there
    area: float = 0.0  # of an object, in cells of the label grid


class Between(NamedTuple, Generic[_R]):
    """A frame between two annotated ones, or before the first, with what both passes have to say."""

    number: int  # of the frame
    frame: EncodedFrame
    forward: tuple[Tensor, _R] | None  # soft labels, and a result of the same pass, which says of which objects
    backward: Tensor | None  # None: the annotated frame after has nothing to follow back
    given: _R  # of the annotated frame after
    before: Mapping[int, Said]  # what was said up to the annotated frame before
    after: Mapping[int, Said]  # what the annotated frame after says

    def weights(self, key: int, forward: float, backward: float) -> tuple[float, float]:
        """Return how much each pass counts for an object or keypoint: where it is nearer and surer, it counts more.

        Args:
            key: the object's id, or the keypoint's row.
            forward: confidence of the forward pass.
            backward: of the backward pass.

        Returns:
            The weight of what each pass saw. Their sum is 1, but where one of the frames said "not there": its pass saw
            nothing, and of the other one so much stays as the object is likely not to have left yet. It may have left
            at any time, with odds that a sure pass changes. What the frame after does not speak for is as the forward
            pass has it, and what only that one knows as the backward pass has it.
        """
        if key not in self.after:
            return 1.0, 0.0
        if key not in self.before:
            return 0.0, float(self.after[key].there)
        start, end = self.before[key], self.after[key]
        nearness = (self.number - start.frame) / (end.frame - start.frame)
        if start.there and end.there:
            share = _share(nearness * backward, (1 - nearness) * forward, nearness)
            return 1 - share, share
        if start.there:
            return _likely_there(forward, 1 - nearness), 0.0
        return 0.0, _likely_there(backward, nearness) * end.there


def _share(one: float, other: float, default: float) -> float:
    """Return the part of ``one`` in the sum; the default where both are 0."""
    return one / (one + other) if one + other > 0 else default


def _likely_there(confidence: float, nearness: float) -> float:
    """Return how likely an object is there between a frame that has it and one that has not.

    The odds are squared: masks of what is there seldom have a confidence below a half, those of what has left have
    little. Against plain odds that is worth 11 points of J&F on DAVIS's surf, which leaves in its last frame (first
    and last frame annotated), and 0 to 1 on bmx-bumps.
    """
    return _share(nearness * confidence**2, (1 - nearness) * (1 - confidence) ** 2, nearness)


class Kind(Protocol[_P, _R]):
    """What masks and keypoints each do in their own way."""

    @property
    def given(self) -> Collection[int]:
        """Numbers of the annotated frames."""
        ...

    def check(self, number: int, size: tuple[int, int]) -> None:
        """Refuse what is given for a frame if it does not fit frames of this size, ``(H, W)``."""
        ...

    def propagator(self) -> _P:
        """Return one that knows nothing yet."""
        ...

    def annotated(self, propagator: _P, frame: EncodedFrame, index: int) -> tuple[_R, dict[int, Said]]:
        """Take an annotated frame; returns what it says, too."""
        ...

    def plain(self, propagator: _P, frame: EncodedFrame) -> _R:
        """Take any other frame."""
        ...

    def after_all(self, propagator: _P, frame: NDArray[np.uint8], index: int) -> _R:
        """Take a frame after the last annotated one, which is followed as in a stream."""
        ...

    def turn(self, propagator: _P, frame: EncodedFrame, given: _R, index: int) -> bool:
        """Begin the way back at an annotated frame; False where it has nothing to follow."""
        ...

    def fused(self, between: Between[_R]) -> _R:
        """Make one result of what both passes say."""
        ...


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


class _Stretch(Generic[_R]):
    """The frames since an annotated one, or since the beginning: encoded, with the forward pass's labels of each."""

    def __init__(self, stack: ExitStack) -> None:
        self._encoded, self._scores = _Spool(stack), _Spool(stack)
        self._forward: _R | None = None  # the pass's last result; None before the first annotated frame
        self._size: tuple[int, int] = (0, 0)
        self._device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._encoded)

    def add(self, frame: EncodedFrame, forward: _R | None) -> None:
        """Keep a frame."""
        self._size, self._device = frame.size, frame.features.tensor.device
        self._encoded.add(frame.features.tensor.cpu().numpy(), frame.image)
        if forward is not None:
            self._scores.add(forward.scores.cpu().numpy())
            self._forward = forward

    def frame(self, place: int) -> EncodedFrame:
        """Return a frame again."""
        features, image = self._encoded[place]
        return EncodedFrame(self._size, FrameFeatures(self.tensor(features)), image.astype(np.uint8, copy=False))

    def forward(self, place: int) -> tuple[Tensor, _R] | None:
        """Return the forward pass's soft labels of a frame, if there is one."""
        return None if self._forward is None else (self.tensor(self._scores[place][0]), self._forward)

    def tensor(self, array: NDArray[np.generic]) -> Tensor:
        """Return an array on the features' device."""
        return torch.from_numpy(array).to(self._device)


def follow_both_ways(
    frames: Frames, kind: Kind[_P, _R], name: str, on_forward: Callable[[int, _R], None] | None = None
) -> Iterator[_R]:
    """Follow what is annotated on some frames through all, both ways in time.

    Args:
        frames: of the video, from frame 0.
        kind: masks or keypoints, with what was given.
        name: of what was given, for messages: ``"masks"``.
        on_forward: is told the number of each frame between two annotated ones and what the forward pass has to say of
            it, long before its result.

    Yields:
        One result a frame. Those between two annotated frames come when the second one was reached.

    Raises:
        ValueError: a number is negative or beyond the video's end, or what is given for a frame is refused.
    """
    wanted = sorted(kind.given)
    if not wanted or wanted[0] < 0:
        raise ValueError(f"{name} are of the frames {wanted}: they must be at least one, counted from 0.")
    forward, index = kind.propagator(), -1
    said: dict[int, Said] = {}
    with ExitStack() as stack:
        stretch = _Stretch[_R](stack)
        for index, frame in enumerate(frames):
            if index > wanted[-1]:
                yield kind.after_all(forward, frame, index)
                continue
            encoded = forward.encode(frame)
            if index == 0 and len(wanted) > 1:
                _check(kind, wanted, encoded.size)
            if index in kind.given:
                given, word = kind.annotated(forward, encoded, index)
                yield from _back(kind, stretch, Between(index, encoded, None, None, given, said, word))
                yield given
                stack.pop_all().close()
                said, stretch = said | word, _Stretch[_R](stack)
            else:
                ahead = kind.plain(forward, encoded) if said else None
                stretch.add(encoded, ahead)
                if on_forward is not None and ahead is not None:
                    on_forward(index, ahead)
    if index < wanted[-1]:
        raise ValueError(f"{name} are given for frame {wanted[-1]}, but the video ends at frame {index}.")


def _check(kind: Kind[_P, _R], numbers: Iterable[int], size: tuple[int, int]) -> None:
    """Refuse at the first frame what does not fit a later one, and say which."""
    for number in numbers:
        try:
            kind.check(number, size)
        except ValueError as error:
            raise ValueError(f"frame {number}: {error}") from error


def _back(kind: Kind[_P, _R], stretch: _Stretch[_R], end: Between[_R]) -> Iterator[_R]:
    """Follow a stretch back from the annotated frame at its end, then yield it in the video's order."""
    if not len(stretch):
        return
    with ExitStack() as stack:
        spool, backward = _Spool(stack), kind.propagator()
        turned = kind.turn(backward, end.frame, end.given, end.number)
        if turned:
            for place in reversed(range(len(stretch))):
                spool.add(kind.plain(backward, stretch.frame(place)).scores.cpu().numpy())
        for place in range(len(stretch)):
            back = stretch.tensor(spool[len(stretch) - 1 - place][0]) if turned else None
            yield kind.fused(
                end._replace(
                    number=end.number - len(stretch) + place,
                    frame=stretch.frame(place),
                    forward=stretch.forward(place),
                    backward=back,
                )
            )
