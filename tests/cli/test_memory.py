"""A computing command keeps the memory that it frees; a process of somebody else's is left alone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

import siammae.cli
from siammae.cli import memory

_FAULTS = """
import resource
import sys

from siammae.cli.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for turn in range(21):
    if turn == 1:  # the first array is new either way
        begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = bytearray(64 * 2**20)
    del array
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin)
"""


def _faults(what: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, what], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back so eagerly")
def test_freed_memory_is_used_again() -> None:
    assert _faults("keep") < 0.1 * _faults("leave")


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(memory.ctypes, "CDLL", missing)
    memory.keep_freed_memory()


def test_only_computing_commands_of_their_own_process_keep_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(siammae.cli, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(siammae.cli, "_run", lambda args: 0)
    command = ["propagate", "clip.mp4", "--mask", "mask.png", "-o", "out"]
    assert siammae.cli.main(command) == 0  # from somebody's Python
    assert not kept
    monkeypatch.setattr(sys, "argv", ["siammae", "formats"])
    siammae.cli.main()
    assert not kept
    monkeypatch.setattr(sys, "argv", ["siammae", *command])
    siammae.cli.main()
    assert kept == [True]
    capsys.readouterr()
