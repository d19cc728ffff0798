"""How the options of ``siammae pretrain`` become settings; whole runs are in test_cli.py."""

import json
import signal
from pathlib import Path

import pytest

import siammae.pretraining
from siammae.cli import main
from siammae.config import VIT_SIZES, PretrainConfig
from siammae.config.recipes import RECIPES
from siammae.pretraining import trainer
from tests.config.test_config import pretrain_config
from tests.pretraining.runs import make_clips, saved_step


@pytest.fixture
def settings(monkeypatch):
    """Run the command up to the training itself and return the settings it would train with."""

    def parse(*options):
        seen = []

        def pretrain(config, **_):
            seen.append(config)
            return Path("run/model")

        monkeypatch.setattr(siammae.pretraining, "pretrain", pretrain)
        argv = ["pretrain", "clips", "-o", "run", "--device", "cpu", *(str(option) for option in options)]
        assert main(argv) == 0
        return seen[0]

    return parse


def test_pretrain_without_options_has_the_default_settings(settings):
    assert settings() == pretrain_config()


@pytest.mark.parametrize("name", RECIPES)
def test_pretrain_with_a_preset_has_its_settings(settings, name):
    assert settings("--preset", name) == PretrainConfig.preset(name, videos="clips", output_dir="run")


def test_pretrain_with_a_preset_and_options_has_both(settings):
    config = settings(
        "--preset", "cropmae-repo", "--size", "tiny", "--depth", 6, "--patch-size", 8, "--epochs", 10, "--no-compile"
    )
    width, _, heads = VIT_SIZES["tiny"]
    assert (config.model.embed_dim, config.model.depth, config.model.num_heads) == (width, 6, heads)
    assert (config.model.patch_size, config.model.decoder, config.epochs) == (8, "cropmae", 10)
    assert (config.base_lr, config.frame_gap) == (1e-4, (4, 47))
    preset = PretrainConfig.preset("siammae-k400-s8", videos="clips", output_dir="run")
    assert settings("--preset", "siammae-k400-s8", "--size", "small", "--patch-size", 8) == preset


def test_pretrain_with_an_unknown_preset_exits_with_2_and_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "clips", "-o", "run", "--preset", "siammae"])
    assert stop.value.code == 2
    assert "siammae-k400" in capsys.readouterr().err


def test_pretrain_with_preset_and_resume_is_refused(tmp_path, capsys):
    assert main(["pretrain", "clips", "-o", str(tmp_path), "--preset", "cropmae", "--resume"]) == 1
    assert "--preset is for new runs" in capsys.readouterr().err


def test_pretrain_resumed_has_the_stored_settings_and_those_given_again(settings, tmp_path):
    begun = settings("--preset", "siammae-k400", "--size", "tiny", "--seed", 3)
    (tmp_path / "pretrain.json").write_text(json.dumps(begun.to_dict()))
    here = begun.replace(output_dir=str(tmp_path))
    assert settings("-o", tmp_path, "--resume") == here
    assert settings("-o", tmp_path, "--resume", "--workers", 2) == here.replace(workers=2)
    other = settings("-o", tmp_path, "--resume", "--size", "small")  # the saved state will refuse it
    assert other.model.embed_dim == 384


# The axes of the paper's ablations and of CropMAE's: field, value, options.
ABLATIONS = [
    ("model.encoder", "joint", ["--encoder", "joint"]),
    ("model.decoder", "joint", ["--decoder", "joint"]),
    ("model.decoder", "cross", ["--decoder", "cross"]),
    ("model.decoder", "cropmae", ["--decoder", "cropmae"]),
    ("model.decoder_depth", 8, ["--decoder-depth", 8]),
    ("model.decoder_dim", 512, ["--decoder-dim", 512]),
    ("model.norm_pix_loss", False, ["--no-norm-pix-loss"]),
    ("model.patch_size", 8, ["--patch-size", 8]),
    ("mask_ratio", 0.5, ["--mask-ratio", 0.5]),
    ("mask_ratio", 0.99, ["--mask-ratio", 0.99]),
    ("past_mask", "symmetric", ["--past-mask", "symmetric"]),
    ("past_mask", "grid", ["--past-mask", "grid"]),
    ("predict", "past", ["--predict", "past"]),
    ("frame_gap", (16, 16), ["--frame-gap", 16, 16]),
    ("crop_scale", (0.2, 1.0), ["--crop-scale", 0.2, 1]),
    ("flip", 0.0, ["--flip", 0]),
    ("color_jitter", 0.4, ["--color-jitter", 0.4]),
    ("layer_decay", 0.75, ["--layer-decay", 0.75]),
    ("ema", 0.999, ["--ema", 0.999]),
]


@pytest.mark.parametrize(("field", "value", "options"), ABLATIONS, ids=lambda part: str(part).replace("--", ""))
def test_pretrain_reaches_every_axis_of_the_ablations(settings, field, value, options):
    config = settings("--preset", "siammae-k400", *options)
    preset = PretrainConfig.preset("siammae-k400", videos="clips", output_dir="run")
    part, _, name = field.rpartition(".")
    if part:
        assert config == preset.replace(model=preset.model.replace(**{name: value}))
    else:
        assert config == preset.replace(**{name: value})
    assert config != preset


def test_pretrain_with_auto_resume_gives_the_settings_and_lets_training_find_out(monkeypatch):
    seen = {}

    def pretrain(config, **options):
        seen.update(options, config=config)
        return Path("run/model")

    monkeypatch.setattr(siammae.pretraining, "pretrain", pretrain)
    assert main(["pretrain", "clips", "-o", "run", "--preset", "cropmae", "--auto-resume", "--device", "cpu"]) == 0
    assert seen["resume"] == "auto"
    assert seen["config"] == PretrainConfig.preset("cropmae", videos="clips", output_dir="run")


def test_pretrain_with_both_ways_to_resume_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "clips", "-o", "run", "--resume", "--auto-resume"])
    assert stop.value.code == 2
    assert "not allowed with argument --resume" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_pretrain_stopped_by_a_signal_saves_its_state_and_ends_with_its_code(number, tmp_path, monkeypatch, capsys):
    def step(*arguments):
        signal.raise_signal(number)
        return real(*arguments)

    real = trainer.train_step
    monkeypatch.setattr(trainer, "train_step", step)
    network = (
        "--size tiny --depth 1 --patch-size 16 --image-size 32 --decoder-dim 32 --decoder-depth 1 --decoder-heads 2"
    )
    recipe = "--epochs 2 --warmup-epochs 0 --batch-size 2 --workers 0 --device cpu --quiet"
    clips = make_clips(tmp_path / "clips", 2)
    argv = ["pretrain", str(clips), "-o", str(tmp_path / "run"), *network.split(), *recipe.split()]
    assert main(argv) == 128 + number
    assert "siammae: stopped at step 1 of 4; the state is saved" in capsys.readouterr().err
    assert saved_step(tmp_path / "run") == 1
