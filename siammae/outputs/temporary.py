"""Names that results have until they are whole, and what is left of them after a run was killed."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PathLike = str | os.PathLike[str]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # that only writing meets, and that name no file
_KEPT = 50  # characters of a name in that of its temporary folder: names end at 255 bytes
_ENDING = r"(\d+)-([0-9a-f]+)-\w+\.part"  # after the beginning: of which process, on which machine
_in_use: set[str] = set()  # names of this process's own temporary folders


@contextmanager
def whole(path: PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary name for a file or folder; what was made there gets its own name once the block has ended well.

    A file behind a symbolic link is replaced, and the link stays. What killed runs left of the same file or folder is
    deleted.

    Args:
        path: of the file or folder; missing folders above it are made.
        sync: see to it that a file is on the disk before it gets its name. False for one picture of many: leftovers of
            those are deleted by whoever claims their folder, too.

    Yields:
        A path in a hidden folder beside ``path``; nothing is there yet.

    Raises:
        ValueError: ``path`` is a device, a pipe or a socket.
        OSError: it cannot be written; names ``path`` where the system does not, as for a full disk.
    """
    target = follow_link(Path(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if sync:
        sweep(target.parent, target, held=False)
    with naming(path), scratch_folder(target) as scratch:
        part = scratch / target.name
        yield part
        if sync and part.is_file():
            _sync(part)
        part.replace(target)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Make a hidden folder beside a file or folder, for the time of the block."""
    name = f"{beginning(target)}{os.getpid()}-{_machine()}-{os.urandom(4).hex()}.part"
    scratch = target.with_name(name)
    try:  # a signal may come at any time
        _in_use.add(name)
        scratch.mkdir(0o700)
        yield scratch
    finally:
        twice(lambda: shutil.rmtree(scratch, ignore_errors=True))
        _in_use.discard(name)


def twice(clean: Callable[[], object]) -> None:
    """Clean up, once more from the beginning where a signal stopped that."""
    try:
        clean()
    except KeyboardInterrupt:
        clean()
        raise


def beginning(target: Path) -> str:
    """Return how the names of a result's temporary folders and lock begin."""
    return f".{target.name[:_KEPT]}."


def sweep(folder: Path, target: Path | None = None, *, held: bool = True) -> None:
    """Delete temporary folders that killed runs left in a folder.

    Args:
        folder: that is searched, but not what is below it.
        target: whose they are; None = anyone's.
        held: whether no other run can be using them; else those of other machines stay, as no one here can tell.
    """
    pattern = (r"\..*\." if target is None else re.escape(beginning(target))) + _ENDING
    for entry in folder.iterdir():
        found = re.fullmatch(pattern, entry.name, re.DOTALL)
        if found and (held or found[2] == _machine()) and not _is_alive(int(found[1]), entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):x}"


def _is_alive(process: int, name: str) -> bool:
    """Say whether the process that made a temporary folder still has it; numbers of processes are used again."""
    if process == os.getpid():
        return name in _in_use
    try:
        os.kill(process, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return True


def follow_link(path: Path) -> Path:
    """Return what a symbolic link leads to.

    Raises:
        ValueError: it is neither a file nor a folder.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise ValueError(
            f"{path} is a device, a pipe or a socket: results are written to files. Choose another output."
        )
    return target


@contextmanager
def naming(path: PathLike) -> Iterator[None]:
    """Add the file's name to errors of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = os.fspath(path)
        raise


def _sync(part: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
