"""Training in other processes, started from a server that has loaded everything: a fraction of a second each."""

import multiprocessing
import os
import socket
import sys

import torch

from siammae.pretraining import pretrain

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["siammae.pretraining", __name__])


def _train(config, options, environment, results):
    torch.set_num_threads(1)
    os.environ.update(environment)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 -- gloo's and tqdm's chatter
    try:
        results.put((environment.get("RANK"), str(pretrain(config, device="cpu", **options))))
    except BaseException as error:
        results.put((environment.get("RANK"), error))
        raise


def start(config, *, environment=None, **options):
    """Begin a run in another process; returns the process and the queue that gets its folder or its error."""
    results = CONTEXT.Queue()
    process = CONTEXT.Process(target=_train, args=(config, options, environment or {}, results))
    process.start()
    return process, results


def start_together(configs, **options):
    """Begin one process for each configuration, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(configs))}
    return [
        start(config, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options)
        for rank, config in enumerate(configs)
    ]


def run_together(configs, **options):
    """Run one process for each configuration; returns what each gave: its folder or its error."""
    runs = start_together(configs, **options)
    given = [results.get(timeout=120)[1] for _, results in runs]
    for process, _ in runs:
        process.join(60)
        assert process.exitcode is not None
    return given
