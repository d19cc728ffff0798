"""Several processes that train together: the same run as that of one, and nobody left waiting."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from siammae.errors import WorkerError
from siammae.network.model import SiamMAE
from siammae.pretraining import learner, pretrain
from tests.helpers import tiny_config, tiny_model
from tests.pretraining.runs import FSDP, make_clips, read_log, run_config, same_weights
from tests.pretraining.together import run_together, start, start_together


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"))


def losses(folder):
    return [line["loss"] for line in read_log(folder)]


def assert_same_run(folder, other):
    """The same losses, and weights apart by no more than the rounding of a few steps."""
    assert losses(folder) == pytest.approx(losses(other), rel=1e-5)
    states = [SiamMAE.from_pretrained(run / "model").state_dict() for run in (folder, other)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=2e-4, rtol=2e-4)


FIELDS = {"epochs": 3, "checkpoint_every": 1, "ema": 0.9, "clip_grad": 0.5, "base_lr": 0.02}


@pytest.fixture(scope="module")
def alone(clips, tmp_path_factory):
    """Six steps by one process, each with a line in the log."""
    output = tmp_path_factory.mktemp("alone")
    pretrain(run_config(clips, output, **FIELDS), device="cpu")
    assert len(losses(output)) == 6
    return output


@pytest.mark.parametrize("parallel", ["ddp", FSDP])
def test_two_processes_make_the_run_of_one(clips, alone, tmp_path, parallel):
    config = run_config(clips, tmp_path, **FIELDS, parallel=parallel)
    given = run_together([config, config])
    assert given == [str(tmp_path / "model")] * 2
    assert_same_run(tmp_path, alone)
    assert SiamMAE.from_pretrained(tmp_path / "model_ema").config == config.model


def test_parts_of_weights_on_the_cpu_are_refused_where_pytorch_cannot_have_them(monkeypatch):
    monkeypatch.setattr(torch.cpu, "Stream", object)  # PyTorch 2.6
    with pytest.raises(ValueError, match=r"parallel is 'fsdp' on the CPU, which PyTorch .* cannot do: use 'ddp'"):
        learner._cut(tiny_model())


@pytest.mark.parametrize("parallel", [FSDP])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_two_processes_in_half_precision_make_the_run_of_one_to_its_rounding(clips, tmp_path, precision, parallel):
    fields = {**FIELDS, "precision": precision}
    pretrain(run_config(clips, tmp_path / "alone", **fields), device="cpu")
    config = run_config(clips, tmp_path / "two", **fields, parallel=parallel)
    run_together([config, config])
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)


def test_accumulated_parts_make_the_step_of_the_whole(clips, alone, tmp_path):
    pretrain(run_config(clips, tmp_path, **FIELDS, accumulate=2), device="cpu")
    assert_same_run(tmp_path, alone)


def test_two_processes_that_accumulate_make_the_run_of_one(clips, tmp_path):
    fields = {**FIELDS, "batch_size": 8, "crop_size": 24, "position_step": (0.3, 1.2)}
    pretrain(run_config(clips, tmp_path / "alone", **fields), device="cpu")
    config = run_config(clips, tmp_path / "two", **fields, accumulate=2)
    run_together([config, config])
    assert_same_run(tmp_path / "two", tmp_path / "alone")


@pytest.mark.parametrize("parallel", [FSDP])
@pytest.mark.parametrize("sharded_first", [False, True])
def test_state_of_two_processes_goes_on_in_one_and_in_the_other_way(clips, alone, tmp_path, parallel, sharded_first):
    before, after = (parallel, "ddp") if sharded_first else ("ddp", parallel)
    config = run_config(clips, tmp_path, **FIELDS, parallel=before)
    run_together([config, config], max_steps=2)
    pretrain(config, device="cpu", resume="auto", max_steps=2)
    other = config.replace(parallel=after)
    run_together([other, other], resume="auto")
    assert_same_run(tmp_path, alone)


def test_process_that_fails_takes_the_others_along(clips, tmp_path):
    config = run_config(clips, tmp_path)
    given = run_together([config, config.replace(videos=str(tmp_path / "missing"))])
    assert isinstance(given[0], WorkerError)
    assert "process 1 of 2 failed, so this one stops too: FileNotFoundError: no file or folder" in str(given[0])
    assert isinstance(given[1], FileNotFoundError)


def test_processes_that_see_other_videos_are_refused(clips, tmp_path):
    config = run_config(clips, tmp_path)
    more = make_clips(tmp_path / "more", count=6)
    given = run_together([config, config.replace(videos=str(more))])
    assert all("the processes see other videos" in str(error) for error in given)


def test_batch_that_cannot_be_shared_is_refused(clips, tmp_path):
    given = run_together([run_config(clips, tmp_path, batch_size=2)] * 2)
    assert all("samples_per_video x accumulate x processes = 2 x 1 x 2" in str(error) for error in given)


def test_signal_to_one_process_stops_all_with_the_state_saved(clips, alone, tmp_path):
    config = run_config(clips, tmp_path, **{**FIELDS, "epochs": 400})
    runs = start_together([config, config])
    wait_for(lambda: (tmp_path / "log.jsonl").is_file() and len(read_log(tmp_path)) > 3)
    os.kill(runs[1][0].pid, signal.SIGUSR1)
    for process, results in runs:
        error = results.get(timeout=60)[1]
        assert isinstance(error, KeyboardInterrupt)
        assert "the state is saved" in str(error)
        process.join(60)
    assert (
        torch.load(max((tmp_path / "states").glob("*.pt")), weights_only=True)["step"] == read_log(tmp_path)[-1]["step"]
    )


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_run_killed_ten_times_at_random_moments_ends_with_the_same_weights(clips, tmp_path):
    fields = {"epochs": 100, "checkpoint_every": 2, "ema": 0.99, "model": tiny_config(decoder="cropmae")}
    undisturbed, results = start(run_config(clips, tmp_path / "straight", **fields))
    straight = results.get(timeout=120)[1]
    undisturbed.join()
    config = run_config(clips, tmp_path / "killed", **fields)
    draw, kills = random.Random(0), 0
    while kills < 10:
        before = latest(tmp_path / "killed")
        process, _ = start(config, resume="auto")
        wait_for(lambda before=before, it=process: latest(tmp_path / "killed") > before or not it.is_alive())
        time.sleep(draw.uniform(0, 0.06))
        assert process.is_alive(), "the run ended before it was killed often enough"
        process.kill()
        process.join()
        kills += 1
    process, results = start(config, resume="auto")
    assert results.get(timeout=120)[1] == str(tmp_path / "killed" / "model")
    process.join()
    assert same_weights(tmp_path / "killed" / "model", straight)
    assert same_weights(tmp_path / "killed" / "model_ema", tmp_path / "straight" / "model_ema")
    steps = [line["step"] for line in read_log(tmp_path / "killed")]
    assert steps == sorted(set(steps))
    assert json.loads((tmp_path / "killed" / "pretrain.json").read_text())["seed"] == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to find the processes of torchrun")
def test_process_killed_under_torchrun_makes_all_begin_again_from_the_last_state(clips, tmp_path):
    config = run_config(clips, tmp_path / "killed", epochs=30, checkpoint_every=2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "train.py").write_text(
        "import json, sys, torch\n"
        "from siammae import PretrainConfig, pretrain\n"
        "torch.set_num_threads(1)\n"
        "config = PretrainConfig.from_dict(json.load(open(sys.argv[1])))\n"
        "pretrain(config, resume='auto', device='cpu')\n"
    )
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "2", "--monitor-interval", "0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, tmp_path / "train.py", tmp_path / "config.json"]
    with (tmp_path / "output.txt").open("w") as output:
        torchrun = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wait_for(lambda: latest(tmp_path / "killed") > 0 or torchrun.poll() is not None)
        children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        assert torchrun.wait(120) == 0, (tmp_path / "output.txt").read_text()
    assert "exitcode: -9" in (tmp_path / "output.txt").read_text()
    straight = config.replace(output_dir=str(tmp_path / "straight"))
    run_together([straight, straight])
    assert same_weights(tmp_path / "killed" / "model", tmp_path / "straight" / "model")


def latest(folder):
    """Number of the latest saved state, -1 where there is none."""
    return max((int(path.stem[5:]) for path in (folder / "states").glob("step-*.pt")), default=-1)
