"""What conversion refuses: code in pickles, damaged files, anything it does not understand."""

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from siammae.config import ModelConfig, PretrainConfig
from siammae.convert import convert_checkpoint
from siammae.convert.families import FAMILIES, NAMES
from siammae.errors import CheckpointError
from tests.convert.foreign import foreign_tensors

VIT = "timm_vit_small_patch16"


def refused(tmp_path, source, match, error=CheckpointError, **options):
    torch.save(source, tmp_path / "foreign.pth")
    with pytest.raises(error, match=match):
        convert_checkpoint(tmp_path / "foreign.pth", tmp_path / "ours", **options)
    assert not (tmp_path / "ours").exists()


class Trap:
    """A pickle of this runs a command in whoever loads it carelessly."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("place", ["top", "beside", "in settings", "among tensors"])
def test_convert_of_a_pickle_with_code_is_refused_and_nothing_runs(place, new_format, tmp_path):
    trap, tensors = Trap(tmp_path / "ran"), foreign_tensors(VIT, depth=1)
    source = {
        "top": trap,
        "beside": {"model": tensors, "epoch": trap},
        "in settings": {"model": tensors, "args": argparse.Namespace(hook=trap)},
        "among tensors": {**tensors, "norm.weight": trap},
    }[place]
    torch.save(source, tmp_path / "foreign.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"holds a posix\.mkdir, .* could run code, so the file was not loaded"):
        convert_checkpoint(tmp_path / "foreign.pth", tmp_path / "ours")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ours").exists()
    torch.load(tmp_path / "foreign.pth", weights_only=False)  # the trap is a real one
    assert (tmp_path / "ran").is_dir()


def test_convert_of_a_plain_pickle_with_code_is_refused_and_nothing_runs(tmp_path):
    (tmp_path / "foreign.pth").write_bytes(pickle.dumps({"model": Trap(tmp_path / "ran")}))
    with pytest.raises(CheckpointError, match=r"damaged or no PyTorch checkpoint|holds a posix\.mkdir"):
        convert_checkpoint(tmp_path / "foreign.pth", tmp_path / "ours")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "thing", [Path("x"), ModelConfig(), torch.nn.Linear(1, 1)], ids=lambda thing: type(thing).__name__
)
def test_convert_of_other_objects_names_their_class(thing, tmp_path):
    refused(
        tmp_path, {"model": foreign_tensors(VIT, depth=1), "args": thing}, r"holds a [\w.]+(Path|ModelConfig|Linear)"
    )


def test_convert_of_numpy_objects_is_refused(tmp_path):
    refused(tmp_path, {"model": {}, "args": np.dtype("O")}, "NumPy type 'O8' in a checkpoint: only b1, i4")


def test_convert_leaves_the_list_of_harmless_classes_as_it_was(tmp_path):
    before = set(torch.serialization.get_safe_globals())  # a list made from a set, in any order
    torch.save({"model": foreign_tensors(VIT, depth=1), "args": argparse.Namespace()}, tmp_path / "m.pth")
    convert_checkpoint(tmp_path / "m.pth", tmp_path / "ours")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("keep", [0, 4, 1000, -100])
@pytest.mark.parametrize("new_format", [True, False])
def test_convert_of_a_cut_file_is_refused(keep, new_format, tmp_path):
    file = tmp_path / "foreign.pth"
    torch.save(foreign_tensors(VIT, depth=1), file, _use_new_zipfile_serialization=new_format)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"damaged or no PyTorch checkpoint: .*\. Get it again") as refusal:
        convert_checkpoint(file, tmp_path / "ours")
    assert "weights_only" not in str(refusal.value)  # PyTorch's message advises to turn the protection off


def test_convert_of_a_damaged_safetensors_file_is_refused(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"nothing of that kind")
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        convert_checkpoint(tmp_path / "m.safetensors", tmp_path / "ours")


def test_convert_of_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*m\.pth: pass a checkpoint file"):
        convert_checkpoint(tmp_path / "m.pth", tmp_path / "ours")


def test_convert_of_something_else_names_what_it_is(tmp_path):
    refused(tmp_path, [torch.zeros(1)], "holds a list: it must be a dictionary of tensors")
    refused(tmp_path, {"weights": {}, "epoch": 3}, r"holds \['epoch', 'weights'\]: neither tensors alone, nor any of")
    refused(tmp_path, {}, r"holds \[\]: neither tensors alone")
    refused(tmp_path, {"model": {"norm.weight": 1.0}}, r"'model' holds \['norm.weight'\], which are no tensors")


def test_convert_of_two_networks_in_one_is_refused(tmp_path):
    tensors = foreign_tensors(VIT, depth=1)
    refused(tmp_path, tensors | {"module.cls_token": tensors["cls_token"]}, "are the same tensor 'cls_token'")


@pytest.mark.parametrize("family", ["auto", "vit"])
def test_convert_of_unknown_tensors_names_them(family, tmp_path):
    tensors = foreign_tensors(VIT, depth=1) | {"blocks.0.attn.q_norm.weight": torch.ones(64), "adapter": torch.ones(1)}
    match = r"\['adapter', 'blocks.0.attn.q_norm.weight'\] fit .*never dropped.*TimmExtractor"
    refused(tmp_path, tensors, match, family=family)


def test_convert_of_a_mixture_of_families_is_refused(tmp_path):
    rsp = {name: tensor for name, tensor in foreign_tensors("rsp_vits16").items() if name.startswith("to_")}
    match = r"'to_posterior.0.bias', .*\] fit no family"
    refused(tmp_path, {"model": foreign_tensors("cropmae_vits16") | rsp}, match)
    many = {f"extra.{i}": torch.ones(1) for i in range(14)}
    refused(tmp_path, foreign_tensors(VIT, depth=1) | many, r"\] and 4 more fit no family")


@pytest.mark.parametrize(
    ("manifest", "family", "match"),
    [
        ("cropmae_vits16", "catmae", "no CatMAE checkpoint: its tensors fit family='cropmae'"),
        ("catmae_vits16", "cropmae", "'decoder_frame_info'.* fit not CropMAE"),
        ("rsp_vits16", "tobo", "'to_prior.* fit not ToBo"),
        ("mae_vitb16_full", "rsp", "no RSP checkpoint: its tensors fit family='mae'"),
        ("mae_vitb16_full", "vit", "'decoder_blocks.* fit not plain ViT"),
        ("dinov2_vits14_reg4", "tcore", "no T-CoRe checkpoint: its tensors fit family='dinov2'"),
        ("dinov2_vits14", "dino", "no DINO checkpoint: its tensors fit family='dinov2'"),
    ],
)
def test_convert_as_another_family_is_refused(manifest, family, match, tmp_path):
    refused(tmp_path, foreign_tensors(manifest), match, family=family)


def test_convert_with_an_unknown_family_lists_them(tmp_path):
    match = "family is 'dinosaur': it must be 'auto' or one of 'catmae', 'cropmae', .*'vit'"
    refused(tmp_path, foreign_tensors(VIT, depth=1), match, ValueError, family="dinosaur")
    assert len(set(NAMES)) == len(FAMILIES) == 9


def test_convert_of_dinov3_points_to_timm(tmp_path):
    match = r"'rope_embed.periods', 'storage_tokens'\] belong to DINOv3 or EVA.*TimmExtractor"
    refused(tmp_path, foreign_tensors("dinov3_vits16"), match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"cls_token": None}, "cls_token is missing: this is no whole ViT encoder"),
        ({"pos_embed": torch.zeros(197, 384)}, r"pos_embed is \(197, 384\), not 3-dimensional"),
        ({"patch_embed.proj.weight": torch.zeros(384, 4, 16, 16)}, "takes 4 channels: it must take 3"),
        ({"blocks.0.mlp.fc1.weight": None}, "blocks.0.mlp.fc1.weight is missing"),
        ({"norm.weight": None}, r"missing tensors \['encoder.norm.weight'\]"),
        ({"norm.weight": torch.zeros(7)}, r"encoder.norm.weight is \(7,\) instead of \(384,\)"),
        ({"norm.weight": torch.full((384,), torch.nan)}, "encoder.norm.weight has NaN"),
        ({"pos_embed": torch.zeros(1, 1 + 14 * 15, 384)}, "encoder.pos_embed is .* instead of"),
        ({"blocks.7.norm1.weight": torch.ones(384)}, r"missing tensors .*unexpected tensors \['encoder.blocks.7"),
    ],
    ids=str,
)
def test_convert_of_an_incomplete_encoder_names_the_tensor(changes, match, tmp_path):
    tensors = {**foreign_tensors(VIT, depth=1), **changes}
    refused(tmp_path, {name: tensor for name, tensor in tensors.items() if tensor is not None}, match)


def test_convert_of_an_incomplete_decoder_names_the_tensor(tmp_path):
    tensors = foreign_tensors("cropmae_vits16", depth=1)
    del tensors["decoder_embed.weight"]
    refused(tmp_path, tensors, "decoder.embed.weight is missing")


def test_convert_of_an_unusual_width_asks_for_the_heads(tmp_path):
    tensors = {
        name: torch.zeros([64 if side == 384 else side for side in tensor.shape])
        for name, tensor in foreign_tensors(VIT, depth=1).items()
    }
    refused(tmp_path, tensors, "no public network is 64 wide, .*pass num_heads=", ValueError)


def test_convert_with_an_unknown_field_is_refused(tmp_path):
    refused(tmp_path, foreign_tensors(VIT, depth=1), r"unknown ModelConfig fields \['heads'\]", ValueError, heads=3)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"registers": -1, "position": "learned"}, "registers is -1: it must be at least 0"),
        ({"registers": 4}, "position is 'sincos': it must be 'learned' with registers"),
        ({"position_offset": 0.1}, "position is 'sincos': it must be 'learned' with registers, a position_offset or"),
        ({"position_antialias": True}, "position is 'sincos': it must be 'learned' with .* or position_antialias"),
        ({"position_offset": 1.0, "position": "learned"}, r"position_offset is 1.0: it must be in \[0, 1\)"),
        ({"decoder": "none at all"}, "decoder is 'none at all': it must be one of .*'cropmae', 'none'"),
    ],
)
def test_model_config_with_wrong_foreign_fields_is_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        ModelConfig(**fields)


def test_pretrain_config_of_a_network_without_decoder_is_refused():
    with pytest.raises(ValueError, match=r"model\.decoder is 'none': it must be one that predicts pixels"):
        PretrainConfig(videos="clips", output_dir="run", model=ModelConfig(decoder="none"))
