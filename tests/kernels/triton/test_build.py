"""The Triton kernels compiled for GPUs that are not there: what would fail at the launch, or be slow, is seen here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from siammae.kernels.triton.ops import _CONFIGS, _no_triton, choose_config

if (problem := _no_triton()) is not None:
    pytest.skip(problem, allow_module_level=True)
triton = pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]
MOST_STACK = 0  # bytes a thread: no kernel spills registers today


@pytest.fixture(scope="module")
def built():
    """Facts of every kernel, from a process of its own: the interpreter cannot share one with the compiler."""
    if not (Path(triton.__path__[0]) / "backends" / "nvidia" / "bin" / "nvdisasm").exists():
        pytest.skip("this build of Triton has no nvdisasm")
    command = [sys.executable, ROOT / "benchmarks" / "triton_static.py", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def environment():
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {**clean, "PYTHONPATH": str(ROOT)}


def test_kernels_are_built_for_three_architectures(built):
    assert len(built) == 3 * (2 + 4)
    assert {re.search(r"sm_\d+", name)[0] for name in built} == {"sm_80", "sm_90", "sm_100"}


def test_kernels_do_not_spill_registers(built):
    assert {name: facts["stack"] for name, facts in built.items() if facts["stack"] > MOST_STACK} == {}


def test_kernels_fit_into_the_shared_memory_of_their_device(built):
    for name, facts in built.items():
        assert facts["shared"] <= facts["limit"], name


def test_shared_memory_is_at_most_what_the_configuration_was_chosen_by(built):
    for name, facts in built.items():
        if name.startswith("best_of_part"):
            capability = divmod(int(name.rpartition("_")[2]), 10)
            config = choose_config(384 * (2 if "bf16" in name else 4), capability, facts["limit"])
            assert list(config.tile) == facts["config"][0]
            assert facts["shared"] <= config.shared_bytes(384 * (2 if "bf16" in name else 4), capability), name


def test_affinity_runs_on_tensor_cores(built):
    for name, facts in built.items():
        assert (facts["tensor_cores"] > 0) == name.startswith("best_of_part"), name


def test_affinity_needs_few_instructions_a_score_without_a_hit(built):
    for name in ("best_of_part bf16 sm_80", "best_of_part bf16 sm_90"):
        assert 4 < built[name]["paths"]["step"] < 24  # more would cost an H100 more than its matrix instructions


@pytest.mark.parametrize(
    ("row_bytes", "capability", "limit_kb", "number"),
    [
        (768, (8, 0), 163, 0),  # ViT-S in bfloat16
        (768, (9, 0), 227, 0),
        (768, (8, 9), 99, 1),
        (1536, (9, 0), 227, 2),  # ViT-S in float32, ViT-B in bfloat16
        (1536, (8, 0), 163, 2),
        (2048, (8, 0), 163, 3),
        (4096, (9, 0), 227, 4),
    ],
)
def test_choose_config_takes_the_first_that_fits(row_bytes, capability, limit_kb, number):
    assert choose_config(row_bytes, capability, limit_kb * 1024) == _CONFIGS[number]


def test_choose_config_finds_none_where_nothing_fits():
    assert choose_config(1 << 17, (9, 0), 227 * 1024) is None


def test_choose_config_loads_nothing_ahead_on_the_data_centre_blackwell():
    assert choose_config(768, (10, 0), 227 * 1024).stages == 1
    assert choose_config(768, (12, 0), 99 * 1024).stages == 2
