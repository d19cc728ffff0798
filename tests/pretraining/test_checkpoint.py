import pickle
from pathlib import Path

import pytest
import torch

from siammae.errors import CheckpointError
from siammae.pretraining.checkpoint import claim_videos, cut_log, load_state, save_state
from siammae.pretraining.schedule import parameter_groups
from tests.helpers import tiny_config, tiny_model
from tests.pretraining.runs import run_config


def network(seed=0):
    model = tiny_model(seed)
    return model, torch.optim.AdamW(parameter_groups(model, 0.05), lr=0.01)


def train(model, optimizer, steps):
    frames = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 1, 3, 32, 32)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        model(frames[0], frames[1], mask_ratio=0.75, generator=generator).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def saved(tmp_path):
    config = run_config(output_dir=tmp_path)
    model, optimizer = network()
    train(model, optimizer, 2)
    save_state(config, model, optimizer, 2)
    return config, model, optimizer


def test_load_state_gives_weights_moments_and_step_back(saved, tmp_path):
    config, model, optimizer = saved
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pretrain.json", "state.pt"]
    other, its_optimizer = network(seed=1)
    assert load_state(tmp_path, config, other, its_optimizer) == 2
    train(model, optimizer, 2)
    train(other, its_optimizer, 2)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_load_state_from_before_compile_was_a_setting_counts_as_not_compiled(saved, tmp_path):
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["config"]["compile"], state["config"]["recompute"]
    torch.save(state, tmp_path / "state.pt")
    assert load_state(tmp_path, saved[0], *network()) == 2
    with pytest.raises(CheckpointError, match="compile was False, now True"):
        load_state(tmp_path, saved[0].replace(compile=True), *network())


def test_load_state_with_folders_and_reading_changed_is_allowed(saved, tmp_path):
    moved = saved[0].replace(
        videos="elsewhere", output_dir="other", workers=2, cache_mb=5, checkpoint_every=7, recompute=True
    )
    assert load_state(tmp_path, moved, *network()) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "seed was 0, now 3"),
        ({"epochs": 5, "base_lr": 1.0}, r"base_lr was 0\.05, now 1\.0, epochs was 4, now 5"),
        ({"crop_scale": (0.6, 1.0)}, r"crop_scale was \(0\.5, 1\.0\), now \(0\.6, 1\.0\)"),
        ({"model": tiny_config(depth=3)}, r"model was \{.*'depth': 2.*\}, now \{.*'depth': 3"),
    ],
)
def test_load_state_of_another_configuration_names_the_fields(saved, tmp_path, changes, message):
    other, optimizer = network(seed=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"belongs to another configuration: {message}.*Only \('videos'"):
        load_state(tmp_path, saved[0].replace(**changes), other, optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_load_state_where_there_is_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing to resume: no .*state\.pt\. Start without resume"):
        load_state(tmp_path, run_config(), *network())


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"hello",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:100],
        lambda whole: pickle.dumps(print, protocol=2),
    ],
    ids=["empty", "text", "half", "head", "code"],
)
def test_load_state_of_damaged_file_is_refused(saved, tmp_path, damage):
    path = tmp_path / "state.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged: "):
        load_state(tmp_path, saved[0], *network())


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"step": 1}, {"config": {}, "model": {}, "optimizer": {}, "step": "?"}]
)
def test_load_state_of_a_file_with_other_content_is_refused(saved, tmp_path, content):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged: "):
        load_state(tmp_path, saved[0], *network())


def test_save_state_interrupted_keeps_the_state_before(saved, tmp_path, monkeypatch):
    config, model, optimizer = saved
    before = (tmp_path / "state.pt").read_bytes()

    def half(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_state(config, model, optimizer, 3)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert load_state(tmp_path, config, *network()) == 2


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
