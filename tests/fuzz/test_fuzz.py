"""Damaged files of all kinds: each is read, or refused by an error that is meant; nothing else may happen.

Run by ``pytest -m slow tests/fuzz``. Every input has a number and always the same bytes:
``python -m tests.fuzz.worker KIND NUMBER NUMBER+1 FOLDER`` reads one again.
"""

import subprocess
import sys
from collections import Counter

import pytest

from tests.fuzz.kinds import KINDS

INPUTS = {"images": 10_000, "videos": 500, "checkpoints": 500, "shards": 500, "tables": 500}
BATCH = 500


def run_worker(kind, first, stop, folder):
    """Return the outcome of each input, by its number, and the worker's largest memory in MB."""
    argv = [sys.executable, "-m", "tests.fuzz.worker", kind, str(first), str(stop), str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    outcomes = {int(number): outcome for number, _, outcome in lines if number != "memory"}
    if done.returncode and not outcomes:
        pytest.fail(done.stderr[-2000:])
    for number, outcome in outcomes.items():
        if not outcome:
            outcomes[number] = f"ended the process with {done.returncode}"
    return outcomes, max([int(rest) for number, _, rest in lines if number == "memory"], default=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind, tmp_path, capsys):
    (tmp_path / kind).mkdir()
    KINDS[kind]().make(tmp_path / kind)
    outcomes, memory, first = {}, 0, 0
    while first < INPUTS[kind]:
        found, most = run_worker(kind, first, min(first + BATCH, INPUTS[kind]), tmp_path)
        outcomes |= found
        memory, first = max(memory, most), max(found) + 1
    counts = Counter(outcome if outcome in ("read", "refused") else "other" for outcome in outcomes.values())
    with capsys.disabled():
        sys.stdout.write(f"\n{kind}: {dict(counts)}, at most {memory} MB\n")
    assert len(outcomes) == INPUTS[kind]
    assert {number: outcome for number, outcome in outcomes.items() if outcome not in ("read", "refused")} == {}
    assert counts["read"] > 0
    assert counts["refused"] > 0


def test_an_input_that_ends_the_process_is_named(monkeypatch, tmp_path):
    ended = subprocess.CompletedProcess([], -11, "3 read\n4 refused\n5 ", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    outcomes, _ = run_worker("images", 3, 9, tmp_path)
    assert outcomes == {3: "read", 4: "refused", 5: "ended the process with -11"}
