"""Reads damaged files in a process of its own: ``python -m tests.fuzz.worker KIND FIRST STOP FOLDER``.

Writes a line for each input to the standard output: its number and ``read``, ``refused``, or what it must not do.
"""

import contextlib
import logging
import os
import resource
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np

from siammae.errors import SiamMAEError
from tests.fuzz.kinds import KINDS

MEMORY = 1500 * 2**20  # bytes more than the imports take
CPU_SECONDS, SECONDS = 20, 300  # for one input; the second also where it waits


def main(kind, first, stop, folder):
    logging.disable()
    warnings.simplefilter("ignore")
    place, job = Path(folder) / f"{kind}-{first}", KINDS[kind]()
    baseline = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (baseline + MEMORY, baseline + MEMORY))
    for index in range(first, stop):
        rng = np.random.default_rng([list(KINDS).index(kind), index])
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        path = job.damage(rng, Path(folder) / kind, place)
        os.write(1, f"{index} ".encode())
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.alarm(SECONDS)
        outcome = _outcome(job, rng, path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        os.write(1, f"{outcome}\n".encode())
    shutil.rmtree(place, ignore_errors=True)
    os.write(1, f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}\n".encode())


def _outcome(job, rng, path):
    try:
        job.read(rng, path)
    except (SiamMAEError, ValueError, OSError):
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({path.name})"
    return "read"


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
