"""Runs the tests of the Triton kernels in Triton's interpreter, which cannot share a process with its compiler."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from siammae.kernels.triton import ops as triton_ops

if (problem := triton_ops._no_triton()) is not None:
    pytest.skip(problem, allow_module_level=True)

FOLDER = Path(__file__).parent


def test_triton_kernels_in_the_interpreter_pass_the_tests_of_a_device():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("SIAMMAE_REQUIRE_GPU", None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        FOLDER / "test_gpu.py",
    ]
    result = subprocess.run(command, env=environment, cwd=FOLDER.parent.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 40
    assert int(re.search(r"(\d+) skipped", result.stdout)[1]) == 7  # full sizes, devices and streams
