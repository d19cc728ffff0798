"""How a command ends: in one line and an exit code, whatever stops it."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from siammae.errors import SiamMAEError, StoppedError, printable

if TYPE_CHECKING:
    from types import FrameType

TRACEBACK = "SIAMMAE_TRACEBACK"
FAILED, BUG = 1, 70
# What only a mistake in siammae raises; anything else may come from an input or the machine.
_BUGS = (TypeError, AttributeError, LookupError, AssertionError, NameError, NotImplementedError)
_WITHOUT_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stops:
    """Turns the first stop signal into a KeyboardInterrupt, so that nothing half-written stays; then only Ctrl-C acts.

    A signal that is ignored stays so, as after nohup.

    Args:
        last: nothing comes after the command: a signal during Python's own end then ends it silently.

    Attributes:
        received: the first signal, or None.
    """

    def __init__(self, *, last: bool) -> None:
        self.received: int | None = None
        self._last = last
        self._previous: dict[int, Any] = {}
        self._reminder: threading.Timer | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._stop)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._again
        return self

    def __exit__(self, *_: object) -> None:
        if self._reminder is not None:  # the command has ended: what comes after it is not to be stopped
            self._reminder.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if self._last else handler)
        sys.unraisablehook = self._hook

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        for other in self._previous.keys() - {signal.SIGINT}:
            signal.signal(other, signal.SIG_IGN)  # systems send several, which would stop the cleaning up
        raise KeyboardInterrupt

    def _again(self, lost: Any) -> None:  # noqa: ANN401 -- sys.UnraisableHookArgs is no class
        """Stop once more where the signal came in a place, such as a destructor, from which Python raises nothing."""
        if self.received and issubclass(lost.exc_type, KeyboardInterrupt):
            self._reminder = threading.Timer(0.05, _thread.interrupt_main)
            self._reminder.start()
        else:
            self._hook(lost)


def open_closed_streams() -> None:
    """Open what the caller has closed, or the first file that is written would be taken for the standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 -- open to the end


def end(error: BaseException, command: str, received: int | None) -> int:
    """Say in one line what stopped a command; returns its exit code.

    Raises:
        BaseException: ``error`` itself, where it is an exit, or the user wants to see where it came from.
    """
    if received is not None or isinstance(error, KeyboardInterrupt):  # an import that is interrupted raises others
        said = str(error) if isinstance(error, KeyboardInterrupt) else ""
        received = received or (error.signal if isinstance(error, StoppedError) else None)
        _print(f"\nsiammae: {said or _stopped(received)}")
        return 128 + (received or signal.SIGINT)
    if isinstance(error, BrokenPipeError):
        _drop_output()
        return 141  # as the shell says of a program that SIGPIPE ended
    if not isinstance(error, Exception) or os.environ.get(TRACEBACK):
        raise error
    _drop_output()
    if isinstance(error, _BUGS):
        what = f"{type(error).__name__}: {_first_line(error)}"
        _print(f"siammae {command}: internal error: {what}. Please report it, with what {TRACEBACK}=1 shows.")
        return BUG
    _print(f"siammae {command}: error: {_described(error)}")
    return FAILED


def _stopped(received: int | None) -> str:
    name = signal.Signals(received or signal.SIGINT).name
    return "stopped" if name == "SIGINT" else f"stopped by {name}"


def _described(error: Exception) -> str:
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _WITHOUT_MEMORY):
        return f"not enough memory ({_first_line(error)}): a smaller input size, fewer frames or workers take less."
    if isinstance(error, RecursionError):
        return f"an input is nested too deeply ({_first_line(error)})."
    own = isinstance(error, SiamMAEError | ValueError | OSError | ImportError)
    return str(error) if own and str(error) else _first_line(error)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _print(text: str) -> None:
    with suppress(OSError):
        sys.stderr.write(printable(text, keep="\n") + "\n")
        sys.stderr.flush()


def _drop_output() -> None:
    """Let what is left to print go nowhere where it cannot be printed, or Python would complain at its own end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
