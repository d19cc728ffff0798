"""A Ray cluster does the work, through Ray Data: the only module that imports Ray."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siammae.corpus.manifest import Record
from siammae.corpus.work import Outcome, Part, Work, lost
from siammae.errors import WorkerError
from siammae.outputs.temporary import scratch_folder, sweep

# Videos of one task. A lost actor's task is done again, where results that are there are found; a million videos are
# 62,500 tasks, of which Ray keeps account.
_AT_ONCE = 16
_TASKS_EACH = 4  # at least so many for each worker, so that they end together
_DEATHS = 3  # of actors on one video, after which it is given up; Ray itself would try it for ever
_PATIENCE = 10.0  # seconds for a cluster to answer
_STORE = 128 * 2**20  # bytes of the object store of a local cluster: rows are a few hundred bytes


def load_ray() -> Any:  # noqa: ANN401 -- a module
    """Import Ray, which tells no one of its use.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # CPU work in an actor without a GPU must not hide the GPUs from what this process does later.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('the engine "ray" needs Ray Data: pip install "siammae[ray]".') from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


class RayEngine:
    """Rows are paths; the model lives in actors, which read videos and write results themselves.

    Every machine of the cluster needs siammae, the model, the videos and the output under the same paths. Rows wait in
    Ray Data's queues, whose length it bounds; frames and features never do. An actor that dies is started again and its
    videos are done again, of which those that have results are only found; a video on which three actors died is named.

    Args:
        workers: actors; None = one a CPU of the cluster, or one a GPU.
        device: ``"cuda"`` gives each actor a GPU.
        address: of a running cluster, ``"auto"`` for the one that this machine is in; None starts one here, unless Ray
            is connected to one already.
    """

    def __init__(self, workers: int | None, device: str, address: str | None) -> None:
        load_ray()
        self._workers, self._gpu, self._address = workers, device.startswith("cuda"), address

    def __call__(self, work: Work, parts: Sequence[Part]) -> Iterator[Outcome]:
        """Do the work; outcomes come as they are done."""
        ray = load_ray()
        notes = work.folder / "attempts"
        sweep(work.folder, notes, held=False)
        with _connected(ray, self._address, self._workers), scratch_folder(notes) as scratch:
            workers = min(self._workers or _usual(ray, gpu=self._gpu), len(parts))
            at_once = min(_AT_ONCE, max(1, len(parts) // (workers * _TASKS_EACH)))
            rows = [
                {"number": number, "path": part.path, "part": pickle.dumps(part)} for number, part in enumerate(parts)
            ]
            ray.data.DataContext.get_current().enable_progress_bars = False  # there is one of our own
            outcomes = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // at_once)).map_batches(
                Actor,
                fn_constructor_args=(pickle.dumps(work), str(scratch)),
                batch_size=at_once,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=0 if self._gpu else 1,
                num_gpus=1 if self._gpu else 0,
            )
            for row in outcomes.iter_rows():
                said = json.loads(row["outcome"])
                if said["error"] is not None:
                    raise WorkerError(f"{parts[row['number']].name}: {said['error']}")
                yield Outcome(Record(**said["record"]), said["made"])


class Actor:
    """A process of the cluster that works through videos, one after the other, with one torch thread.

    Args:
        work: pickled.
        notes: folder for what has been begun, by which deaths are counted.
    """

    def __init__(self, work: bytes, notes: str) -> None:
        torch.set_num_threads(1)
        self._work: Work = pickle.loads(work)
        self._notes = Path(notes)

    def __call__(self, batch: Mapping[str, NDArray[np.generic]]) -> dict[str, list[Any]]:
        """Work on some rows."""
        outcomes = [
            self._one(int(number), pickle.loads(bytes(part)))
            for number, part in zip(batch["number"], batch["part"], strict=True)
        ]
        return {"number": [int(number) for number in batch["number"]], "outcome": outcomes}

    def _one(self, number: int, part: Part) -> str:
        """Return an outcome as JSON; other errors as text, or Ray takes the block for lost."""
        note = self._notes / str(number)
        try:
            deaths = note.stat().st_size if note.exists() else 0
            if deaths >= _DEATHS:
                record, made = lost(part)
            else:
                with note.open("a") as file:  # a byte for each attempt
                    file.write(".")
                record, made = self._work(part, lambda: None)
            note.unlink(missing_ok=True)
        except Exception as error:
            return json.dumps({"error": str(error) or type(error).__name__})
        return json.dumps({"error": None, "record": asdict(record), "made": made})


def _usual(ray: Any, *, gpu: bool) -> int:  # noqa: ANN401 -- a module
    """Return how many workers the cluster has room for."""
    resource = "GPU" if gpu else "CPU"
    there = int(ray.cluster_resources().get(resource, 0))
    if there < 1:
        raise ValueError(f"the Ray cluster has no {resource}: add a node that has one, or choose another device.")
    return there


@contextmanager
def _connected(ray: Any, address: str | None, workers: int | None) -> Iterator[None]:  # noqa: ANN401 -- a module
    """Connect to a cluster, or start one on this machine; what the caller had connected stays so."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            ray.init(address="local", num_cpus=workers, include_dashboard=False, object_store_memory=_STORE, **quiet)
        else:
            _reach(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        where = "on this machine" if address is None else f"at {address!r}"
        raise WorkerError(f"no Ray cluster {where}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own handler would end the process with another code
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Refuse an address where nothing answers: Ray itself would try for minutes.

    Raises:
        OSError: nothing does.
        ValueError: the port is no number.
    """
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
