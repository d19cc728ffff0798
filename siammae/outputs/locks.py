"""One run at a time: a file beside or in an output, which the run that writes it holds locked."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from siammae.outputs.temporary import twice


@contextmanager
def lock(output: Path, place: Path) -> Iterator[None]:
    """Hold a lock file, and so find out whether its folder can be written; folders made for it go if nothing came.

    Args:
        output: what is going to be written, for messages.
        place: of the lock file.

    Raises:
        BlockingIOError: another run holds it; says which.
        OSError: it cannot be written.
    """
    made = [folder for folder in place.parents if not folder.exists()]
    held: list[int] = []
    try:
        try:
            _take(output, place, held)
        except BlockingIOError:
            raise
        except OSError as error:
            above = next(folder for folder in place.parents if folder.exists())
            why = error.strerror if above.is_dir() else f"{above} is no folder"
            raise OSError(f"cannot write {output}: {why}. Choose another output.") from error
        yield
    finally:
        twice(lambda: _give_back(place, held, made))


def _give_back(place: Path, held: list[int], made: list[Path]) -> None:
    if held and held[0] in _held:  # else this is a forked process, which has let go
        place.unlink(missing_ok=True)  # before the lock is let go: who opens it from now on makes a new one
        _held.discard(held[0])
        os.close(held.pop())
    with suppress(OSError):  # there are results in it
        for folder in made:
            folder.rmdir()


_held: set[int] = set()  # descriptors that hold locks


def _let_go() -> None:
    """Let a forked process, such as one that reads ahead, have no share in the locks: it may outlive this one."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _take(output: Path, place: Path, held: list[int]) -> None:
    """Open and lock a file, and put its descriptor, which holds the lock, into a list: a signal may come any time."""
    while True:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = None
        try:
            handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
            if not _locked(handle):
                holder = os.read(handle, 1000).decode(errors="replace").strip() or "it does not say which"
                raise BlockingIOError(  # noqa: TRY301 -- it needs the handle
                    f"another run is writing {output} ({holder}): wait for its end, or choose another output."
                )
            if os.path.samestat(os.fstat(handle), place.stat()):  # else its holder has removed it in between
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
                _held.add(handle)
                held.append(handle)
                return
        except FileNotFoundError:
            pass  # whoever had made it or its folder has just removed it
        except BaseException:
            if handle is not None and handle not in held:
                os.close(handle)
            if not held:
                _drop(place)
            raise
        if handle is not None:
            os.close(handle)


def _drop(place: Path) -> None:
    """Remove a lock file that no run holds."""
    with suppress(OSError):
        handle = os.open(place, os.O_RDWR)
        if _locked(handle):
            place.unlink()
        os.close(handle)


def _locked(handle: int) -> bool:
    """Take the lock; systems without such locks always give it."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)  # some network file systems have no locks
    return True
