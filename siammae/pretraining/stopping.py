"""How a run is asked to stop: Ctrl-C, or the signal of a scheduler that wants the machine back."""

from __future__ import annotations

import signal
import threading
from typing import Any

# SIGTERM and SIGUSR1 are what Slurm sends before it takes a machine away, SIGHUP a terminal that closes; Windows lacks
# the last two.
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class StopRequest:
    """Turns the first stop signal into a wish to stop after the current step; a second one acts at once.

    A signal that is ignored stays so: nohup and shells do that to those that a command is not to hear.

    Attributes:
        received: the signal that has come, or None.
    """

    def __enter__(self) -> StopRequest:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: object) -> None:
        self.received = number
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
