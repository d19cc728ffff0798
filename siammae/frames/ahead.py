"""Frames decoded in a thread, a few ahead of who uses them: decoding then costs no time where another core is free."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T")
_PATIENCE = 0.1  # seconds after which a thread that waits looks whether it is still wanted


class _End(NamedTuple):
    error: BaseException | None


def read_ahead(frames: Iterator[NDArray[np.uint8]], *, count: int = 3) -> Generator[NDArray[np.uint8]]:
    """Take frames from an iterator in a thread of its own, in their order.

    For frames of a file. An iterator that somebody else wrote may mind in which thread it runs.

    Args:
        frames: a generator is closed in that thread when this ends or is closed.
        count: frames that wait at most, at least 1; one more is being read.

    Yields:
        The frames. What reading raises is raised here, after the frames before it.
    """
    ready: queue.Queue[NDArray[np.uint8] | _End] = queue.Queue(count)
    done = threading.Event()
    thread = threading.Thread(target=_read, args=(frames, ready, done), name="siammae-frames", daemon=True)
    thread.start()
    try:
        while True:
            frame = _get(ready)
            if isinstance(frame, _End):
                if frame.error is not None:
                    raise frame.error
                return
            yield frame
    finally:
        done.set()
        thread.join()


def _get(ready: queue.Queue[_T]) -> _T:
    while True:  # with a limit, as Windows hears of Ctrl-C between two waits only
        try:
            return ready.get(timeout=_PATIENCE)
        except queue.Empty:
            continue


def _read(
    frames: Iterator[NDArray[np.uint8]], ready: queue.Queue[NDArray[np.uint8] | _End], done: threading.Event
) -> None:
    end = _End(None)
    try:
        with closing(frames) if isinstance(frames, Generator) else nullcontext():
            for frame in frames:
                if not _put(ready, frame, done):
                    return
    except BaseException as error:  # raised again by who takes the frames
        end = _End(error)
    _put(ready, end, done)


def _put(ready: queue.Queue[NDArray[np.uint8] | _End], item: NDArray[np.uint8] | _End, done: threading.Event) -> bool:
    """Hand over; False where nobody wants it any more."""
    while not done.is_set():
        try:
            ready.put(item, timeout=_PATIENCE)
        except queue.Full:
            continue
        return True
    return False
