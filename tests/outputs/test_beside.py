"""Results made in a thread."""

import threading
import time
from functools import partial

import pytest

from siammae.outputs import Beside


def _alive():
    return [thread for thread in threading.enumerate() if thread.name == "siammae-results"]


def test_calls_are_made_in_their_order_and_all_of_them():
    done = []
    with Beside() as beside:
        for index in range(20):
            beside.do(partial(done.append, index))
    assert done == list(range(20))
    assert not _alive()


def test_who_gives_more_calls_than_may_wait_waits():
    started, go, given = threading.Event(), threading.Event(), []

    def slow():
        started.set()
        go.wait(10)

    def give():
        with Beside(waiting=2) as beside:
            for index in range(6):
                beside.do(slow)
                given.append(index)

    giver = threading.Thread(target=give)
    giver.start()
    started.wait(10)
    time.sleep(0.3)
    assert len(given) <= 4  # one is being made, two wait, and the one being handed over is not counted
    go.set()
    giver.join(10)
    assert given == list(range(6))


def test_an_error_reaches_who_gives_calls_and_ends_them():
    done = []

    def fail():
        raise OSError("disk full")

    def give():
        with Beside() as beside:
            beside.do(partial(done.append, 0))
            beside.do(fail)
            for index in range(1, 100):
                beside.do(partial(done.append, index))

    with pytest.raises(OSError, match="disk full"):
        give()
    assert done == [0]
    assert not _alive()


def test_an_error_of_the_last_call_is_not_lost():
    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Beside() as beside:
        beside.do(fail)
    assert not _alive()


def test_after_an_error_of_the_work_what_it_gave_is_still_made():
    done = []

    def broken():
        with Beside(waiting=3) as beside:
            for index in range(4):
                beside.do(partial(done.append, index))
            raise OSError("the video breaks off")

    with pytest.raises(OSError, match="breaks off"):
        broken()
    assert done == [0, 1, 2, 3]
    assert not _alive()


def test_after_ctrl_c_the_running_call_ends_and_waiting_ones_are_dropped():
    done, started = [], threading.Event()

    def slow():
        started.set()
        time.sleep(0.2)
        done.append("whole")

    def interrupted():
        with Beside(waiting=3) as beside:
            beside.do(slow)
            beside.do(partial(done.append, "dropped"))
            started.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["whole"]
    assert not _alive()
