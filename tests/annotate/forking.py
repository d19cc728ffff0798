"""Runs commands in forked processes that have everything imported already: ``python -m tests.annotate.forking``.

A line of JSON, ``{"argv": [...], "log": path}``, begins a command and is answered by its process's number; a number is
answered by the exit code of that process.
"""

import json
import os
import sys

import torch

import siammae.annotate.server
import siammae.annotate.serving  # noqa: F401
from siammae.cli import main


def run(argv, log):
    """Be the command."""
    for number, suffix in ((1, "out"), (2, "err")):
        file = os.open(f"{log}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve():
    """Answer until the input ends."""
    torch.set_num_threads(1)
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            _, status = os.waitpid(asked, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201
        elif (pid := os.fork()) == 0:
            run(asked["argv"], asked["log"])
        else:
            print(pid, flush=True)  # noqa: T201


if __name__ == "__main__":
    serve()
