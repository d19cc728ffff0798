"""Work in several processes of this machine: named errors, a clean stop, results that do not depend on order."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from siammae.errors import WorkerError
from siammae.evaluation.runs import Tick


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
    """Apply ``work`` to every part in fresh processes of one thread each.

    When a part fails, on Ctrl-C, or when this process is killed, the others stop after their current frame and clean up
    after themselves.

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
    context = get_context("spawn")  # a forked process would inherit locked threads and a CUDA context it cannot use
    stop = context.Event()
    start = (_pickled(work), stop)
    results: dict[int, _T] = {}
    with ProcessPoolExecutor(min(workers, len(parts)), context, _start, start) as pool:
        costliest_first = sorted(range(len(parts)), key=lambda i: -parts[i].cost)
        futures = {pool.submit(_run, parts[i]): i for i in costliest_first}
        try:
            for future in as_completed(futures):
                i = futures[future]
                results[i] = _checked(parts[i].name, future.result())
                done(parts[i])
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker process ended without a word, perhaps for want of memory: use fewer workers. A script that "
                'starts workers needs its main part under `if __name__ == "__main__":`.'
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)  # and wait: they are still cleaning up
    return [results[i] for i in range(len(parts))]


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
_busy = threading.Lock()  # held during a part


def _start(work: bytes, stop: Any) -> None:  # noqa: ANN401 -- an event's type depends on the context
    """Prepare a worker: one thread, and Ctrl-C is for the parent, which tells the workers."""
    global _work, _tick
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
