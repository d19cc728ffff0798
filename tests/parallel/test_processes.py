"""Work shared by processes: workers of this machine, and ranks as torchrun starts them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from siammae.config import PropagationConfig
from siammae.errors import WorkerError
from siammae.evaluation import EvaluationResult, compare, evaluate_davis
from siammae.features import PixelExtractor
from siammae.frames import read_frames
from tests.evaluation.toy import FailingExtractor, Unpicklable, write_davis

ROOT = Path(__file__).resolve().parents[2]
RULES = PropagationConfig(radius=3, queue_length=2)


@pytest.fixture
def root(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the workers: sums of floats depend on it
    yield write_davis(tmp_path / "DAVIS")
    torch.set_num_threads(threads)


def without_seconds(result):
    values = result.to_dict()
    del values["details"]["seconds"]
    return values


class Dies(PixelExtractor):
    """Takes its process along, as the system does when memory is short."""

    def extract(self, frames, **options):
        os._exit(9)


def test_workers_give_what_one_process_gives_and_a_run_goes_on(root, tmp_path):
    alone = evaluate_davis(PixelExtractor(8), root, config=RULES, output_dir=tmp_path / "alone")
    shared = evaluate_davis(PixelExtractor(8), root, config=RULES, output_dir=tmp_path / "shared", workers=2)
    assert without_seconds(shared) == without_seconds(alone)
    assert list(shared.per_video) == ["a", "b", "c"]
    written = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.png"))
    assert len(written) == 15
    for path in written:
        assert (tmp_path / "alone" / path).read_bytes() == (tmp_path / "shared" / path).read_bytes()
    marked = (tmp_path / "shared" / "a" / "00000.png").stat().st_mtime_ns
    for path in (tmp_path / "shared" / "b").iterdir():
        path.unlink()
    (tmp_path / "shared" / "b").rmdir()
    again = evaluate_davis(PixelExtractor(8), root, config=RULES, output_dir=tmp_path / "shared", workers=2)
    assert without_seconds(again) == without_seconds(alone)
    assert (tmp_path / "shared" / "a" / "00000.png").stat().st_mtime_ns == marked


def test_workers_share_the_models_of_a_video_too(root):
    # One video only: two processes have something to do only if they share its models.
    models = {"fine": PixelExtractor(8), "coarse": PixelExtractor(16)}
    rules = {"near": RULES, "far": RULES.replace(radius=6)}
    fields = {"sequences": ["b"], "year": 2017, "split": "val"}
    alone = compare("davis", root, models, rules, **fields)
    shared = compare("davis", root, models, rules, **fields, workers=2)
    assert [without_seconds(result) for result in shared.results] == [without_seconds(row) for row in alone.results]
    assert [row.details["label"] for row in shared.results] == ["fine", "fine", "coarse", "coarse"]
    with pytest.raises(WorkerError, match="a worker process ended"):  # so a model was not followed in this process
        compare("davis", root, {"fine": PixelExtractor(8), "dies": Dies(8)}, {"near": RULES}, **fields, workers=2)


def test_worker_when_a_sequence_fails_names_it_and_leaves_whole_results_only(root, tmp_path):
    bad = next(read_frames(root / "JPEGImages" / "480p" / "b" / "00002.jpg"))
    extractor = FailingExtractor(8, bad[None].tobytes())
    with pytest.raises(WorkerError, match="b: cannot stand this frame") as caught:
        evaluate_davis(extractor, root, config=RULES, output_dir=tmp_path / "out", workers=2)
    assert "test_processes" in caught.value.__notes__[0] or "toy.py" in caught.value.__notes__[0]
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "b" not in left
    assert left <= {"config.json", "a", "c"}


def test_worker_when_its_process_dies_says_so(root):
    with pytest.raises(WorkerError, match=r"a worker process ended without a word.*use fewer workers"):
        evaluate_davis(Dies(8), root, config=RULES, workers=2)


def test_workers_when_the_model_cannot_be_sent_say_so(root):
    with pytest.raises(WorkerError, match=r"the model cannot be sent to worker processes .*: use workers=1\."):
        evaluate_davis(Unpicklable(), root, config=RULES, workers=2)


def test_workers_when_below_one_are_refused(root):
    with pytest.raises(ValueError, match="workers is 0: it must be at least 1"):
        evaluate_davis(PixelExtractor(8), root, workers=0)


def _command(root, out, *extra):
    argv = [sys.executable, "-m", "siammae", "evaluate", "davis", str(root), "--device", "cpu", "--quiet"]
    return [*argv, "-o", str(out), "--json", str(out / "all.json"), "--set", "queue_length=1", *extra]


def _environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def test_ranks_share_the_sequences_and_the_first_writes(root, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            _command(root, tmp_path / "out"),
            env=_environment(**place, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "J&F" in printed[0]
    assert printed[1] == ""
    # In a process like theirs: with another number of threads, older PyTorch rounds otherwise.
    alone = subprocess.run(
        _command(root, tmp_path / "alone"), env=_environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    assert alone.stdout.splitlines()[:-1] == printed[0].splitlines()[:-1]
    results = [EvaluationResult.load(tmp_path / name / "all.json") for name in ("out", "alone")]
    assert without_seconds(results[0]) == without_seconds(results[1])


@pytest.fixture
def long_run(tmp_path):
    """A command with two workers that have begun to write, in a session of its own, and where it writes to."""
    out = tmp_path / "out"
    command = _command(write_davis(tmp_path / "DAVIS", (("a", 40), ("b", 40)), size=(240, 320)), out, "--workers", "2")
    process = subprocess.Popen(command, env=_environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(out.glob(".*-*/*/*.png")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    yield process, out
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_workers_when_interrupted_end_and_clean_up(long_run):
    process, out = long_run
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers
    error = process.communicate(timeout=240)[1]
    assert process.returncode == 130
    assert "stopped" in error
    assert {path.name for path in out.iterdir()} <= {"config.json", "a", "b"}


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_workers_when_all_are_told_to_end_clean_up(long_run, number):
    process, out = long_run
    os.killpg(process.pid, number)  # as a scheduler does, or a terminal that closes
    process.communicate(timeout=240)
    assert process.returncode in (-number, 128 + number)
    assert {path.name for path in out.iterdir()} <= {"config.json", "a", "b"}


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)])
def test_workers_when_the_parent_is_killed_end_and_clean_up(long_run, number):
    process, out = long_run
    process.send_signal(number)  # to the parent alone
    process.communicate(timeout=240)  # until the last of them has closed the pipe
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    locks = (
        set() if number == signal.SIGTERM else {".siammae.lock", ".all.json.lock"}
    )  # of no one: the next run goes on
    assert {path.name for path in out.iterdir()} - locks <= {"config.json", "a", "b"}
