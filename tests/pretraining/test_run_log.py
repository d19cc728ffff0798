import io

import pytest
import torch
from tqdm import tqdm

from siammae.distributed import Processes
from siammae.pretraining import run_log as run_log
from siammae.pretraining.run_log import RunLog
from tests.pretraining.runs import read_log, run_config


class Clock:
    """A clock that stands still until it is set forward."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run_log, "time", clock)
    return clock


class Kept:
    def __init__(self):
        self.lines = []

    def log(self, step, values):
        self.lines.append((step, dict(values)))


def new_journal(tmp_path, loggers=(), rank=0):
    config = run_config(output_dir=tmp_path, batch_size=8)
    return RunLog(config, Processes(rank, 1), tqdm(total=99, file=io.StringIO()), loggers)


def step(losses, number, clock, value=1.0, seconds=2.0):
    clock.now += seconds
    losses.add(number, {"loss": torch.tensor(value)}, 0.5)


def test_journal_writes_means_speed_and_waiting_of_ten_steps(tmp_path, clock):
    kept = Kept()
    losses = new_journal(tmp_path, [kept])
    for number in range(1, 11):
        losses.waited(0.5)
        step(losses, number, clock, value=float(number))
    line = {"loss": 5.5, "lr": 0.5, "pairs_per_second": 4.0, "waiting_for_data": 0.25}
    assert read_log(tmp_path) == [{"step": 10, **line}]
    assert kept.lines == [(10, line)]


def test_journal_leaves_what_is_done_aside_out_of_the_speed(tmp_path, clock):
    losses = new_journal(tmp_path)
    step(losses, 1, clock)
    with losses.aside():
        clock.now += 1000
    step(losses, 2, clock)
    losses.flush()
    losses.flush()  # nothing new
    assert [line["pairs_per_second"] for line in read_log(tmp_path)] == [4.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_journal_refuses_a_loss_that_is_not_finite(tmp_path, clock, value):
    losses = new_journal(tmp_path)
    step(losses, 3, clock, value=value)
    with pytest.raises(FloatingPointError, match=rf"the loss is {value} at step 3: lower base_lr \(now 5\.00e-01"):
        losses.flush()
    assert not (tmp_path / "log.jsonl").exists()


def test_journal_of_another_process_writes_nothing(tmp_path, clock):
    losses = new_journal(tmp_path, rank=1)
    step(losses, 10, clock)
    assert list(tmp_path.iterdir()) == []
