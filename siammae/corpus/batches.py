"""A video's features, some frames at a time: memory does not grow with the video."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from siammae.clips.clip import Clip
from siammae.clips.open_clip import OpenClip
from siammae.config import ExtractionConfig
from siammae.corpus.models import Model, load_model
from siammae.errors import VideoReadError
from siammae.features import FeatureExtractor
from siammae.frames import Backend, VideoEndError, VideoSource, count_frames, frame_rate, open_reader, read_frames

FAR = 2**62  # frames: more than any video has


def extract_batches(
    video: VideoSource,
    *,
    model: Model = "siammae-ti8",
    config: ExtractionConfig | None = None,
    **changes: Any,  # noqa: ANN401 -- fields
) -> Iterator[Tensor]:
    """Yield a video's features batch by batch; no more than one batch is ever in memory.

    Args:
        video: any source of :func:`siammae.read_frames`.
        model: an extractor, or the name of one.
        config: which frames, and what of them; how they are stored does not matter here.
        **changes: fields of :class:`siammae.ExtractionConfig`, instead of ``config`` or on top of it.

    Yields:
        ``(B, C, h, w)`` on the model's device, in its dtype; pooled, ``(B, C)``. B is ``config.batch_size``, less in
        the last one.

    Raises:
        ValueError: a setting is out of range or unknown to the model, or frames are refused.
        VideoReadError: the video cannot be decoded.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((5, 48, 64, 3), np.uint8)
        >>> for batch in siammae.extract_batches(video, model=siammae.PixelExtractor(), batch_size=2):
        ...     print(tuple(batch.shape))
        (2, 192, 6, 8)
        (2, 192, 6, 8)
        (1, 192, 6, 8)
    """
    settings = (config or ExtractionConfig()).replace(**changes)
    if settings.pca is not None:
        raise ValueError(f"pca is {settings.pca}: batches have all channels. Use extract_to, or fit what you need.")
    frames = read_frames(
        video, start=settings.start, stop=settings.stop, step=settings.every, reader=cast(Backend, settings.reader)
    )
    return encode(frames, load_model(model), settings)


def encode(frames: Iterable[NDArray[np.uint8]], model: FeatureExtractor, config: ExtractionConfig) -> Iterator[Tensor]:
    """Turn frames into batches of features, see :func:`extract_batches`."""
    options = options_of(model, config)
    stream = iter(frames)
    size: tuple[int, ...] = ()
    while batch := list(islice(stream, config.batch_size)):
        features = model.extract(batch, batch_size=config.batch_size, **options)
        if config.pool == "mean":
            features = features.float().mean(dim=(2, 3))
        if size and tuple(features.shape[1:]) != size:
            raise ValueError(f"the frames change their size: features of {size} became {tuple(features.shape[1:])}.")
        size = tuple(features.shape[1:])
        yield features


def options_of(model: FeatureExtractor, config: ExtractionConfig) -> dict[str, Any]:
    """Return the options of ``model.extract`` that the settings mean.

    Raises:
        ValueError: the model does not have one of them, or no such block.
    """
    options: dict[str, Any] = {}
    check_layer = getattr(model, "check_layer", None) or getattr(getattr(model, "encoder", None), "check_layer", None)
    if check_layer:
        check_layer(config.layer)
    if config.short_side is not None:
        options["resize"] = config.short_side
    if config.layer != -1:
        options["layer"] = config.layer
    if not config.norm:
        options["norm"] = False
    if config.pool == "cls":
        if "cls" not in getattr(model, "extract_options", ()):
            raise ValueError(f"pool is 'cls', but {type(model).__name__} has no CLS token: use pool='mean'.")
        options["cls"] = True
    known = inspect.signature(model.extract).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in known.values())
    if unknown := [name for name in options if name not in known and not takes_any]:
        raise ValueError(f"{type(model).__name__} has no option {unknown[0]}: leave it as it is.")
    return options


class ClipFrames:
    """The frames of one clip that the settings choose, whatever the clip is.

    Args:
        clip: of :func:`siammae.clips.listing.find_clips`.
        config: which frames.
    """

    def __init__(self, clip: Clip, config: ExtractionConfig) -> None:
        self._clip, self._config = clip, config
        self._whole = clip.kind != "shard" and clip.start is None and clip.stop is None
        self._reader = cast(Backend, config.reader)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Read them.

        Raises:
            OSError, ValueError: as :func:`siammae.read_frames`.
        """
        wanted = self._config
        if self._whole:
            yield from read_frames(
                self._clip.path, start=wanted.start, stop=wanted.stop, step=wanted.every, reader=self._reader
            )
            return
        count = 0
        with OpenClip(self._clip, self._reader) as opened, suppress(VideoEndError):
            step = opened.step
            stop = FAR if wanted.stop is None else wanted.stop
            for _, frame in opened.frames(range(wanted.start * step, stop * step, wanted.every * step)):
                count += 1
                yield frame
        if not count:
            raise VideoReadError(f"{self._clip.name} has no frame {wanted.start} to start at: it ends before.")

    def count(self) -> int | None:
        """Return how many there are by the headers, None where they say nothing."""
        if self._whole:
            total = count_frames(self._clip.path, reader=self._reader)
        else:
            with OpenClip(self._clip, self._reader) as opened:
                total = -(-opened.count // opened.step)
        return None if not total else chosen(total, self._config)

    def size(self) -> tuple[int, int]:
        """Return the frames' size by the header where it says so, else the first frame's; perhaps not turned upright.

        Raises:
            OSError, ValueError: as :func:`siammae.read_frames`.
        """
        if self._clip.kind == "video":
            with closing(open_reader(self._clip.path, self._reader)) as opened:
                said: tuple[int, int] | None = getattr(opened, "frame_size", None)
            if said is not None and min(said) > 0:
                return said
        first = next(self.frames())
        return first.shape[0], first.shape[1]

    def rate(self) -> float | None:
        """Return the video's own frames per second, None where they are not told."""
        if self._whole:
            return frame_rate(self._clip.path, reader=self._reader)
        with OpenClip(self._clip, self._reader) as opened:
            return opened.frame_rate or None


def chosen(total: int, config: ExtractionConfig) -> int:
    """Return how many of so many frames the settings choose."""
    return len(range(config.start, total if config.stop is None else min(total, config.stop), config.every))
