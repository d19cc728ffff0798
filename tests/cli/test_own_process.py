"""What a command does with its own process, memory kept and no compiler loaded; somebody else's is left alone."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import siammae.cli
from siammae.cli import own_process
from tests.videos import encode, numbered

_FAULTS = """
import resource
import sys

from siammae.cli.own_process import keep_freed_memory

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

    monkeypatch.setattr(own_process.ctypes, "CDLL", missing)
    own_process.keep_freed_memory()


def test_real_compiler_comes_where_more_is_wanted_than_two_names():
    program = """
from siammae.cli.own_process import without_compiler
with without_compiler():
    from torch._dynamo import disable
    from torch._dynamo.utils import is_compile_supported, counters
assert disable(len) is len and disable()(len) is len
assert is_compile_supported("cpu") in (True, False)
import sys
print(type(sys.modules["torch._dynamo.utils"]).__name__, type(counters).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module defaultdict\n"


def test_only_computing_commands_of_their_own_process_keep_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[bool] = []
    stands: list[bool] = []
    monkeypatch.setattr(siammae.cli, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(siammae.cli, "without_compiler", lambda: stands.append(True) or nullcontext())
    command = ["models"]
    assert siammae.cli.main(command) == 0  # from somebody's Python
    missing = ["propagate", "no.mp4", "--mask", "no.png", "-o", "out"]
    assert siammae.cli.main(missing) == 1
    assert not kept
    assert not stands
    monkeypatch.setattr(sys, "argv", ["siammae", *command])
    siammae.cli.main()
    assert not kept
    assert not stands
    monkeypatch.setattr(sys, "argv", ["siammae", *missing])
    assert siammae.cli.main() == 1
    assert kept == stands == [True]
    capsys.readouterr()


def test_a_command_loads_no_compiler(tmp_path: Path) -> None:
    video = encode(tmp_path / "a.mp4", numbered(3))
    mask = np.zeros(numbered(1)[0].shape[:2], np.uint8)
    mask[8:24, 8:24] = 1
    Image.fromarray(mask).save(tmp_path / "m.png")
    program = """
import sys
from siammae.cli import main
code = main()
print(code, [name for name in ("torch._dynamo", "triton", "sympy") if name in sys.modules])
"""
    argv = ["propagate", str(video), "--mask", str(tmp_path / "m.png"), "-o", str(tmp_path / "out"), "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 []"
