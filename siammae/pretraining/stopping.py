"""How a run is asked to stop: Ctrl-C, or the signal of a scheduler that wants the machine back."""

from __future__ import annotations

import signal
import threading
from typing import Any

# SIGTERM and SIGUSR1 are what Slurm sends before it takes a machine away; Windows has no SIGUSR1.
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class StopRequest:
    """Turns the first stop signal into a wish to stop after the current step; a second one acts at once.

    Attributes:
        received: whether a signal has come.
    """

    def __enter__(self) -> StopRequest:
        self.received = False
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: object) -> None:
        self.received = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *_: object) -> None:
        self._restore()


def ignore_stop_signals(_: int) -> None:
    """Let the process that reads ahead go on: a terminal or a scheduler signals all, but the training process decides.

    A reader whose training process is gone ends by itself.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
