import pickle
from pathlib import Path

import pytest
import torch

from siammae.distributed import Processes
from siammae.errors import CheckpointError
from siammae.pretraining.checkpoint import claim_videos, cut_log, load_state, save_state, state_files
from siammae.pretraining.learner import Learner
from tests.helpers import tiny_config
from tests.pretraining.runs import run_config


def learner(config, random=True):
    return Learner(config, torch.device("cpu"), Processes(0, 1), random=random)


def train(one, steps):
    frames = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 1, 3, 32, 32)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        one.model(frames[0], frames[1], mask_ratio=0.75, generator=generator).loss.backward()
        for group in one.optimizer.param_groups:
            group["lr"] = 0.01
        one.optimizer.step()
        one.optimizer.zero_grad()
        one.update_average(step)


def same_tensors(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture
def saved(tmp_path):
    config = run_config(output_dir=tmp_path, ema=0.9)
    one = learner(config)
    train(one, 2)
    save_state(config, one.state(), 2)
    return config, one


def test_state_restored_gives_weights_moments_average_and_step_back(saved, tmp_path):
    config, one = saved
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pretrain.json", "states"]
    assert [file.name for file in (tmp_path / "states").iterdir()] == ["step-00000002.pt"]
    other = learner(config.replace(seed=1))
    state = load_state(tmp_path, config)
    assert state["step"] == 2
    other.restore(state)
    train(one, 2)
    train(other, 2)
    assert same_tensors(one.model.state_dict(), other.model.state_dict())
    for name, copy in one.copies().items():
        assert same_tensors(copy.state_dict(), other.copies()[name].state_dict())
    assert set(one.copies()) == {"model", "model_ema"}
    assert not same_tensors(one.copies()["model"].state_dict(), one.copies()["model_ema"].state_dict())


def test_load_state_with_folders_and_reading_changed_is_allowed(saved, tmp_path):
    moved = saved[0].replace(
        videos="elsewhere", output_dir="other", workers=2, cache_mb=5, checkpoint_every=7, recompute=True, accumulate=2
    )
    assert load_state(tmp_path, moved)["step"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "seed was 0, now 3"),
        ({"epochs": 5, "base_lr": 1.0}, r"base_lr was 0\.05, now 1\.0, epochs was 4, now 5"),
        ({"crop_scale": (0.6, 1.0)}, r"crop_scale was \(0\.5, 1\.0\), now \(0\.6, 1\.0\)"),
        ({"model": tiny_config(depth=3)}, r"model was \{.*'depth': 2.*\}, now \{.*'depth': 3"),
        ({"ema": None}, r"ema was 0\.9, now None"),
    ],
)
def test_load_state_of_another_configuration_names_the_fields(saved, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=rf"belongs to another configuration: {message}.*Only \('videos'"):
        load_state(tmp_path, saved[0].replace(**changes))


def test_load_state_where_there_is_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing to resume: no states in .*states\. Start without resume"):
        load_state(tmp_path, run_config())


def flip_a_bit(whole):
    at = len(whole) // 2
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


DAMAGES = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"hello",
    "half": lambda whole: whole[: len(whole) // 2],
    "head": lambda whole: whole[:100],
    "flipped bit": flip_a_bit,
    "code": lambda whole: pickle.dumps(print, protocol=2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_state_of_damaged_file_takes_the_one_before_and_says_so(saved, tmp_path, damage, caplog):
    config, one = saved
    train(one, 1)
    path = save_state(config, one.state(), 3)
    assert load_state(tmp_path, config)["step"] == 3
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert load_state(tmp_path, config)["step"] == 2
    assert "step-00000003.pt is damaged" in caplog.text
    assert "taking the one before" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_state_whose_files_are_all_damaged_is_refused(saved, tmp_path, damage):
    path = state_files(tmp_path)[0]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"all 1 states in .*states are damaged"):
        load_state(tmp_path, saved[0])


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"step": 1}, {"config": {}, "model": {}, "optimizer": {}, "step": "?"}]
)
def test_load_state_of_a_file_with_other_content_is_refused(saved, tmp_path, content):
    torch.save(content, state_files(tmp_path)[0])
    with pytest.raises(CheckpointError, match="are damaged"):
        load_state(tmp_path, saved[0])


def test_save_state_keeps_the_latest_ones_and_leaves_other_files_alone(saved, tmp_path):
    config, one = saved
    (tmp_path / "states" / "step-mine.pt").write_text("kept")
    for step in (3, 4, 10):
        save_state(config.replace(keep_states=3), one.state(), step)
    assert [path.stem for path in state_files(tmp_path)] == ["step-00000010", "step-00000004", "step-00000003"]
    assert (tmp_path / "states" / "step-mine.pt").exists()


def test_save_state_interrupted_keeps_the_state_before(saved, tmp_path, monkeypatch):
    config, one = saved
    before = state_files(tmp_path)[0].read_bytes()

    def half(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_state(config, one.state(), 3)
    assert [path.read_bytes() for path in state_files(tmp_path)] == [before]
    assert load_state(tmp_path, config)["step"] == 2


def test_cut_log_drops_later_lines_and_half_lines(tmp_path):
    cut_log(tmp_path, 5)  # no log yet
    assert list(tmp_path.iterdir()) == []
    lines = ['{"step": 4, "loss": 1}', '{"step": 5, "loss": 1}', '{"step": 6, "loss": 1}', '{"step": 5, "lo']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    cut_log(tmp_path, 5)
    assert (tmp_path / "log.jsonl").read_text() == "".join(f"{line}\n" for line in lines[:2])


def test_claim_videos_when_resumed_with_the_same_names_elsewhere_is_fine(tmp_path):
    claim_videos(tmp_path, [Path("a/1.mp4"), Path("a/2.mp4")], resume=None)
    claim_videos(tmp_path, [Path("b/1.mp4"), Path("b/2.mp4")], resume=tmp_path)
    assert (tmp_path / "videos.txt").read_text() == "1.mp4\n2.mp4\n"


@pytest.mark.parametrize(("videos", "count"), [(["1.mp4"], "2"), (["2.mp4", "1.mp4"], "2"), ([], "unknown")])
def test_claim_videos_when_resumed_with_others_is_refused(tmp_path, videos, count):
    if videos:
        claim_videos(tmp_path, [Path("1.mp4"), Path("2.mp4")], resume=None)
    with pytest.raises(CheckpointError, match=f"not the {count} that this run began with"):
        claim_videos(tmp_path, [Path(name) for name in videos], resume=tmp_path)
