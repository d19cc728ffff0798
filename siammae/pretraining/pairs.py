"""Two frames of a video, a random gap apart, cropped alike: what one training sample is."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from siammae.config import PretrainConfig
from siammae.errors import VideoReadError
from siammae.frames import PathLike, count_frames, read_frames, resize_frame
from siammae.pretraining.crops import Pairs, collate, crop_pair

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv")


def find_videos(source: PathLike) -> list[Path]:
    """List the videos of a folder, a list file or a single file.

    Args:
        source: a folder, searched with all its subfolders for video files; a ``.txt`` file with one path a line,
            relative to that file and inside its folder; or one video.

    Returns:
        Paths in sorted order (folder) or as listed.

    Raises:
        FileNotFoundError: the source or a listed file does not exist.
        ValueError: there is no video in it, or a listed path leaves the list's folder.
    """
    root = Path(source)
    if not root.exists():
        raise FileNotFoundError(f"no file or folder {root}: pass a folder of videos, a .txt list or a video.")
    if root.is_dir():
        videos = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    else:
        videos = _read_list(root) if root.suffix == ".txt" else [root]
    if not videos:
        raise ValueError(f"{root} holds no video: known are {', '.join(VIDEO_SUFFIXES)}.")
    return videos


def _read_list(file: Path) -> list[Path]:
    folder = file.parent.resolve()
    videos = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not (name := line.strip()) or name.startswith("#"):
            continue
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise ValueError(f"{file} lists {name!r}, which leaves {folder}. Put the list above the videos.")
        if not path.is_file():
            raise FileNotFoundError(f"{file} lists {name!r}, but there is no file {path}.")
        videos.append(path)
    return videos


def draw_frames(rng: np.random.Generator, count: int, gap: tuple[int, int]) -> tuple[int, int]:
    """Draw the indices (past, future) of a pair from a video of ``count`` >= 2 frames; the gap is cut to fit."""
    low, high = (min(limit, count - 1) for limit in gap)
    distance = int(rng.integers(low, high, endpoint=True))
    past = int(rng.integers(0, count - distance))
    return past, past + distance


class VideoPairs(Dataset[Pairs]):
    """Samples of an endless, reproducible stream of pairs.

    The stream visits all videos in a new order each epoch. What a position holds depends on the configuration and the
    videos only: not on workers, on the cache or on what was read before.

    Args:
        videos: paths, in a fixed order.
        config: see :class:`siammae.PretrainConfig`.
    """

    def __init__(self, videos: Sequence[Path], config: PretrainConfig) -> None:
        self.videos = list(videos)
        self.config = config
        self._broken: set[int] = set()
        self._declared: dict[int, int] = {}  # frame counts as the containers state them
        self._lengths: dict[int, int] = {}  # true frame counts, where they are known
        self._breaks: dict[int, str] = {}  # why a cached clip ends early
        self._cache: OrderedDict[int, list[NDArray[np.uint8]]] = OrderedDict()
        self._cached_bytes = 0
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: int) -> Pairs:
        """Return all pairs drawn from one video.

        Args:
            position: place in the stream, from 0; ``position // len(videos)`` is the epoch.

        Returns:
            ``samples_per_video`` pairs.

        Raises:
            ValueError: no video could be read at all.
        """
        epoch, place = divmod(position, len(self.videos))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.config.seed, epoch)).permutation(len(self.videos)))
        first = int(self._order[1][place])
        for offset in range(len(self.videos)):  # a broken video is replaced by the next one
            video = (first + offset) % len(self.videos)
            try:
                return self._pairs(video, np.random.default_rng((self.config.seed, epoch, video)))
            except (VideoReadError, ValueError, FileNotFoundError) as error:
                # Tried again at its next turn: other frames may be whole, and what was read before must not count.
                if video not in self._broken:
                    logger.warning("skipping %s: %s", self.videos[video], error)
                self._broken.add(video)
        raise ValueError(f"none of the {len(self.videos)} videos can be read: the log names them and the reasons.")

    @property
    def broken(self) -> list[Path]:
        """Videos of which wanted frames could not be read so far, by this process."""
        return [self.videos[index] for index in sorted(self._broken)]

    def _pairs(self, video: int, rng: np.random.Generator) -> Pairs:
        if video not in self._declared:
            self._declared[video] = count_frames(self.videos[video]) or 0
        declared = self._declared[video]
        pairs = []
        for _ in range(self.config.samples_per_video):
            still = bool(rng.random() < self.config.still_share)
            past, future = self._frames(video, declared, rng, (0, self.config.still_gap) if still else None)
            pairs.append(crop_pair(past, future, self.config, rng, still=still))
        return collate(pairs)

    def _frames(
        self, video: int, declared: int, rng: np.random.Generator, still_gap: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draw by the declared frame count; containers may lie, then draw again by the true one.

        The first draw never uses what was learnt before, so that the result does not depend on history.
        """
        gap = still_gap or self.config.frame_gap
        if declared >= 2:
            past, future = draw_frames(rng, declared, gap)
            if future < self._lengths.get(video, declared):
                try:
                    return self._read(video, past, future)
                except IndexError:
                    pass
        if video not in self._lengths:
            self._lengths[video] = sum(1 for _ in read_frames(self.videos[video]))
        if (true := self._lengths[video]) < 2:
            raise ValueError(f"a pair needs 2 frames, the video has {true}.")
        return self._read(video, *draw_frames(rng, true, gap))

    def _read(self, video: int, past: int, future: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return two frames; IndexError where the video ends before."""
        if self.config.cache_mb:
            clip = self._cached_clip(video)
            if future >= len(clip) and video in self._breaks:
                raise VideoReadError(self._breaks[video], frame_index=len(clip))
            return clip[past], clip[future]
        try:
            step = max(1, future - past)  # of one frame there is a single one
            frames = list(read_frames(self.videos[video], start=past, stop=future + 1, step=step))
        except ValueError as error:  # the video ends before the past frame
            raise IndexError(str(error)) from error
        return self._shrink(frames[0]), self._shrink(frames[-1])

    def _cached_clip(self, video: int) -> list[NDArray[np.uint8]]:
        if video not in self._cache:
            clip = []
            try:
                for frame in read_frames(self.videos[video]):
                    clip.append(self._shrink(frame))
                self._lengths[video] = len(clip)
            except VideoReadError as error:  # the frames before are good, as they are without a cache
                self._breaks[video] = str(error)
            self._cache[video] = clip
            self._cached_bytes += sum(frame.nbytes for frame in clip)
            while self._cached_bytes > self.config.cache_mb * 2**20 and len(self._cache) > 1:
                self._cached_bytes -= sum(frame.nbytes for frame in self._cache.popitem(last=False)[1])
        self._cache.move_to_end(video)
        return self._cache[video]

    def _shrink(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        short, (height, width) = self.config.short_side, frame.shape[:2]
        if short is None or min(height, width) <= short:
            return frame
        factor = short / min(height, width)
        return resize_frame(frame, (round(height * factor), round(width * factor)), interpolation="area")
