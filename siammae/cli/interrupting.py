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
    Outside the main thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        heard.set()
        signal.default_int_handler(number, frame)

    def watch() -> None:
        while received := inner.recv(1):
            if received[0] == signal.SIGINT and not heard.wait(patience):
                os.write(2, b"\nsiammae: stopped within a long operation\n")
                os._exit(130)

    inner, outer = socket.socketpair()
    outer.setblocking(False)
    before, wakeup = signal.signal(signal.SIGINT, hear), signal.set_wakeup_fd(outer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
        outer.close()
        watcher.join()
        inner.close()
