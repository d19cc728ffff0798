"""The recipes of pretraining against their sources: the published ones with each value written out again."""

import json
import re
from pathlib import Path

import pytest
import torch

import siammae
from siammae import pretraining
from siammae.cli import main
from siammae.config import ModelConfig, PretrainConfig
from siammae.config.recipes import RECIPES
from siammae.network.masking import random_kept
from siammae.network.model import SiamMAE
from siammae.pretraining.schedule import learning_rate, total_steps

BUNDLED = Path(siammae.__file__).parent / "weights" / "siammae-ti8"
VIT_S = {"embed_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4.0, "image_size": 224, "position": "sincos"}
DECODER = {"decoder_dim": 256, "decoder_depth": 4, "decoder_heads": 8}  # CropMAE's; the paper's is not public

# Gupta et al. 2023, table 4a and text.
PAPER = {
    "frame_gap": (4, 48),  # "frame gap: uniform random in [4, 48]"
    "mask_ratio": 0.95,  # "masking: f1 0 %, f2 95 % random"
    "past_mask": "none",
    "predict": "future",  # "f1 earlier than f2", f2 is predicted
    "betas": (0.9, 0.95),  # "AdamW, betas (0.9, 0.95), weight decay 0.05"
    "weight_decay": 0.05,
    "base_lr": 1.5e-4,  # "base lr 1.5e-4 (x batch/256), cosine, 40 warm-up epochs"
    "batch_size": 2048,  # "batch 2048; 2000 epochs; repeated sampling factor 2"
    "samples_per_video": 2,
    "epochs": 1000,  # 2000 pairs of each video
    "warmup_epochs": 20,  # 40 pairs of each video
    "flip": 0.5,  # "horizontal flip + random resized crop [0.5, 1], same crop for both frames; nothing else"
    "crop_scale": (0.5, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),  # torchvision's default
    "color_jitter": 0.0,
    "still_share": 0.0,
    "match_weight": 0.0,
    "init": None,
    "ema": None,
    "layer_decay": 1.0,
    "clip_grad": None,
    "precision": "auto",  # not stated
}
PAPER_MODEL = {
    **VIT_S,
    **DECODER,
    "encoder": "siamese",  # "siamese shared encoder"
    "decoder": "cross-self",  # "cross-attention, then self-attention, then MLP"
    "norm_pix_loss": True,  # "predicts normalised pixels, l2 on masked patches"
    "patch_size": 16,
}

# CropMAE, scripts/train_siammae_k400.sh and the code it runs.
CROPMAE_REPO = {
    **PAPER,
    "frame_gap": (4, 47),  # np.random.randint(4, 48) leaves the upper bound out
    "samples_per_video": 1,  # --repeated_sampling_factor=1
    "epochs": 400,  # --epochs=400
    "warmup_epochs": 20,  # --warmup_epochs_prop=0.05
    "base_lr": 1e-4,  # --blr=1e-4
    "batch_size": 2048,  # --batch_size=128 on 4 nodes of 4 GPUs
    "precision": "fp16",  # torch.cuda.amp.autocast() and a gradient scaler
}
CROPMAE_MODEL = {**PAPER_MODEL, "decoder": "cropmae"}  # --decoder_embed_dim=256 --decoder_depth=4 --decoder_num_heads=8

# CropMAE, scripts/train_cropmae_in.sh and train_cropmae_k400.sh.
CROPMAE = {
    **{field: value for field, value in CROPMAE_REPO.items() if field != "frame_gap"},  # of no use in still pairs
    "mask_ratio": 0.985,  # --masking_ratio=0.985
    "still_share": 1.0,  # GlobalToLocal: both views are cut from one image
    "still_scale": (0.3, 0.6),  # --random_area_min_local=0.3 --random_area_max_local=0.6, of the global view
    "still_gap": 0,
    "still_rotation": 0.0,
    "crop_scale": (0.1, 1.0),  # --random_area_min_global=0.10 --random_area_max_global=1.0
}

PUBLISHED = {
    "siammae-k400": (PAPER, PAPER_MODEL),
    "siammae-k400-s8": (PAPER, {**PAPER_MODEL, "patch_size": 8}),
    "siammae-k400-b16": (PAPER, {**PAPER_MODEL, "embed_dim": 768, "num_heads": 12}),
    "cropmae-repo": (CROPMAE_REPO, CROPMAE_MODEL),
    "cropmae": (CROPMAE, CROPMAE_MODEL),
    "cropmae-k400": ({**CROPMAE, "crop_scale": (0.5, 1.0)}, CROPMAE_MODEL),  # --random_area_min_global=0.50
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_has_the_values_of_its_source(name):
    config = PretrainConfig.preset(name, videos="clips", output_dir="run")
    fields, network = PUBLISHED[name]
    assert {field: getattr(config, field) for field in fields} == fields
    assert {field: getattr(config.model, field) for field in network} == network
    assert (config.videos, config.output_dir) == ("clips", "run")
    assert PretrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_preset_is_checked_here():
    assert set(RECIPES) == {*PUBLISHED, *(f"siammae-ti8-leg{leg}" for leg in range(1, 6))}


def test_presets_of_the_bundled_checkpoint_are_the_commands_in_its_card(monkeypatch):
    made = []
    monkeypatch.setattr(pretraining, "pretrain", lambda config, **_: made.append(config) or "model")
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"-m siammae pretrain (.*?)\n(?=\s*torchrun|\s*python|\s*```)", card, re.DOTALL)
    first, second, *later = (command.replace("\\\n", " ") for command in commands)
    second = second.replace("(the same but)", re.sub(r"CLIPS -o \w+", "", first))
    same = re.sub(r"CLIPS -o \w+ --init \S+", "", second)
    legs = [first, second, *(leg.replace("(the same as the second but)", same) for leg in later)]
    for number, command in enumerate(legs, start=1):
        assert main(["pretrain", *command.split(), "--device", "cpu"]) == 0
        config = made.pop()
        preset = PretrainConfig.preset(f"siammae-ti8-leg{number}", videos="CLIPS", output_dir=config.output_dir)
        assert config == preset.replace(init=config.init)
        assert command.count("--init") == (number > 1)
    assert len(legs) == 5
    model = SiamMAE.from_pretrained()
    assert model.config == config.model


@pytest.mark.parametrize(("name", "patches", "kept"), [("siammae-k400", 196, 9), ("siammae-k400-s8", 784, 39)])
def test_preset_of_the_paper_leaves_its_number_of_patches(name, patches, kept):
    config = PretrainConfig.preset(name, videos="clips", output_dir="run")
    assert config.model.grid_size**2 == patches
    assert random_kept(draw(patches), config.mask_ratio).shape == (1, kept)


def test_preset_of_cropmae_leaves_two_patches():  # "the reconstruction of images using only two visible patches"
    config = PretrainConfig.preset("cropmae", videos="clips", output_dir="run")
    assert random_kept(draw(196), config.mask_ratio).shape == (1, 2)


def draw(patches):
    return torch.rand(1, patches, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "pairs", "warmup", "peak"),
    [("siammae-k400", 2000, 40, 1.2e-3), ("cropmae-repo", 400, 20, 8e-4), ("cropmae", 400, 20, 8e-4)],
)
def test_preset_makes_as_many_steps_as_its_source_counts_pairs_a_video(name, pairs, warmup, peak):
    config = PretrainConfig.preset(name, videos="clips", output_dir="run")
    videos = 240_000  # about Kinetics-400
    steps = total_steps(config, videos)
    assert steps == pairs * videos / 2048
    rates = [learning_rate(step, config, steps) for step in range(0, steps, 25)]
    assert max(rates) == pytest.approx(peak, rel=1e-4)
    assert rates.index(max(rates)) * 25 == pytest.approx(warmup * videos / 2048, abs=25)


def test_preset_with_other_fields_has_those():
    config = PretrainConfig.preset(
        "siammae-k400", videos="clips", output_dir="run", epochs=200, past_mask="grid", model=ModelConfig.vit("tiny")
    )
    assert (config.epochs, config.past_mask, config.model.embed_dim) == (200, "grid", 192)
    assert config.base_lr == 1.5e-4


def test_preset_with_paths_holds_strings(tmp_path):
    config = PretrainConfig.preset("cropmae", videos=tmp_path, output_dir=tmp_path / "run")
    assert (config.videos, config.output_dir) == (str(tmp_path), str(tmp_path / "run"))


def test_preset_that_is_unknown_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ValueError, match=r"^no preset 'siammae': known are siammae-k400, .*, cropmae"):
        PretrainConfig.preset("siammae", videos="clips", output_dir="run")


def test_preset_with_a_wrong_field_is_refused():
    with pytest.raises(ValueError, match=r"unknown PretrainConfig fields \['epoch'\]"):
        PretrainConfig.preset("siammae-k400", videos="clips", output_dir="run", epoch=3)
    with pytest.raises(ValueError, match=r"mask_ratio is 1\.5: it must be between 0 and 1"):
        PretrainConfig.preset("siammae-k400", videos="clips", output_dir="run", mask_ratio=1.5)
