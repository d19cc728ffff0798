"""What goes wrong during a run: it ends, with its state saved, its readers gone and one line that says why."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from siammae.errors import DatasetError, WorkerError
from siammae.outputs import hold_folder
from siammae.pretraining import pretrain
from siammae.pretraining.data import pairs
from siammae.pretraining.data.batches import _readers
from siammae.pretraining.learner import Learner
from tests.pretraining.runs import make_clips, read_log, run_config, same_weights, saved_step
from tests.pretraining.test_trainer import PowerCut, interrupt_after
from tests.pretraining.together import run_together, start


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """The model of an uninterrupted run of 8 steps."""
    return pretrain(run_config(clips, tmp_path_factory.mktemp("whole")), device="cpu")


def kill_a_reader():
    reader = multiprocessing.active_children()[0]
    os.kill(reader.pid, signal.SIGKILL)
    while reader.is_alive():
        time.sleep(0.01)


def test_run_whose_reader_is_killed_ends_saves_its_state_and_goes_on(clips, whole, tmp_path, monkeypatch, caplog):
    config = run_config(clips, tmp_path, epochs=4, workers=2)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, kill_a_reader)
        with pytest.raises(
            WorkerError, match=r"a process that reads ahead was lost \(.*\), perhaps for want of memory"
        ):
            pretrain(config, device="cpu")
    assert multiprocessing.active_children() == []
    assert saved_step(tmp_path) in (2, 3, 4, 5, 6)  # what was read already is learnt
    assert same_weights(pretrain(config, device="cpu", resume=tmp_path), whole)


def test_death_of_a_reader_is_not_noticed_before_the_next_batch(clips, tmp_path, monkeypatch):
    """PyTorch's handler raises wherever the main thread is, which would be in the middle of a step."""
    handler, seen = signal.getsignal(signal.SIGCHLD), []

    def act():
        kill_a_reader()
        time.sleep(0.05)
        seen.append("still there")

    with monkeypatch.context() as patch:
        interrupt_after(patch, 1, act)
        with pytest.raises(WorkerError):
            pretrain(run_config(clips, tmp_path, workers=1), device="cpu")
    assert seen == ["still there"]
    assert signal.getsignal(signal.SIGCHLD) is handler or callable(signal.getsignal(signal.SIGCHLD))


@pytest.mark.parametrize("workers", [0, 1])
def test_error_of_a_reader_comes_as_its_own_kind_in_one_line(clips, tmp_path, monkeypatch, workers):
    for error, kind, message in (
        (DatasetError("too many"), DatasetError, "too many"),
        (KeyError("a"), WorkerError, "reading failed: KeyError: 'a'"),
    ):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(pairs, "check_share", fail)
        output = tmp_path / kind.__name__
        with pytest.raises(kind, match=message) as caught:
            pretrain(run_config(clips, output, workers=workers), device="cpu")
        assert str(caught.value) == message
        assert multiprocessing.active_children() == []
        assert saved_step(output) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_error_in_a_step_ends_the_readers_and_saves_what_was_learnt(
    clips, whole, tmp_path, monkeypatch, caplog, workers
):
    def fail():
        raise RuntimeError("no room on the device")

    config = run_config(clips, tmp_path, workers=workers)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4, fail)  # before the step counts
        with pytest.raises(RuntimeError, match="no room on the device"):
            pretrain(config, device="cpu")
    assert multiprocessing.active_children() == []
    assert "the state of step 3 is saved: resume goes on" in caplog.text


def test_error_between_two_halves_of_a_step_is_never_saved(clips, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("lost the device")

    monkeypatch.setattr(Learner, "update_average", fail)
    with pytest.raises(RuntimeError, match="lost the device"):
        pretrain(run_config(clips, tmp_path), device="cpu")
    assert saved_step(tmp_path) is None


def test_run_on_a_full_disk_ends_leaves_no_part_and_goes_on(clips, whole, tmp_path, monkeypatch, full_disk, caplog):
    config = run_config(clips, tmp_path, checkpoint_every=2)
    with monkeypatch.context() as patch, ExitStack() as ends_with_the_run:
        interrupt_after(patch, 3, lambda: ends_with_the_run.enter_context(full_disk(10_000)))
        with pytest.raises((OSError, RuntimeError)):
            pretrain(config, device="cpu")
    assert "the state of step 4 cannot be saved (" in caplog.text
    assert "resume from the one before" in caplog.text
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-00000002.pt"]
    assert same_weights(pretrain(config, device="cpu", resume=tmp_path), whole)


def test_readers_that_ignore_all_signals_end_with_the_block(clips):
    from torch.utils.data import DataLoader, Dataset

    class Slow(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, _):
            time.sleep(600)

    loader = DataLoader(Slow(), num_workers=2, worker_init_fn=trainer_ignores)
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), _readers(loader):
        raise ZeroDivisionError
    assert time.monotonic() - started < 20
    assert multiprocessing.active_children() == []


def trainer_ignores(_):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def test_hangup_stops_a_run_but_not_one_under_nohup(clips, whole, tmp_path, monkeypatch):
    config = run_config(clips, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3, lambda: os.kill(os.getpid(), signal.SIGHUP))
        with pytest.raises(KeyboardInterrupt, match="stopped at step 3 of 8"):
            pretrain(config, device="cpu")
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch:
            interrupt_after(patch, 2, lambda: os.kill(os.getpid(), signal.SIGHUP))
            assert same_weights(pretrain(config, device="cpu", resume="auto"), whole)
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_command_whose_reader_is_killed_ends_with_one_line(clips, tmp_path):
    """In a process of its own: the end of Python, where it used to wait, is part of it."""
    config = f"run_config({str(clips)!r}, {str(tmp_path / 'run')!r}, epochs=100_000, workers=2)"
    script = (
        "import multiprocessing, os, signal, sys\n"
        "from siammae.pretraining import pretrain, trainer\n"
        "from tests.pretraining.runs import run_config\n"
        "real, count = trainer.train_step, iter(range(10**9))\n"
        "def step(*a):\n"
        "    if next(count) == 2: os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)\n"
        "    return real(*a)\n"
        "trainer.train_step = step\n"
        f"pretrain({config}, device='cpu')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("siammae.errors.WorkerError: a process that reads ahead was lost (")
    assert saved_step(tmp_path / "run") >= 2


def test_second_run_into_one_folder_is_refused_while_the_first_lasts(clips, whole, tmp_path, monkeypatch):
    config, seen = run_config(clips, tmp_path), []

    def begin_another():
        with pytest.raises(BlockingIOError, match=rf"another run is writing .* \(process {os.getpid()} on "):
            pretrain(config, device="cpu")
        with pytest.raises(BlockingIOError, match="another run is writing"):
            pretrain(config, device="cpu", resume=tmp_path)
        seen.append(1)

    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, begin_another)
        assert same_weights(pretrain(config, device="cpu"), whole)
    assert seen == [1]
    assert len(read_log(tmp_path)) == 1
    assert same_weights(pretrain(config, device="cpu", resume=tmp_path), whole)


def test_run_killed_with_its_readers_left_behind_can_go_on_at_once(clips, whole, tmp_path):
    config = run_config(clips, tmp_path, epochs=10_000, workers=2, checkpoint_every=1)
    process, _ = start(config)
    wait_for(lambda: saved_step(tmp_path))
    readers = [int(pid) for pid in subprocess.check_output(["pgrep", "-P", str(process.pid)]).split()]
    for reader in readers:
        os.kill(reader, signal.SIGSTOP)  # as one that is in the middle of a long video
    try:
        process.kill()
        process.join()
        assert saved_step(tmp_path) >= 1
        pretrain(config, device="cpu", resume=tmp_path, max_steps=1)
    finally:
        for reader in readers:
            os.kill(reader, signal.SIGKILL)


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_leftovers_of_a_killed_run_are_swept_by_the_next(clips, whole, tmp_path):
    config = run_config(clips, tmp_path)
    pretrain(config, device="cpu", max_steps=3)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = [tmp_path / f".log.jsonl.{int(gone.stdout)}-ab12-0.part"]
    left.append(tmp_path / "states" / f".step-00000003.pt.{int(gone.stdout)}-0-xy_z.part")
    for folder in left:
        folder.mkdir()
        (folder / "half").write_bytes(bytes(100))
    assert same_weights(pretrain(config, device="cpu", resume=tmp_path), whole)
    assert [folder for folder in left if folder.exists()] == []


@pytest.mark.parametrize("name", ["log.jsonl", "videos.txt", "model", "pretrain.json", "skipped.txt"])
def test_files_of_another_program_are_not_replaced(clips, tmp_path, name):
    if name == "model":
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text("mine")
    else:
        (tmp_path / name).write_text("mine")
    with pytest.raises(
        ValueError, match=rf"holds {re.escape(name)}(/README\.md)?, which siammae did not write: choose another output"
    ):
        pretrain(run_config(clips, tmp_path), device="cpu")
    assert sorted(path.name for path in tmp_path.rglob("*")) in ([name], ["README.md", "model"])
    assert all(path.read_text() == "mine" for path in tmp_path.rglob("*") if path.is_file())


def test_folder_with_other_files_and_a_run_that_never_saved_are_begun_in(clips, whole, tmp_path, monkeypatch):
    (tmp_path / "notes.md").write_text("mine")
    with monkeypatch.context() as patch:

        def cut():
            raise PowerCut

        interrupt_after(patch, 1, cut)
        with pytest.raises(PowerCut):
            pretrain(run_config(clips, tmp_path), device="cpu")
    assert saved_step(tmp_path) is None
    assert same_weights(pretrain(run_config(clips, tmp_path), device="cpu"), whole)
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_run_into_its_own_videos_is_refused(clips, tmp_path):
    with pytest.raises(ValueError, match="is an input, and inputs are never overwritten"):
        pretrain(run_config(clips, clips), device="cpu")
    assert len(list(clips.iterdir())) == 4


def test_of_several_processes_the_first_holds_the_folder(clips, tmp_path):
    config = run_config(clips, tmp_path)
    assert run_together([config] * 2, max_steps=1) == [str(tmp_path / "model")] * 2
    with hold_folder(tmp_path):
        given = run_together([config] * 2, resume="auto")
    assert isinstance(given[0], BlockingIOError)
    assert isinstance(given[1], WorkerError)
