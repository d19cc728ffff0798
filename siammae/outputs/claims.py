"""What a command is going to write, claimed before its work: held, writable, no input, and no one else's results."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath

from siammae.outputs.locks import lock
from siammae.outputs.temporary import PathLike, beginning, follow_link, naming, sweep, whole

MARKER = ".siammae"  # in a folder of results: names of the files that siammae wrote there, one a line
WAY_OUT = "choose another output, or allow that it is replaced (--overwrite, in Python overwrite=True)."


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
            target = follow_link(file)
            if target.is_dir():
                raise ValueError(f"the output is {file}, which is a folder: it must be a file. Choose another name.")
            there = target.exists()
            if any(_same(target, path) or (there and _same(target.parent, path)) for path in known):
                raise _is_input(file)
            held.enter_context(lock(target, target.with_name(f"{beginning(target)}lock")))
            if target.exists() and not overwrite:
                raise ValueError(f"{file} is there already: {WAY_OUT}")
            sweep(target.parent, target)
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
            with naming(self.folder / MARKER), (self.folder / MARKER).open("a", encoding="utf-8") as marker:
                marker.write(f"{name}\n")
            self._written[name] = None
        return self.folder / name

    def wrote(self, name: str) -> bool:
        """Say whether siammae wrote a file of this name here, by the marker, which may name a folder that it is in."""
        return any(str(path) in self._written for path in (PurePosixPath(name), *PurePosixPath(name).parents))

    def results(self) -> list[str]:
        """Return the names of files as this run writes them, whoever wrote them."""
        entries = self.folder.rglob("*") if "/" in self._names.pattern else self.folder.iterdir()
        names = (entry.relative_to(self.folder).as_posix() for entry in entries if not entry.is_dir())
        return sorted(name for name in names if self._names.fullmatch(name))

    def clear(self) -> None:
        """Delete the results of earlier runs; files that siammae did not write stay."""
        old = [name for name in self.results() if self.wrote(name)]
        for name in old:
            (self.folder / name).unlink(missing_ok=True)
            for above in list(PurePosixPath(name).parents)[:-1]:
                with suppress(OSError):  # there is more in it
                    (self.folder / above).rmdir()
        kept = {name: None for name in self._written if not self._names.fullmatch(name)}
        if kept != self._written:
            with whole(self.folder / MARKER) as part:
                part.write_text("".join(f"{name}\n" for name in kept), encoding="utf-8")
            self._written = kept


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
        names: a pattern of the names of all files that the run may write into it; with a ``/`` in it, of files at any
            depth, by their paths.
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
    if (target := follow_link(path)).is_file():
        raise ValueError(f"the output is {path}, which is a file: it must be a folder. Choose another name.")
    known = [path for path in map(_existing, inputs) if path is not None]
    for source in known:
        if _same(target, source):
            raise _is_input(source)
    with lock(target, target / f"{MARKER}.lock"):
        results = ResultFolder(path, pattern)
        there = results.results()
        places = {_identity(target / place) for name in there for place in (name, PurePosixPath(name).parent)}
        for source in known:
            if _identity(source) in places:
                raise _is_input(source)
        if there and not overwrite:
            raise ValueError(f"{path} holds {there[0]} already: {WAY_OUT}")
        if numbered and (alien := [name for name in there if re.fullmatch(numbered, name) and not results.wrote(name)]):
            raise ValueError(
                f"{path} holds {alien[0]}, which siammae did not write and which would stand among the results. "
                "Choose another output, or move it away."
            )
        for place in {target, *((target / name).parent for name in there)}:
            sweep(place)
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


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_input(path: Path) -> ValueError:
    return ValueError(f"{path} is an input, and inputs are never overwritten. Choose another output.")


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
