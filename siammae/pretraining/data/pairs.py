"""Two frames of a clip, a random gap apart, cropped alike: what one training sample is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from siammae.clips.clip import Clip, Skipped, said
from siammae.clips.open_clip import OpenClip
from siammae.clips.skipped import check_share
from siammae.config import PretrainConfig
from siammae.frames import VideoEndError
from siammae.pretraining.data.crops import Pairs, collate, crop_pair
from siammae.pretraining.data.frame_cache import FrameCache, Frames
from siammae.pretraining.data.sources import check_clips


def draw_frames(rng: np.random.Generator, count: int, gap: tuple[int, int], step: int = 1) -> tuple[int, int]:
    """Draw the numbers (past, future) of a pair.

    Args:
        rng: source of randomness.
        count: frames of the clip.
        gap: least and largest distance in frames, inclusive; cut to what the clip allows.
        step: only multiples of it are drawn, and the gap is rounded to them, inwards where there is one.
    """
    kept = -(-count // step)
    low, high = -(-gap[0] // step), gap[1] // step
    low, high = (min(limit, kept - 1) for limit in (low, max(low, high)))
    distance = int(rng.integers(low, high, endpoint=True))
    past = int(rng.integers(0, kept - distance))
    return past * step, (past + distance) * step


class _Draw(NamedTuple):
    still: bool
    past: int
    future: int


class VideoPairs(Dataset[Pairs]):
    """Samples of an endless, reproducible stream of pairs.

    The stream visits all clips in a new order each epoch. What a position holds depends on the configuration and the
    clips only: not on workers, processes, the cache or what was read before. Shards hold the same as the videos they
    were made from: the same clips, frames and crops, and the same pixels where they were written as PNG and the
    videos are read with the shards' short side and reader.

    A single image gives still pairs, whatever ``config.still_share`` says, and takes nothing from the videos beside it.

    A clip that cannot be read is replaced by the next one that can; the sample names it. It is tried again at its next
    turn: other frames of it may be whole, and what was read before must not count.

    Args:
        clips: of :func:`siammae.clips.listing.find_clips`, in a fixed order.
        config: see :class:`siammae.PretrainConfig`.

    Raises:
        ValueError: all clips are images, but ``config.still_share`` is below 1.
        ImportError: ``config.reader`` is not installed.
    """

    def __init__(self, clips: Sequence[Clip], config: PretrainConfig) -> None:
        check_clips(clips, config)
        self.clips = list(clips)
        self.config = config
        self._skipped: dict[str, str] = {}
        self._declared: dict[int, tuple[int, int]] = {}  # frame counts as the headers state them, and steps
        self._lengths: dict[int, int] = {}  # true frame counts, where they are known
        self._cache = FrameCache(config.cache_mb * 2**20)
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: int) -> Pairs:
        """Return all pairs drawn from one clip.

        Args:
            position: place in the stream, from 0; ``position // len(clips)`` is the epoch.

        Returns:
            ``samples_per_video`` pairs, with the clips that were skipped for them.

        Raises:
            DatasetError: this process met more unreadable clips than ``config.max_skipped`` allows. It counts each
                once, and looks at those of a sample when the next one is asked for, so that whoever reads the samples
                can name them first.
        """
        check_share(self._skipped, len(self.clips), self.config.max_skipped)
        epoch, place = divmod(position, len(self.clips))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.config.seed, epoch)).permutation(len(self.clips)))
        first = int(self._order[1][place])
        skipped: list[Skipped] = []
        while True:
            number = (first + len(skipped)) % len(self.clips)
            rng = np.random.default_rng((self.config.seed, epoch, number, len(skipped)))
            try:
                return self._pairs(number, rng)._replace(skipped=tuple(skipped))
            except (OSError, ValueError, VideoEndError) as error:  # VideoReadError is an OSError
                skipped.append(Skipped(self.clips[number].name, said(error)))
                self._skipped.setdefault(*skipped[-1])
            check_share(dict(skipped), len(self.clips), self.config.max_skipped)

    @property
    def skipped(self) -> dict[str, str]:
        """Why clips could not be read so far, by this process."""
        return dict(self._skipped)

    def _pairs(self, number: int, rng: np.random.Generator) -> Pairs:
        with OpenClip(self.clips[number], self.config.reader, self.config.short_side) as clip:
            draws, frames = self._draw_and_read(number, clip, rng)
        pairs = []
        for still, past, future in draws:
            if frames[past].shape != frames[future].shape:
                sizes = f"{frames[past].shape[:2]} at frame {past}, {frames[future].shape[:2]} at frame {future}"
                raise ValueError(f"the frame size changes: {sizes}. Write the video anew with one size.")
            pairs.append(crop_pair(frames[past], frames[future], self.config, rng, still=still))
        return collate(pairs)

    def _draw_and_read(self, number: int, clip: OpenClip, rng: np.random.Generator) -> tuple[list[_Draw], Frames]:
        """Draw by the declared frame count; containers may lie, then draw again by the true one.

        The first draw never uses what was learnt before, so that the result does not depend on history.
        """
        share = 1.0 if self.clips[number].is_image else self.config.still_share
        least = 1 if share == 1 else 2  # frames of a clip
        if number not in self._declared:
            self._declared[number] = clip.count, clip.step
        declared, step = self._declared[number]
        if declared > (least - 1) * step:
            draws = self._draw(rng, declared, step, share)
            if max(draw.future for draw in draws) < self._lengths.get(number, declared):
                try:
                    return draws, self._read(number, clip, draws)
                except VideoEndError as end:
                    self._lengths[number] = end.frame_count
        if number not in self._lengths:
            self._lengths[number] = clip.measure()
        if (true := self._lengths[number]) <= (least - 1) * step:
            raise ValueError(f"a pair needs {least} frames, the clip has {-(-true // step)}.")
        draws = self._draw(rng, true, step, share)
        return draws, self._read(number, clip, draws)

    def _draw(self, rng: np.random.Generator, count: int, step: int, share: float) -> list[_Draw]:
        """Draw the frames of all pairs first, so that they are decoded in one pass."""
        draws = []
        for _ in range(self.config.samples_per_video):
            still = bool(rng.random() < share)  # drawn even where all are still, for what is drawn after it
            gap = (0, self.config.still_gap) if still else self.config.frame_gap
            draws.append(_Draw(still, *draw_frames(rng, count, gap, step)))
        return draws

    def _read(self, number: int, clip: OpenClip, draws: Sequence[_Draw]) -> Frames:
        wanted = sorted({frame for draw in draws for frame in (draw.past, draw.future)})
        return self._cache.read(number, clip, wanted)
