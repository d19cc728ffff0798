"""How results are written: whole or not at all, by one run at a time, and never over what siammae did not write.

A command claims its outputs before it begins to work: :func:`claim_files` or :func:`claim_folder`. Both refuse what
cannot be written, what another run is writing, what is an input, and results that are there already unless they may be
overwritten. Files then get their names through :func:`whole`.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PathLike = str | os.PathLike[str]

MARKER = ".siammae"  # in a folder of results: names of the files that siammae wrote there, one a line
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # that only writing meets, and that name no file
_KEPT = 50  # characters of a name in that of its temporary folder: names end at 255 bytes


@contextmanager
def whole(path: PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary name for a file or folder; what was made there gets its own name once the block has ended well.

    A file behind a symbolic link is replaced, and the link stays.

    Args:
        path: of the file or folder; missing folders above it are made.
        sync: see to it that a file is on the disk before it gets its name; False for one picture of many.

    Yields:
        A path in a hidden folder beside ``path``; nothing is there yet.

    Raises:
        ValueError: ``path`` is a device, a pipe or a socket.
        OSError: it cannot be written; names ``path`` where the system does not, as for a full disk.
    """
    import tempfile  # here: every command loads this module for its --help

    target = _target(Path(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path):
        begin = f"{_beginning(target)}{os.getpid()}-"
        scratch = Path(tempfile.mkdtemp(prefix=begin, suffix=".part", dir=target.parent))
        try:
            part = scratch / target.name
            yield part
            if sync and part.is_file():
                _sync(part)
            part.replace(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def claim_files(*paths: PathLike | None, inputs: Iterable[object] = (), overwrite: bool = False) -> Iterator[None]:
    """Hold files that this run is going to write, from before its work to its end.

    Args:
        *paths: of the files, which may not be there yet, nor their folders; None is left out.
        inputs: paths of what the run reads; other values and names of what is not there are left out.
        overwrite: whether files that are there may be replaced; inputs never are.

    Raises:
        ValueError: a path is given twice, is an input, a folder, a device or the like, or a file that is there.
        BlockingIOError: another run is writing it; says which.
        OSError: it cannot be written.
    """
    files = [Path(path) for path in paths if path is not None]
    known = [path for path in map(_existing, inputs) if path is not None]
    if twice := [file for index, file in enumerate(files) if any(_same(file, other) for other in files[:index])]:
        raise ValueError(f"{twice[0]} is the place of two outputs: give each its own.")
    with ExitStack() as held:
        for file in files:
            target = _target(file)
            if target.is_dir():
                raise ValueError(f"the output is {file}, which is a folder: it must be a file. Choose another name.")
            there = target.exists()
            if any(_same(target, path) or (there and _same(target.parent, path)) for path in known):
                raise ValueError(f"{file} is an input, and inputs are never overwritten. Choose another output.")
            held.enter_context(_lock(target, target.with_name(f"{_beginning(target)}lock")))
            if target.exists() and not overwrite:
                raise ValueError(f"{file} is there already: choose another output, or pass --overwrite.")
            _sweep(target.parent, re.escape(_beginning(target)) + r"\d+-\w+\.part")
        yield


class ResultFolder:
    """A folder of results that this run holds.

    Attributes: ``folder``, its path.
    """

    def __init__(self, folder: Path, names: re.Pattern[str]) -> None:
        self.folder, self._names = folder, names
        try:
            listed = (folder / MARKER).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            listed = []
        self._written = dict.fromkeys(listed)  # a set that keeps the order

    def path(self, name: str) -> Path:
        """Return the path of a file that is going to be written, and remember that it is siammae's."""
        if name not in self._written:
            with _naming(self.folder / MARKER), (self.folder / MARKER).open("a", encoding="utf-8") as marker:
                marker.write(f"{name}\n")
            self._written[name] = None
        return self.folder / name

    def wrote(self, name: str) -> bool:
        """Say whether siammae wrote a file of this name here, by the marker."""
        return name in self._written

    def results(self) -> list[str]:
        """Return the names of files as this run writes them, whoever wrote them."""
        return sorted(entry.name for entry in self.folder.iterdir() if self._names.fullmatch(entry.name))

    def clear(self) -> None:
        """Delete the results of earlier runs; files that siammae did not write stay."""
        old = [name for name in self._written if self._names.fullmatch(name) and "/" not in name]
        for name in old:
            (self.folder / name).unlink(missing_ok=True)
            del self._written[name]
        if old:
            with whole(self.folder / MARKER) as part:
                part.write_text("".join(f"{name}\n" for name in self._written), encoding="utf-8")


@contextmanager
def claim_folder(
    folder: PathLike,
    names: str,
    *,
    numbered: str | None = None,
    inputs: Iterable[object] = (),
    overwrite: bool = False,
) -> Iterator[ResultFolder]:
    """Hold a folder of results from before a run's work to its end.

    Args:
        folder: which may not be there yet; it goes again where nothing was written.
        names: a pattern of the names of all files that the run may write into it.
        numbered: a pattern of those of which there are as many as the video has frames. A file of such a name that
            siammae did not write would stand among the results, so it is refused even with ``overwrite``.
        inputs: see :func:`claim_files`.
        overwrite: whether results that are there may be replaced.

    Yields:
        The folder; old results are still there, until :meth:`ResultFolder.clear`.

    Raises:
        ValueError: the folder is a file, an input, or holds one; or it holds results.
        BlockingIOError: another run is writing there; says which.
        OSError: it cannot be written.
    """
    path, pattern = Path(folder), re.compile(f"{names}|{numbered}" if numbered else names)
    if (target := _target(path)).is_file():
        raise ValueError(f"the output is {path}, which is a file: it must be a folder. Choose another name.")
    for source in filter(None, map(_existing, inputs)):
        if _same(target, source) or (_same(target, source.parent) and pattern.fullmatch(source.name)):
            raise ValueError(f"{source} is an input, and inputs are never overwritten. Choose another output.")
    with _lock(target, target / f"{MARKER}.lock"):
        results = ResultFolder(path, pattern)
        there = results.results()
        if there and not overwrite:
            raise ValueError(f"{path} holds {there[0]} already: choose another output, or pass --overwrite.")
        if numbered and (alien := [name for name in there if re.fullmatch(numbered, name) and not results.wrote(name)]):
            raise ValueError(
                f"{path} holds {alien[0]}, which siammae did not write and which would stand among the results. "
                "Choose another output, or move it away."
            )
        _sweep(target, r"\..*\.\d+-\w+\.part")
        yield results


@contextmanager
def hold_folder(folder: PathLike, *, inputs: Iterable[object] = ()) -> Iterator[None]:
    """Hold a folder, as :func:`claim_folder`, for commands that have rules of their own about what is in it.

    Raises:
        ValueError: the folder is a file or an input.
        BlockingIOError: another run is writing there; says which.
        OSError: it cannot be written.
    """
    with claim_folder(folder, "(?!)", inputs=inputs):
        yield


@contextmanager
def _lock(output: Path, place: Path) -> Iterator[None]:
    """Hold a lock file, and so find out whether its folder can be written; folders made for it go if nothing came."""
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


def _sweep(folder: Path, pattern: str) -> None:
    """Delete temporary folders of runs that were killed; the caller holds the output, so no other run is using them."""
    for entry in folder.iterdir():
        if re.fullmatch(pattern, entry.name, re.DOTALL) and not _alive(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def _alive(name: str) -> bool:
    """Say whether the process that made a temporary folder is there; the folder may be a library call's."""
    process = int(name.rpartition(".part")[0].rpartition(".")[2].partition("-")[0])
    try:
        os.kill(process, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return process != os.getpid()


def _beginning(target: Path) -> str:
    return f".{target.name[:_KEPT]}."


def _target(path: Path) -> Path:
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


def _existing(value: object) -> Path | None:
    """Return the path of an input that is there."""
    if not isinstance(value, str | os.PathLike):
        return None
    try:
        return path if (path := Path(value)).exists() else None
    except (OSError, ValueError):
        return None  # a name that no file can have


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


@contextmanager
def _naming(path: PathLike) -> Iterator[None]:
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
