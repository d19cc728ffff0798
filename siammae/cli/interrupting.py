"""Ctrl-C during one long operation, of which Python hears only when it ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible(patience: float = 1.0) -> Iterator[None]:
    """End the process after Ctrl-C also where Python does not come to raise KeyboardInterrupt.

    A thread hears of the signal at once. If the main thread, deep in a matrix product, does not within ``patience``
    seconds, the process ends with code 130. What it was writing has a temporary name, which the next run removes.
    Outside the main thread, and where Ctrl-C is ignored, as after nohup or behind a ``&``, this does nothing.
    """
    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    heard = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        heard.set()
        # The handler of the whole command remembers the signal: what is raised here may come out as another error.
        (before if callable(before) else signal.default_int_handler)(number, frame)

    def watch() -> None:
        while received := inner.recv(1):
            if received[0] == signal.SIGINT and not heard.wait(patience):
                os.write(2, b"\nsiammae: stopped within a long operation\n")
                os._exit(130)

    before, wakeup = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    inner, outer = socket.socketpair()
    watcher = threading.Thread(target=watch, daemon=True)
    try:  # from here on, as signals may come at any time
        outer.setblocking(False)
        watcher.start()
        signal.set_wakeup_fd(outer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, hear)
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
        outer.close()
        if watcher.ident is not None:
            watcher.join()
        inner.close()
