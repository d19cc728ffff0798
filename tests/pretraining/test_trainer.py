"""Whole runs, a fraction of a second each: what they leave behind, and that no interruption shows in the weights."""

import itertools
import json
import multiprocessing
import os
import signal
import time
import warnings

import numpy as np
import pytest
import torch

from siammae.clips.listing import find_clips
from siammae.errors import CheckpointError
from siammae.frames import read_frames, write_image
from siammae.network.model import SiamMAE
from siammae.network.pretraining_model import set_recompute
from siammae.pretraining import pretrain, trainer
from siammae.pretraining import step as training_step
from siammae.pretraining.checkpoint import state_files
from siammae.pretraining.stopping import STOP_SIGNALS
from tests.helpers import tiny_config, tiny_model
from tests.pretraining.runs import make_clips, read_log, run_config, same_weights, saved_step


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """An uninterrupted run of 8 steps."""
    output = tmp_path_factory.mktemp("whole")
    pretrain(run_config(clips, output), device="cpu")
    return output


def interrupt_after(monkeypatch, steps, act):
    """Call ``act`` once, at the end of this many training steps."""
    real, count = trainer.train_step, itertools.count(1)

    def step(*arguments):
        loss = real(*arguments)
        if next(count) == steps:
            act()
        return loss

    monkeypatch.setattr(trainer, "train_step", step)


def test_pretrain_leaves_state_settings_log_and_a_model_that_loads(whole, clips):
    files = [".siammae", "log.jsonl", "model", "pretrain.json", "states", "videos.txt"]
    assert sorted(file.name for file in whole.iterdir()) == files
    model = SiamMAE.from_pretrained(whole / "model")
    assert model.config == tiny_config()
    log = read_log(whole)
    assert [line["step"] for line in log] == [8]
    assert set(log[0]) == {"step", "loss", "lr", "pairs_per_second", "waiting_for_data"}


def test_pretrain_lowers_the_loss(clips, tmp_path):
    config = run_config(clips, tmp_path, epochs=20, base_lr=0.3)
    pretrain(config, device="cpu")
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert len(losses) == 4
    assert losses[-1] < 0.95 * losses[0]


def test_pretrain_twice_gives_bit_identical_weights(whole, clips, tmp_path):
    folder = pretrain(run_config(clips, tmp_path / "again", cache_mb=64, checkpoint_every=3), device="cpu")
    assert folder == tmp_path / "again" / "model"
    assert same_weights(folder, whole / "model")
    assert not same_weights(pretrain(run_config(clips, tmp_path / "seed", seed=1), device="cpu"), whole / "model")


def test_pretrain_with_workers_gives_the_same_weights(whole, clips, tmp_path):
    assert same_weights(pretrain(run_config(clips, tmp_path, workers=1), device="cpu"), whole / "model")


def test_pretrain_leaves_the_global_random_state_alone(clips, tmp_path):
    before = torch.get_rng_state()
    pretrain(run_config(clips, tmp_path), device="cpu", max_steps=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sittings", [(5,), (1, 2, 3), (0, 8)], ids=str)
def test_pretrain_resumed_in_the_middle_equals_the_uninterrupted_run(whole, clips, tmp_path, sittings):
    config = run_config(clips, tmp_path)
    for place, steps in enumerate(sittings):
        folder = pretrain(config, device="cpu", resume=tmp_path if place else None, max_steps=steps)
        done = sum(sittings[: place + 1])
        assert saved_step(tmp_path) == done
        assert same_weights(folder, whole / "model") == (done == 8)
    assert same_weights(pretrain(config, device="cpu", resume=str(tmp_path)), whole / "model")


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ({"encoder": "joint", "decoder": "joint"}, {"precision": "bf16"}),
        ({"position": "learned"}, {"precision": "bf16", "predict": "past"}),
        ({"decoder": "cropmae"}, {"precision": "fp16", "ema": 0.9, "clip_grad": 1.0}),
        ({}, {"accumulate": 2, "layer_decay": 0.7, "past_mask": "symmetric"}),
        ({}, {"crop_size": 24, "position_step": (0.3, 1.2), "still_gap": 3, "still_flow": True, "match_weight": 1.0}),
        ({}, {"still_gap": 3, "still_flow": True, "match_weight": 1.0, "match_motion": 2.0}),
    ],
    ids=str,
)
def test_pretrain_of_any_recipe_resumed_equals_the_uninterrupted_run(clips, tmp_path, model, recipe):
    fields = {"model": tiny_config(**model), "epochs": 2, "still_share": 0.5, **recipe}
    straight = pretrain(run_config(clips, tmp_path / "whole", **fields), device="cpu")
    config = run_config(clips, tmp_path / "parts", **fields)
    pretrain(config, device="cpu", max_steps=3)
    assert same_weights(pretrain(config, device="cpu", resume=tmp_path / "parts"), straight)


@pytest.mark.parametrize("hardware", [True, False])
def test_pretrain_in_automatic_precision_saves_the_one_it_took_and_resumes(clips, tmp_path, monkeypatch, hardware):
    monkeypatch.setattr(training_step, "multiplies_bfloat16", lambda: hardware)
    took = "bf16" if hardware else "fp32"
    config = run_config(clips, tmp_path / "auto", precision="auto", epochs=2)
    pretrain(config, device="cpu", max_steps=2)
    assert json.loads((tmp_path / "auto" / "pretrain.json").read_text())["precision"] == took
    named = pretrain(run_config(clips, tmp_path / "named", precision=took, epochs=2), device="cpu")
    assert same_weights(pretrain(config, device="cpu", resume=tmp_path / "auto"), named)
    monkeypatch.setattr(training_step, "multiplies_bfloat16", lambda: not hardware)
    with pytest.raises(CheckpointError, match=f"precision was '{took}', now"):
        pretrain(config, device="cpu", resume=tmp_path / "auto")


@pytest.mark.parametrize(
    "model", [{}, {"encoder": "joint", "decoder": "joint"}, {"decoder": "cropmae", "position": "learned"}], ids=str
)
def test_pretrain_that_recomputes_activations_gives_the_same_weights(clips, tmp_path, model):
    fields = {"model": tiny_config(**model), "epochs": 1}
    kept = pretrain(run_config(clips, tmp_path / "kept", **fields), device="cpu")
    again = pretrain(run_config(clips, tmp_path / "again", recompute=True, **fields), device="cpu")
    assert same_weights(kept, again)


def test_recomputed_blocks_run_twice_and_keep_only_their_inputs():
    stored = {}
    for recompute in (False, True):
        model, runs, sizes = tiny_model().train(), [], []
        set_recompute(model, recompute)
        model.encoder.blocks[0].mlp.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        pair = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(pair[0], pair[1], mask_ratio=0.5, generator=torch.Generator().manual_seed(0)).loss
        stored[recompute] = sum(sizes)
        loss.backward()
        assert len(runs) == (4 if recompute else 2)  # past and future
    assert stored[True] < 0.5 * stored[False]


def test_pretrain_compiled_traces_both_networks_and_computes_the_same_loss(clips, tmp_path, monkeypatch):
    compile_function, compiled = torch.compile, []

    def without_generating_code(function, **options):  # which takes a minute and a C++ compiler
        compiled.append(type(function.__self__).__name__)
        return compile_function(function, backend="aot_eager", fullgraph=True, **options)

    monkeypatch.setattr(torch, "compile", without_generating_code)
    config = run_config(clips, tmp_path / "compiled", epochs=1, compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's own
        pretrain(config, device="cpu")
    assert compiled == ["Encoder", "Decoder"]
    pretrain(config.replace(output_dir=str(tmp_path / "plain"), compile=False), device="cpu")
    losses = [read_log(tmp_path / name)[-1]["loss"] for name in ("compiled", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert SiamMAE.from_pretrained(tmp_path / "compiled" / "model").config == config.model


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_pretrain_stopped_by_a_signal_saves_its_state_and_goes_on(whole, clips, tmp_path, monkeypatch, number):
    config = run_config(clips, tmp_path)
    handlers = [signal.getsignal(kind) for kind in STOP_SIGNALS]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3, lambda: os.kill(os.getpid(), number))
        with pytest.raises(KeyboardInterrupt, match=r"stopped at step 3 of 8; the state is saved, resume='.*' goes on"):
            pretrain(config, device="cpu")
    assert [signal.getsignal(kind) for kind in STOP_SIGNALS] == handlers
    assert [line["step"] for line in read_log(tmp_path)] == [3]
    assert same_weights(pretrain(config, device="cpu", resume=tmp_path), whole / "model")


def test_pretrain_stopped_by_a_second_signal_stops_at_once(clips, tmp_path, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    interrupt_after(monkeypatch, 3, twice)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        pretrain(run_config(clips, tmp_path), device="cpu")
    assert saved_step(tmp_path) is None


def test_pretrain_keeps_its_readers_when_the_terminal_interrupts_them(whole, clips, tmp_path, monkeypatch):
    def interrupt_readers():
        for _ in range(2):
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGINT)
            time.sleep(0.1)  # or both would count as one

    interrupt_after(monkeypatch, 2, interrupt_readers)
    assert same_weights(pretrain(run_config(clips, tmp_path, workers=1), device="cpu"), whole / "model")


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("every", [1, 3, 5])
def test_pretrain_killed_goes_on_from_the_last_checkpoint_without_a_log_line_twice(
    whole, clips, tmp_path, monkeypatch, every
):
    def cut():
        raise PowerCut

    config = run_config(clips, tmp_path, checkpoint_every=every)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7, cut)
        with pytest.raises(PowerCut):
            pretrain(config, device="cpu")
    assert saved_step(tmp_path) == 6 // every * every
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    folder = pretrain(config, device="cpu", resume=tmp_path)
    assert same_weights(folder, whole / "model")
    steps = [line["step"] for line in read_log(tmp_path)]
    assert steps == sorted({*range(every, 9, every), 8})


def test_pretrain_resumed_automatically_begins_or_goes_on(whole, clips, tmp_path):
    config = run_config(clips, tmp_path)
    for steps in (3, 2, None):
        folder = pretrain(config, device="cpu", resume="auto", max_steps=steps)
    assert same_weights(folder, whole / "model")


def test_pretrain_whose_latest_state_is_damaged_goes_on_from_the_one_before(whole, clips, tmp_path, caplog):
    config = run_config(clips, tmp_path, checkpoint_every=2)
    pretrain(config, device="cpu", max_steps=6)
    latest = state_files(tmp_path)[0]
    latest.write_bytes(latest.read_bytes()[:1000])
    folder = pretrain(config, device="cpu", resume=tmp_path)
    assert "step-00000006.pt is damaged" in caplog.text
    assert same_weights(folder, whole / "model")
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4, 6, 8]


def test_pretrain_leaves_the_states_it_was_told_to_keep(clips, tmp_path):
    pretrain(run_config(clips, tmp_path, checkpoint_every=1, keep_states=3), device="cpu")
    assert [path.stem for path in state_files(tmp_path)] == ["step-00000008", "step-00000007", "step-00000006"]


def test_pretrain_with_layer_decay_moves_the_first_blocks_least(clips, tmp_path):
    fields = {"epochs": 1, "warmup_epochs": 0, "base_lr": 0.05}
    moved = {}
    for decay in (1.0, 0.1):
        config = run_config(clips, tmp_path / str(decay), layer_decay=decay, **fields)
        start = SiamMAE.from_pretrained(pretrain(config.replace(output_dir=str(tmp_path / f"{decay}s")), max_steps=0))
        end = SiamMAE.from_pretrained(pretrain(config, device="cpu"))
        change = {name: (tensor - start.state_dict()[name]).norm().item() for name, tensor in end.state_dict().items()}
        moved[decay] = [change[f"encoder.blocks.{block}.mlp.fc1.weight"] for block in (0, 1)]
    assert moved[0.1][0] < 0.3 * moved[0.1][1]
    assert moved[1.0][0] > 0.5 * moved[1.0][1]


def test_pretrain_resumed_when_finished_changes_nothing(whole, clips, tmp_path):
    config = run_config(clips, tmp_path)
    pretrain(config, device="cpu")
    log = read_log(tmp_path)
    assert same_weights(pretrain(config, device="cpu", resume=tmp_path), whole / "model")
    assert read_log(tmp_path) == log


def test_pretrain_resumed_into_another_folder_goes_on_there(whole, clips, tmp_path):
    pretrain(run_config(clips, tmp_path / "first"), device="cpu", max_steps=4)
    folder = pretrain(run_config(clips, tmp_path / "second"), device="cpu", resume=tmp_path / "first")
    assert folder == tmp_path / "second" / "model"
    assert same_weights(folder, whole / "model")


def test_pretrain_over_another_run_is_refused(whole, clips, tmp_path):
    before = state_files(whole)[0].read_bytes()
    with pytest.raises(
        ValueError, match=r"holds a run already: go on with it \(--resume, in Python resume='.*'\), choose an"
    ):
        pretrain(run_config(clips, whole), device="cpu")
    pretrain(run_config(clips, tmp_path), device="cpu", max_steps=1)
    with pytest.raises(ValueError, match="holds a run already"):
        pretrain(run_config(clips, whole), device="cpu", resume=tmp_path)
    assert state_files(whole)[0].read_bytes() == before


def test_pretrain_over_another_run_when_asked_for_leaves_nothing_of_it(whole, clips, tmp_path):
    pretrain(run_config(clips, tmp_path, ema=0.9, picture_every=1, batch_size=2), device="cpu", max_steps=3)
    (tmp_path / "pictures" / "notes.txt").write_text("mine")
    folder = pretrain(run_config(clips, tmp_path), device="cpu", overwrite=True)
    assert same_weights(folder, whole / "model")
    assert [file.name for file in state_files(tmp_path)] == [file.name for file in state_files(whole)]
    assert [line["step"] for line in read_log(tmp_path)] == [line["step"] for line in read_log(whole)]
    assert not (tmp_path / "model_ema").exists()
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["notes.txt"]


def test_pretrain_over_another_run_keeps_it_until_all_is_ready_and_takes_nothing_from_strangers(clips, tmp_path):
    pretrain(run_config(clips, tmp_path), device="cpu", max_steps=1)
    before = saved_step(tmp_path)
    with pytest.raises(ValueError, match="init="):
        pretrain(run_config(clips, tmp_path, init="siammae-ti8"), device="cpu", overwrite=True)
    with pytest.raises(ValueError, match="is an input, and inputs are never overwritten"):
        pretrain(run_config(clips, tmp_path, init=str(tmp_path / "model")), device="cpu", overwrite=True)
    with pytest.raises(ValueError, match="goes on or begins anew"):
        pretrain(run_config(clips, tmp_path), device="cpu", overwrite=True, resume="auto")
    assert saved_step(tmp_path) == before
    (tmp_path / ".siammae").write_text("")
    with pytest.raises(ValueError, match="which siammae did not write"):
        pretrain(run_config(clips, tmp_path), device="cpu", overwrite=True)
    assert saved_step(tmp_path) == before


def test_pretrain_resumed_with_another_configuration_names_the_field(whole, clips):
    with pytest.raises(CheckpointError, match=r"belongs to another configuration: mask_ratio was 0\.75, now 0\.5"):
        pretrain(run_config(clips, whole, mask_ratio=0.5), device="cpu", resume=whole)


def test_pretrain_resumed_from_nothing_is_refused(clips, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        pretrain(run_config(clips, tmp_path), device="cpu", resume=tmp_path)


def test_pretrain_with_batch_that_splits_a_video_is_refused(clips, tmp_path):
    with pytest.raises(
        ValueError, match="batch_size is 5: it must be a multiple of samples_per_video x accumulate = 2 x 1"
    ):
        pretrain(run_config(clips, tmp_path, batch_size=5), device="cpu")


def test_pretrain_without_videos_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*missing"):
        pretrain(run_config(tmp_path / "missing", tmp_path / "run"), device="cpu")
    assert not (tmp_path / "run").exists()


def test_pretrain_whose_loss_is_no_longer_finite_stops_and_never_saves_it(clips, tmp_path):
    config = run_config(clips, tmp_path, base_lr=1e30, checkpoint_every=1)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d: lower base_lr \(now .*e\+"):
        pretrain(config, device="cpu")
    step = saved_step(tmp_path)
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, step + 1))


def test_pretrain_with_progress_shows_loss_and_speed(clips, tmp_path, capsys):
    pretrain(run_config(clips, tmp_path), device="cpu", max_steps=2, progress=True)
    shown = capsys.readouterr().err
    assert "2/8" in shown
    assert "loss=" in shown
    assert "pairs_per_s=" in shown


MATCHING = {
    "still_share": 0.5,
    "still_gap": 1,
    "still_rotation": 15.0,
    "color_jitter": 0.2,
    "match_weight": 1.0,
    "clip_grad": 1.0,
    "base_lr": 0.2,
}


def test_pretrain_with_matching_loss_logs_it_lowers_it_and_resumes_bit_identically(clips, tmp_path):
    fields = {**MATCHING, "epochs": 30, "still_share": 1.0}
    whole = pretrain(run_config(clips, tmp_path / "whole", **fields), device="cpu")
    log = read_log(tmp_path / "whole")
    assert log[-1]["matching_loss"] < 0.9 * log[0]["matching_loss"]
    config = run_config(clips, tmp_path / "cut", **fields)
    pretrain(config, device="cpu", max_steps=7)
    assert same_weights(whole, pretrain(config, device="cpu", resume=tmp_path / "cut"))


def test_pretrain_with_both_kinds_of_pairs_runs_and_progress_shows_the_matching_loss(clips, tmp_path, capsys):
    pretrain(run_config(clips, tmp_path, **MATCHING), device="cpu", max_steps=3, progress=True)
    assert "matching=" in capsys.readouterr().err


def test_pretrain_on_a_list_of_videos_and_images_resumes_bit_identically(tmp_path):
    folder = make_clips(tmp_path / "both", count=2)
    for index in range(2):
        write_image(folder / f"{index}.png", np.random.default_rng(index).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    (folder / "list.txt").write_text("0.png\nclip0.avi\nclip1.avi\n1.png\n")
    fields = {**MATCHING, "still_flow": True, "epochs": 2}
    whole = pretrain(run_config(folder / "list.txt", tmp_path / "whole", **fields), device="cpu")
    assert (saved_step(tmp_path / "whole"), read_log(tmp_path / "whole")[-1]["step"]) == (4, 4)
    assert not (tmp_path / "whole" / "skipped.txt").exists()
    config = run_config(folder / "list.txt", tmp_path / "cut", **fields)
    pretrain(config, device="cpu", max_steps=1)
    assert same_weights(whole, pretrain(config, device="cpu", resume=tmp_path / "cut"))


def test_pretrain_with_clipped_gradients_makes_other_steps_only_where_they_are_longer(clips, tmp_path):
    folders = [
        pretrain(run_config(clips, tmp_path / str(limit), clip_grad=limit), device="cpu", max_steps=2)
        for limit in (None, 1e6, 1e-3)
    ]
    assert same_weights(folders[0], folders[1])
    assert not same_weights(folders[0], folders[2])


def test_pretrain_from_given_weights_begins_with_them_and_drops_their_whitening(whole, clips, tmp_path):
    given = SiamMAE.from_pretrained(whole / "model")
    given.fit_whitening([frame for clip in find_clips(clips) for frame in read_frames(clip.path)])
    init = str(given.save_pretrained(tmp_path / "init"))
    folder = pretrain(run_config(clips, tmp_path / "run", init=init, base_lr=0.0), max_steps=1)
    trained = SiamMAE.from_pretrained(folder)
    assert not trained.config.whitened
    assert all(torch.equal(tensor, given.state_dict()[name]) for name, tensor in trained.state_dict().items())


def test_pretrain_from_weights_of_another_network_is_refused(whole, clips, tmp_path):
    config = run_config(clips, tmp_path / "run", init=str(whole / "model"), model=tiny_config(depth=1))
    with pytest.raises(ValueError, match=r"init=.* is a network of"):
        pretrain(config)
