"""Frames read in a thread."""

import gc
import threading

import numpy as np
import pytest

from siammae.frames import read_ahead


def _numbered(count, log=None):
    try:
        for index in range(count):
            if log is not None:
                log.append(index)
            yield np.full((1, 1, 3), index, np.uint8)
    finally:
        if log is not None:
            log.append(threading.current_thread().name)


def _alive():
    return [thread for thread in threading.enumerate() if thread.name == "siammae-frames" and thread not in _others]


@pytest.fixture(autouse=True)
def _leave_out_others():
    """Whoever stopped in the middle of a video in an earlier test may still hold its thread."""
    _others[:] = [thread for thread in threading.enumerate() if thread.name == "siammae-frames"]


_others: list[threading.Thread] = []


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("ahead", [1, 3])
def test_frames_come_in_their_order(count, ahead):
    frames = read_ahead(_numbered(count), count=ahead)
    assert [int(frame[0, 0, 0]) for frame in frames] == list(range(count))
    assert not _alive()


def test_no_more_frames_are_read_than_may_wait():
    log = []
    frames = read_ahead(_numbered(50, log), count=2)
    next(frames)
    for _ in range(50):
        threading.Event().wait(0.01)
    assert len(log) <= 1 + 2 + 1
    frames.close()
    assert log[-1] == "siammae-frames"  # the generator was closed where it ran
    assert not _alive()


def test_an_error_comes_after_the_frames_before_it():
    def broken():
        yield from _numbered(3)
        raise OSError("the disk is gone")

    frames = read_ahead(broken())
    assert [int(next(frames)[0, 0, 0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(frames)
    assert not _alive()


def test_an_error_of_who_takes_the_frames_ends_the_thread():
    def interrupted():
        for _ in read_ahead(_numbered(50)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    gc.collect()  # the traceback held the frames
    assert not _alive()
