"""Results made and written in a thread beside the work that they come from."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_PATIENCE = 0.1  # seconds after which who waits looks whether the other side is still there


class Beside:
    """Makes calls one after the other in a thread, in the order in which they are given.

    As a context: at its end all calls were made, also after an error of the work. After Ctrl-C and after an error of a
    call, the call that is being made ends, and those that wait are dropped.

    Args:
        waiting: calls that wait at most, at least 1; then :meth:`do` waits. So memory stays flat.
    """

    def __init__(self, waiting: int = 2) -> None:
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(waiting)
        self._error: BaseException | None = None
        self._dropped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="siammae-results", daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def do(self, call: Callable[[], object]) -> None:
        """Have a call made after those before it.

        Raises:
            BaseException: what an earlier call raised.
        """
        self._hand_over(call)
        if self._error is not None:
            raise self._error

    def _hand_over(self, call: Callable[[], object] | None) -> None:
        while self._error is None:  # with a limit, as Windows hears of Ctrl-C between two waits only
            try:
                self._calls.put(call, timeout=_PATIENCE)
            except queue.Full:
                continue
            return

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._dropped.is_set():
                continue
            try:
                call()
            except BaseException as error:  # raised again by who gave the calls
                self._error = error
                return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the calls; raise what one of them raised, unless there is an error already."""
        if error is not None and not isinstance(error, Exception):
            self._dropped.set()
        try:
            self._finish()
        except BaseException:
            self._dropped.set()
            self._finish()
            raise
        if error is None and self._error is not None:
            raise self._error

    def _finish(self) -> None:
        self._hand_over(None)
        while self._thread.is_alive():
            self._thread.join(_PATIENCE)
