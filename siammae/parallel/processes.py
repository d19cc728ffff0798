"""Work in several processes of this machine: named errors, a clean stop, results that do not depend on order."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import torch

from siammae.errors import WorkerError


class Part(Protocol):
    """What is done in one go."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def cost(self) -> int:
        """Of what takes how long, compared with other parts."""
        ...


Tick = Callable[[], object]
_P = TypeVar("_P", bound=Part)
_T = TypeVar("_T")


class _Failure(NamedTuple):
    """An error as text: the error itself may not survive the way between processes."""

    message: str
    origin: str


class _Stopped(Exception):  # noqa: N818 -- not an error: ends a part half way
    """The parent wants no more results."""


def map_in_processes(
    work: Callable[[_P, Tick], _T], parts: Sequence[_P], *, workers: int, done: Callable[[_P], object]
) -> list[_T]:
    """Apply ``work`` to every part in fresh processes of one thread each; see :func:`each_in_processes`.

    Args:
        work: gets a part, and what to call after each frame; it must be picklable.
        parts: the costliest go first.
        workers: number of processes.
        done: called with each finished part.

    Returns:
        Results in the order of ``parts``.

    Raises:
        WorkerError: a part failed, a process died, or ``work`` cannot be sent to another process.
    """
    results: dict[int, _T] = {}
    costliest_first = sorted(range(len(parts)), key=lambda i: -parts[i].cost)
    finished = each_in_processes(work, [parts[i] for i in costliest_first], workers=min(workers, len(parts)))
    for place, result in finished:
        results[costliest_first[place]] = result
        done(parts[costliest_first[place]])
    return [results[i] for i in range(len(parts))]


def each_in_processes(
    work: Callable[[_P, Tick], _T],
    parts: Iterable[_P],
    *,
    workers: int,
    lost: Callable[[_P], _T] | None = None,
) -> Iterator[tuple[int, _T]]:
    """Apply ``work`` to every part in fresh processes of one thread each, and yield results as they come.

    When a part fails, on Ctrl-C, when the iterator is closed, or when this process is killed, the others stop after
    their current frame and clean up after themselves. Parts are taken from ``parts`` a few ahead of the work.

    Args:
        work: gets a part, and what to call after each frame; it must be picklable. :func:`worker_number` says in which
            process it is.
        parts: in the order in which they are begun.
        workers: number of processes.
        lost: makes the result of a part whose process died twice, the second time with nothing else at work: what a
            decoder's crash does. None raises for the first one that dies.

    Yields:
        The number of a part, counted from 0, and its result.

    Raises:
        WorkerError: a part failed, a process died, or ``work`` cannot be sent to another process.
    """
    pickled, waiting = _pickled(work), enumerate(parts)
    while True:
        pool: _Pool[_P, _T] = _Pool(pickled, workers, ahead=max(1, workers // 4))
        with pool:
            yield from pool.run(waiting)
        if not pool.broken:
            return
        if lost is None:
            raise WorkerError(
                "a worker process ended without a word, perhaps for want of memory: use fewer workers. A script that "
                'starts workers needs its main part under `if __name__ == "__main__":`.'
            )
        suspects = iter(pool.in_flight())
        while pool.broken:  # one by one, so that none dies of another's death
            pool = _Pool(pickled, 1, ahead=0)
            with pool:
                yield from pool.run(suspects)
            for number, part in pool.in_flight():
                yield number, lost(part)


class _Pool(Generic[_P, _T]):
    """Fresh processes, and the parts that they are at work on.

    Attributes:
        broken: whether a process died.
    """

    def __init__(self, work: bytes, workers: int, ahead: int) -> None:
        context = get_context("spawn")  # a forked process would inherit locked threads and a CUDA context it cannot use
        self._stop, numbers = context.Event(), context.SimpleQueue()
        for number in range(workers):
            numbers.put(number)
        self._most = workers + ahead  # some lie ready, so that no process waits
        self._pool = ProcessPoolExecutor(workers, context, _start, (work, self._stop, numbers))
        self._futures: dict[Future[Any], tuple[int, _P]] = {}
        self.broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)  # and wait: they are still cleaning up

    def submit(self, number: int, part: _P) -> None:
        """Begin a part."""
        try:
            self._futures[self._pool.submit(_run, part)] = number, part
        except BrokenProcessPool:
            self.broken = True
            lost: Future[Any] = Future()
            self._futures[lost] = number, part

    def run(self, waiting: Iterator[tuple[int, _P]]) -> Iterator[tuple[int, _T]]:
        """Begin parts, a few ahead, and yield results until there are no more or a process died."""
        for number, part in waiting:
            self.submit(number, part)
            if len(self._futures) >= self._most:
                yield from self._results()
            if self.broken:
                return
        while self._futures and not self.broken:
            yield from self._results()

    def _results(self) -> Iterator[tuple[int, _T]]:
        """Wait for a result or more, and yield them; stops where a process died."""
        for future in (
            [] if self.broken else sorted(wait(self._futures, return_when=FIRST_COMPLETED).done, key=self._number)
        ):
            number, part = self._futures[future]
            try:
                outcome = future.result()
            except BrokenProcessPool:
                self.broken = True
                continue
            del self._futures[future]
            yield number, _checked(part.name, outcome)

    def _number(self, future: Future[Any]) -> int:
        return self._futures[future][0]

    def in_flight(self) -> list[tuple[int, _P]]:
        """Return what was begun and did not end."""
        return sorted(self._futures.values(), key=lambda one: one[0])


def _pickled(work: Callable[..., Any]) -> bytes:
    """Pickle plainly: the pool itself would send tensors by way of shared memory, of which containers have little."""
    try:
        return pickle.dumps(work)
    except Exception as error:  # pickle raises nearly anything
        raise WorkerError(f"the model cannot be sent to worker processes ({error}): use workers=1.") from error


def _checked(name: str, outcome: _T | _Failure) -> _T:
    if isinstance(outcome, _Failure):
        error = WorkerError(f"{name}: {outcome.message}")
        error.add_note(outcome.origin)
        raise error
    return outcome


# ---------------------------------------------------------------- in the worker

_work: Callable[[Any, Tick], Any]
_tick: Tick
_place: int | None = None
_busy = threading.Lock()  # held during a part


def worker_number() -> int | None:
    """Return which of the processes this is, from 0; None where it is none of them."""
    return _place


def _start(work: bytes, stop: Any, numbers: Any) -> None:  # noqa: ANN401 -- their types depend on the context
    """Prepare a worker: one thread, and Ctrl-C is for the parent, which tells the workers."""
    global _work, _tick, _place
    _place = numbers.get()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    orphaned = threading.Event()
    threading.Thread(target=_leave_with_parent, args=(orphaned,), daemon=True).start()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # schedulers and terminals tell all
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: threading.Thread(target=_leave, args=(orphaned,), daemon=True).start())

    def tick() -> None:
        if stop.is_set() or orphaned.is_set():
            raise _Stopped

    _work, _tick = pickle.loads(work), tick


def _leave_with_parent(orphaned: threading.Event) -> None:
    """End this worker when the parent was killed and can tell it nothing."""
    if (parent := parent_process()) is not None:
        parent.join()
    _leave(orphaned)


def _leave(orphaned: threading.Event) -> None:
    """End this worker, once it has cleaned up."""
    orphaned.set()
    with _busy:
        os._exit(1)


def _run(part: Any) -> Any:  # noqa: ANN401 -- as work has it
    with _busy:
        try:
            return _work(part, _tick)
        except _Stopped:
            return None
        except Exception as error:
            return _Failure(str(error) or type(error).__name__, traceback.format_exc())
