"""Converted checkpoints against the networks they come from."""

import argparse
import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import siammae
from siammae.cli import main
from siammae.convert import convert_checkpoint
from tests.convert.foreign import as_grid, foreign_tensors, normalised, plain_vit
from tests.convert.positions import dino, dinov2_registers, mae
from tests.convert.positions import dinov2_registers as timm


def settings():
    """What training scripts pickle beside their weights."""
    args = argparse.Namespace(
        lr=1e-4, model="vits", dims=(4, 4), loss=np.float32(0.5), steps=np.int64(7), amp=np.bool_(1)
    )
    return {"optimizer": {"state": {}}, "epoch": 399, "scaler": {"scale": 1.0}, "args": args, "best": np.float64(1.5)}


def wrapped(key):
    return lambda tensors: {key: tensors, **settings()}


def prefixed(prefix, more=()):
    return lambda tensors: (
        {prefix + name: tensor for name, tensor in tensors.items()} | {name: torch.zeros(3, 2) for name in more}
    )


def dino_full(tensors):
    heads = ["head.mlp.0.weight", "head.last_layer.weight_v"]
    student = {"module." + name: tensor + 1 for name, tensor in prefixed("backbone.", heads)(tensors).items()}
    return {"student": student, "teacher": prefixed("backbone.", heads)(tensors), "dino_loss": {}, **settings()}


def chunked(tensors):
    return {
        name.replace("blocks.1.", "blocks.3.1.").replace("blocks.0.", "blocks.0.0."): t for name, t in tensors.items()
    }


def tcore(tensors):
    return {
        "teacher": prefixed("backbone.", ["dino_head.mlp.0.weight", "ibot_head.mlp.0.weight"])(tensors),
        "iteration": 5,
    }


def one_training_dictionary(tensors):
    both = prefixed("teacher.backbone.", ["student.backbone.cls_token", "dino_loss.center"])(tensors)
    return {"model": both, "iteration": 5}


# file, wrapper, family it is recognised as, heads, rule of its positions, decoder
CASES = {
    "cropmae": ("cropmae_vits16", wrapped("model"), "cropmae", 6, dino, "cropmae"),
    "catmae": ("catmae_vits16", wrapped("model"), "catmae", 6, dino, "none"),
    "rsp": ("rsp_vits16", wrapped("model"), "rsp", 6, dino, "none"),
    "tobo": ("tobo_vits16", wrapped("model"), "tobo", 6, dino, "none"),
    "mae full": ("mae_vitb16_full", wrapped("model"), "mae", 12, mae, "none"),
    "mae encoder": ("mae_vitb16_encoder", wrapped("model"), "vit", 12, timm, "none"),
    "dino backbone": ("dino_vits8_backbone", dict, "vit", 6, timm, "none"),
    "dino full": ("dino_vits8_backbone", dino_full, "dino", 6, dino, "none"),
    "dinov2": ("dinov2_vits14", dict, "dinov2", 6, dino, "none"),
    "dinov2 in chunks": ("dinov2_vits14", chunked, "dinov2", 6, dino, "none"),
    "dinov2 training": ("dinov2_vits14", one_training_dictionary, "dinov2", 6, dino, "none"),
    "dinov2 registers": ("dinov2_vits14_reg4", dict, "dinov2", 6, dinov2_registers, "none"),
    "tcore": ("tcore_vits16", tcore, "tcore", 6, dinov2_registers, "none"),
    "timm": ("timm_vit_small_patch16", dict, "vit", 6, timm, "none"),
    "timm state_dict": (
        "timm_vit_small_patch16",
        lambda t: wrapped("state_dict")(prefixed("module.")(t)),
        "vit",
        6,
        timm,
        "none",
    ),
    "timm registers": ("timm_vit_small_patch14_reg4", prefixed("_orig_mod."), "vit", 6, timm, "none"),
}


def frames(height, width, count=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def converted(tmp_path, source, **options):
    torch.save(source, tmp_path / "foreign.pth")
    report = convert_checkpoint(tmp_path / "foreign.pth", tmp_path / "ours", **options)
    return report, siammae.SiamMAE.from_pretrained(tmp_path / "ours")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("grid", [(3, 5), (6, 41)], ids=str)  # smaller than the table, and wider
def test_converted_checkpoint_has_the_features_of_the_source(case, grid, tmp_path):
    manifest, wrap, family, heads, rule, decoder = CASES[case]
    tensors = foreign_tensors(manifest)
    tensors["pos_embed"] *= 25  # as large as a trained table's values
    report, model = converted(tmp_path, wrap(tensors))
    assert (report.family, model.config.decoder) == (family, decoder)
    p = model.patch_size
    video = frames(grid[0] * p, grid[1] * p, count=2)
    with torch.inference_mode():
        expected = plain_vit(normalised(video), tensors, heads=heads, rule=rule)
    got = model.extract(video)
    torch.testing.assert_close(got, as_grid(expected, *grid), atol=3e-5, rtol=0)


@pytest.mark.parametrize("family", ["mae", "dino", "vit"])
def test_a_bare_encoder_has_the_positions_of_the_family_it_is_said_to_be_of(family, tmp_path):
    tensors = foreign_tensors("timm_vit_small_patch16", depth=1)
    _, model = converted(tmp_path, tensors, family=family)
    video = frames(48, 80)
    rule = {"mae": mae, "dino": dino, "vit": timm}[family]
    with torch.inference_mode():
        expected = plain_vit(normalised(video), tensors, heads=6, rule=rule)
    torch.testing.assert_close(model.extract(video), as_grid(expected, 3, 5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["dino full", "dinov2", "dinov2 registers", "tcore"])
def test_converted_checkpoint_at_its_own_size_uses_the_table_as_it_is(case, tmp_path):
    manifest, wrap, _, heads, _, _ = CASES[case]
    tensors = foreign_tensors(manifest, depth=1)
    _, model = converted(tmp_path, wrap(tensors))
    side = model.config.grid_size
    video = frames(model.config.image_size, model.config.image_size)
    with torch.inference_mode():
        expected = plain_vit(normalised(video), tensors, heads=heads)
    torch.testing.assert_close(model.extract(video), as_grid(expected, side, side), atol=1e-5, rtol=0)


def test_converted_checkpoint_gives_inner_layers_of_the_source(tmp_path):
    tensors = foreign_tensors("dinov2_vits14_reg4")
    _, model = converted(tmp_path, tensors)
    video = frames(28, 42)
    with torch.inference_mode():
        expected = plain_vit(normalised(video), tensors, heads=6, rule=dinov2_registers, blocks=1, norm=False)
    torch.testing.assert_close(model.extract(video, layer=0, norm=False), as_grid(expected, 2, 3), atol=1e-5, rtol=0)


def test_convert_of_a_whole_vits_maps_every_tensor(tmp_path):
    tensors = foreign_tensors("cropmae_vits16", depth=None)
    assert len(tensors) == 230
    report, model = converted(tmp_path, {"model": tensors, **settings()})
    assert set(report.mapped) == set(tensors)
    assert set(report.mapped.values()) == set(model.state_dict())
    assert set(report.dropped) == set(settings())
    assert model.config == siammae.ModelConfig.vit(
        "small", position="learned", position_offset=0.1, decoder="cropmae", decoder_heads=8
    )


def test_convert_reads_safetensors(tmp_path):
    tensors = foreign_tensors("timm_vit_small_patch16", depth=1)
    save_file(tensors | {"head.weight": torch.zeros(10, 384), "head.bias": torch.zeros(10)}, tmp_path / "m.safetensors")
    report = convert_checkpoint(tmp_path / "m.safetensors", tmp_path / "ours")
    assert report.dropped == dict.fromkeys(["head.weight", "head.bias"], "classifier: features do not need it")
    model = siammae.SiamMAE.from_pretrained(tmp_path / "ours")
    assert torch.equal(model.encoder.pos_embed, tensors["pos_embed"])


def test_convert_of_half_precision_and_old_pickles_keeps_the_values(tmp_path):
    tensors = {name: tensor.bfloat16() for name, tensor in foreign_tensors("timm_vit_small_patch16", depth=1).items()}
    torch.save({"model": tensors}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    convert_checkpoint(tmp_path / "old.pth", tmp_path / "ours")
    model = siammae.SiamMAE.from_pretrained(tmp_path / "ours")
    assert torch.equal(model.encoder.norm.weight, tensors["norm.weight"].float())


def test_convert_of_a_table_without_cls_row_gives_cls_no_position(tmp_path):
    tensors = foreign_tensors("timm_vit_small_patch16", depth=1)
    tensors["pos_embed"] = tensors["pos_embed"][:, 1:].clone()
    _, model = converted(tmp_path, tensors)
    video = frames(48, 32)
    with torch.inference_mode():
        expected = plain_vit(normalised(video), tensors, heads=6, rule=timm)
    torch.testing.assert_close(model.extract(video), as_grid(expected, 3, 2), atol=1e-5, rtol=0)


def test_convert_with_fields_says_what_tensors_cannot(tmp_path):
    tensors = foreign_tensors("timm_vit_small_patch16", depth=1)
    half = (0.5, 0.5, 0.5)
    report, model = converted(tmp_path, tensors, num_heads=12, pixel_mean=half, pixel_std=half)
    video = frames(32, 32)
    with torch.inference_mode():
        expected = plain_vit(normalised(video, half, half), tensors, heads=12, rule=timm)
    torch.testing.assert_close(model.extract(video), as_grid(expected, 2, 2), atol=1e-5, rtol=0)
    assert not any("heads" in note or "pixels" in note for note in report.notes)


def test_convert_of_a_bare_encoder_with_family_uses_its_rules(tmp_path):
    report, model = converted(tmp_path, foreign_tensors("dino_vits8_backbone", depth=1), family="dino")
    assert (report.family, model.config.position_offset) == ("dino", 0.1)
    assert any("offset of 0.1" in note for note in report.notes)


def test_card_and_report_name_source_hash_family_mapped_and_dropped(tmp_path):
    report, _ = converted(tmp_path, wrapped("model")(foreign_tensors("catmae_vits16")))
    sha256 = hashlib.sha256((tmp_path / "foreign.pth").read_bytes()).hexdigest()
    card = (tmp_path / "ours" / "README.md").read_text()
    for text in (
        f"`foreign.pth`, sha256 `{sha256}`",
        "family: catmae, weights under `model`",
        "`blocks.N.* -> encoder.blocks.N.*` x24",
        "(CatMAE's decoder predicts two frames at once): `mask_token`",
        "`decoder_blocks.N.*` x36",
        "`optimizer`, `epoch`, `scaler`, `args`, `best`",
        "6 heads, from the width 384",
    ):
        assert text in card
        assert text in str(report)
    assert "licence" in card


def test_convert_command_writes_a_checkpoint_that_info_describes(tmp_path, capsys):
    torch.save(tcore(foreign_tensors("tcore_vits16")), tmp_path / "tcore.pth")
    assert (
        main(["convert", str(tmp_path / "tcore.pth"), "-o", str(tmp_path / "ours"), "--set", "pixel_std=[1,1,1]"]) == 0
    )
    assert "family: tcore" in capsys.readouterr().out
    assert siammae.SiamMAE.from_pretrained(tmp_path / "ours").config.pixel_std == (1, 1, 1)
    assert main(["info", str(tmp_path / "ours"), "--card"]) == 0
    out = capsys.readouterr().out
    for text in (
        "patch 16, 4 registers, LayerScale",
        "decoder      none: features only",
        "Converted checkpoint: T-CoRe",
    ):
        assert text in out


def test_convert_command_with_a_bad_file_says_so_in_one_line(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "nothing.pth"), "-o", str(tmp_path / "ours")]) == 1
    assert "siammae convert: error: no file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["family", "file", "folder", "overwrite"])
def test_convert_command_with_an_argument_among_the_fields_says_which_option_it_is(name, tmp_path, capsys):
    assert main(["convert", str(tmp_path / "m.pth"), "-o", str(tmp_path / "ours"), "--set", f"{name}=mae"]) == 1
    error = capsys.readouterr().err
    assert f"siammae convert: error: --set {name}: it is no field of ModelConfig. Say whose checkpoint" in error


def test_convert_replaces_nothing_that_is_there_unless_asked(tmp_path, capsys):
    torch.save(foreign_tensors("timm_vit_small_patch16", depth=1), tmp_path / "m.pth")
    out = tmp_path / "project"
    out.mkdir()
    (out / "README.md").write_text("mine")
    (out / "notes.txt").write_text("mine too")
    argv = ["convert", str(tmp_path / "m.pth"), "-o", str(out)]
    assert main(argv) == 1
    assert "holds README.md already: choose another output, or allow that it is replaced" in capsys.readouterr().err
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "notes.txt"]
    assert (out / "README.md").read_text() == "mine"
    assert main([*argv, "--overwrite"]) == 0
    names = ["README.md", "config.json", "model.safetensors", "notes.txt"]
    assert sorted(file.name for file in out.iterdir()) == names
    assert "Converted checkpoint" in (out / "README.md").read_text()
    with pytest.raises(ValueError, match=r"holds README\.md already"):
        convert_checkpoint(tmp_path / "m.pth", out)


@pytest.mark.parametrize("overwrite", [False, True])
def test_convert_never_replaces_its_source(overwrite, tmp_path):
    source = tmp_path / "model.safetensors"
    save_file(foreign_tensors("timm_vit_small_patch16", depth=1), source)
    before = source.read_bytes()
    with pytest.raises(ValueError, match=r"model\.safetensors is an input, and inputs are never overwritten"):
        convert_checkpoint(source, tmp_path, overwrite=overwrite)
    with pytest.raises(ValueError, match="is a file: it must be a folder"):
        convert_checkpoint(source, source, overwrite=overwrite)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert source.read_bytes() == before


def test_forward_of_features_only_checkpoint_is_refused_but_masks_can_be_followed(tmp_path):
    _, model = converted(tmp_path, foreign_tensors("timm_vit_small_patch16", depth=1))
    pair = torch.zeros(1, 3, 32, 32)
    with pytest.raises(RuntimeError, match=r"has no decoder .* Use extract"):
        model(pair, pair)
    mask = np.zeros((32, 48), np.uint8)
    mask[:, :16] = 1
    tracks = siammae.propagate_masks(frames(32, 48, count=2), mask, model=model)
    assert tracks.labels.shape == (2, 32, 48)
    model.save_pretrained(tmp_path / "again")
    assert siammae.SiamMAE.from_pretrained(tmp_path / "again").config == model.config
