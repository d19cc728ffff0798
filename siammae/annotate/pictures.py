"""Frames for the browser: JPEGs, the neighbours of the one that is looked at made before they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from siammae.errors import SiamMAEError
from siammae.frames import encode_image
from siammae.frames.pyav_access import GivenUpError
from siammae.frames.random_access import FrameAccess

_CACHE_BYTES = 16_000_000
_QUALITY = 92  # of the JPEGs: what is drawn on should show no blocks
_AHEAD, BEHIND = 6, 4  # neighbours; those behind are decoded on the way to a frame, and stay where so many are kept


class Pictures:
    """Makes JPEGs of frames, keeps the last ones, and fetches neighbours in a thread of its own.

    Whoever waits for a frame comes first: a neighbour that takes long is given up for it.

    Args:
        frames: of the video.
    """

    def __init__(self, frames: FrameAccess) -> None:
        self._frames = frames
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()  # of what is kept, and of how many wait
        self._waiting = 0  # requests of frames that are looked at
        self._making = threading.Lock()  # one at a time: each takes some 20 MB for a frame of 1080p
        self._looked = -1  # the frame that is looked at
        # That frame, and how far it is from the one before, until it is seen to.
        self._wish: tuple[int, int] | None = None
        self._wished = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._prefetch, name="prefetch", daemon=True)
        self._thread.start()

    def jpeg(self, number: int) -> bytes:
        """Return a frame that is looked at.

        Raises:
            IndexError: there is none of this number.
            VideoReadError: it does not decode.
        """
        with self._comes_first():
            data = self._picture(number)
        self._look(number)
        return data

    def neighbour(self, number: int, looked: int) -> bytes | None:
        """Return a frame near the one that is looked at; None where it is not near any more, or somebody waits.

        Raises:
            IndexError: there is none of this number.
            VideoReadError: it does not decode.
        """
        self._look(looked)
        try:
            return self._picture(number, lambda: self._waiting > 0 or abs(number - self._looked) > BEHIND)
        except GivenUpError:
            return None

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """Return a frame that is looked at, RGB uint8 ``(H, W, 3)``.

        Raises:
            IndexError: there is none of this number.
            VideoReadError: it does not decode.
        """
        with self._comes_first():
            return self._frames.frame(number)

    def close(self) -> None:
        """End the thread."""
        with self._wished:
            self._closed = True
            self._wished.notify()
        self._thread.join()

    @contextmanager
    def _comes_first(self) -> Iterator[None]:
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def _look(self, number: int) -> None:
        with self._wished:
            if number != self._looked:
                self._wish, self._looked = (number, number - self._looked), number
                self._wished.notify()

    def _picture(self, number: int, given_up: Callable[[], bool] = lambda: False) -> bytes:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        with self._making:
            data = encode_image(self._frames.frame(number, given_up), "jpg", quality=_QUALITY)
        with self._lock:
            if number not in self._kept:
                self._kept[number] = data
                self._bytes += len(data)
            while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data

    def _prefetch(self) -> None:
        while (wish := self._next_wish()) is not None:
            number, step = wish
            # From a frame backwards: those were decoded on the way to it, or will be on the way to the first of them.
            behind = list(range(number - 1, number - 1 - BEHIND, -1))
            ahead = list(range(number + 1, number + 1 + _AHEAD))
            for near in ahead + behind if 0 < step <= _AHEAD else behind + ahead:
                if 0 <= near < self._frames.count:
                    try:
                        self._picture(near, self._other)
                    except (SiamMAEError, ValueError, IndexError, GivenUpError):
                        break  # whoever asks for it hears why

    def _other(self) -> bool:
        """Whether something else is wanted by now than the neighbours that are being fetched."""
        return self._wish is not None or self._waiting > 0 or self._closed

    def _next_wish(self) -> tuple[int, int] | None:
        """Wait for the next frame that is looked at; None at the end."""
        with self._wished:
            self._wished.wait_for(lambda: self._wish is not None or self._closed)
            wish, self._wish = self._wish, None
            return None if self._closed else wish
