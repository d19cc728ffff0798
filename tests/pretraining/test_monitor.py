"""What a run shows while it goes on: pictures, scores of its features, and other people's loggers."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from siammae.errors import DatasetError
from siammae.pretraining import pretrain
from tests.evaluation.toy import write_davis
from tests.pretraining.runs import FSDP, make_clips, read_log, run_config, same_weights
from tests.pretraining.together import run_together


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    return write_davis(tmp_path_factory.mktemp("davis"))


def test_pretrain_that_is_watched_gives_the_same_weights(clips, davis, tmp_path):
    plain = pretrain(run_config(clips, tmp_path / "plain"), device="cpu")
    monitoring = {"picture_every": 3, "probe": davis, "probe_every": 4, "probe_side": 32}
    monitored = pretrain(run_config(clips, tmp_path / "monitored", **monitoring), device="cpu")
    assert same_weights(plain, monitored)
    pictures = sorted((tmp_path / "monitored" / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["step-00000003.png", "step-00000006.png"]
    images = [np.array(Image.open(picture)) for picture in pictures]
    assert images[0].shape == images[1].shape
    assert not np.array_equal(*images)
    probes = [line for line in read_log(tmp_path / "monitored") if "J&F" in line]
    assert [line["step"] for line in probes] == [4, 8]
    assert all(set(line) == {"step", "J&F", "J", "F"} and 0 <= line["J&F"] <= 100 for line in probes)


@pytest.mark.parametrize("parallel", ["ddp", FSDP])
def test_pretrain_in_two_processes_is_watched_by_both(clips, davis, tmp_path, parallel):
    monitoring = {"picture_every": 2, "probe": davis, "probe_every": 2, "probe_side": 32, "epochs": 1}
    config = run_config(clips, tmp_path / "two", parallel=parallel, **monitoring)
    assert run_together([config, config]) == [str(tmp_path / "two" / "model")] * 2
    pretrain(run_config(clips, tmp_path / "one", **monitoring), device="cpu")
    scores = [[line["J&F"] for line in read_log(tmp_path / name) if "J&F" in line] for name in ("one", "two")]
    assert scores[0] == pytest.approx(scores[1], abs=2)
    assert len(scores[0]) == 1


def test_pretrain_with_tensorboard_writes_its_event_files(clips, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is missing")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(run_config(clips, tmp_path, picture_every=4, loggers=("tensorboard",)), device="cpu")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [8]
    assert [event.step for event in events.Images("predictions")] == [4, 8]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_pretrain_with_a_tracker_tells_it_everything(clips, tmp_path, monkeypatch, name):
    calls = []
    module = types.ModuleType(name)
    module.init = lambda **options: calls.append(("init", options))
    module.log = lambda values, step: calls.append(("log", step, set(values)))
    module.Image = lambda image: image
    module.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, name, module)
    pretrain(run_config(clips, tmp_path / "my-run", picture_every=8, loggers=(name,)), device="cpu")
    assert calls[0][0] == "init"
    assert calls[0][1]["name"] == "my-run"
    assert calls[0][1]["config"]["mask_ratio"] == 0.75
    assert ("log", 8, {"loss", "lr", "pairs_per_second", "waiting_for_data"}) in calls
    assert ("log", 8, {"predictions"}) in calls
    assert calls[-1] == ("finish",)


@pytest.mark.parametrize(("name", "hint"), [("wandb", "wandb"), ("tensorboard", r'"siammae\[tensorboard\]"')])
def test_pretrain_with_a_logger_that_is_missing_says_how_to_get_it(clips, tmp_path, monkeypatch, name, hint):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(ImportError, match=f'loggers has "{name}", which is not installed: pip install {hint}'):
        pretrain(run_config(clips, tmp_path, loggers=(name,)), device="cpu")


def test_pretrain_with_a_probe_that_is_not_there_is_refused_before_the_first_step(clips, tmp_path):
    with pytest.raises(DatasetError, match="DAVIS-2017 is expected as"):
        pretrain(run_config(clips, tmp_path / "run", probe=tmp_path / "missing"), device="cpu")
    assert not (tmp_path / "run" / "states").exists()
