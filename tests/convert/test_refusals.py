"""What conversion refuses: code in pickles, damaged files, anything it does not understand."""

import argparse
import os
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from siammae.config import ModelConfig, PretrainConfig
from siammae.convert import convert_checkpoint
from siammae.convert.families import FAMILIES, NAMES
from siammae.convert.reading import check_storage
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
    refused(tmp_path, {"weights": {}, "epoch": 3}, r"holds \['epoch', 'weights'\]: neither named tensors alone,")
    refused(tmp_path, {}, r"holds \[\]: neither named tensors alone")
    refused(tmp_path, {"model": {"norm.weight": 1.0}}, r"'model' holds \['norm.weight'\], no named tensors")


def test_convert_of_two_networks_in_one_is_refused(tmp_path):
    tensors = foreign_tensors(VIT, depth=1)
    refused(
        tmp_path,
        tensors | {"module.cls_token": tensors["cls_token"]},
        r"\['cls_token', 'module.cls_token'\] are one tensor",
    )


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
    assert len(set(NAMES)) == len(FAMILIES) == 11


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
        ({"cls_token": torch.zeros(1, 1, 7)}, r"cls_token is \(1, 1, 7\) and pos_embed .* must be \(1, 1, C\)"),
        ({"cls_token": torch.zeros(384, 1, 1)}, r"cls_token is \(384, 1, 1\) and pos_embed .* must be \(1, 1, C\)"),
        ({"reg_token": torch.zeros(384)}, r"reg_token is \(384,\), not 3-dimensional"),
        ({"patch_embed.proj.weight": torch.zeros(0, 3, 16, 16)}, "patch_embed.proj.weight is empty"),
        (
            {"patch_embed.proj.weight": torch.zeros(384, 3, 2048, 1)},
            "describe cannot be: patch_size is 2048: it must be",
        ),
        ({"norm.weight": torch.zeros(384, dtype=torch.int32)}, "encoder.norm.weight is int32, but weights are float32"),
        ({"norm.weight": torch.zeros(384, dtype=torch.bool)}, "encoder.norm.weight is bool, but weights are"),
        ({"norm.weight": torch.zeros(384, dtype=torch.complex64)}, "encoder.norm.weight is complex64, but weights are"),
        (
            {"norm.weight": torch.zeros(384).to(torch.float8_e5m2)},
            "encoder.norm.weight is float8_e5m2, but weights are",
        ),
        ({"norm.weight": torch.zeros(384, device="meta")}, r"\['encoder.norm.weight'\] is no plain tensor"),
        ({"norm.weight": torch.zeros(1).expand(384)}, r"the tensors claim [\d,]+ bytes, but the file holds [\d,]+ for"),
        ({"norm.weight": torch.zeros(384), 7: torch.zeros(1)}, r"holds \['7', .*neither named tensors alone"),
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


@pytest.mark.filterwarnings("ignore")  # PyTorch's own about sparse tensors
def test_check_storage_refuses_layouts_that_are_not_plain():
    for tensor in (torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(), torch.zeros(3, device="meta")):
        with pytest.raises(CheckpointError, match=r"\['weight'\] is no plain tensor: sparse, quantized or without"):
            check_storage({"weight": tensor})
    check_storage({"a": torch.zeros(4)[:2], "b": torch.zeros(3, 2).T})


def peak():
    """Return the memory that this process had at most, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_convert_of_a_packed_file_that_unpacks_to_much_more_is_refused_unread(tmp_path):
    file, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"model": foreign_tensors(VIT, depth=1), "bomb": torch.zeros(1)}, file)
    with zipfile.ZipFile(file) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
        with archive.open("plain/data/bomb", "w", force_zip64=True) as bomb:
            for _ in range(400):
                bomb.write(bytes(1 << 20))
    before = peak()
    match = r"packed\.pth has [\d,]+ bytes and unpacks to 4\d\d,\d+,\d+: .*at most 4 times the size is read\. .*zip -0"
    with pytest.raises(CheckpointError, match=match):
        convert_checkpoint(packed, tmp_path / "ours")
    assert peak() - before < 100_000
    assert not (tmp_path / "ours").exists()


def test_convert_of_a_tensor_repeated_by_its_strides_takes_no_memory(tmp_path):
    tensors = foreign_tensors(VIT, depth=1)
    before = peak()
    many = torch.zeros(1, 1, 384).expand(1, 10**9, 384)
    refused(tmp_path, tensors | {"pos_embed": many}, "claim 1,536,0.* bytes, but the file holds .* Save a copy of each")
    assert peak() - before < 100_000


def test_convert_of_very_many_or_very_long_names_has_a_short_message(tmp_path):
    one = torch.zeros(1)
    for tensors in ({f"tensor.{i}": one for i in range(30_000)}, {f"{i}{'x' * 9000}": one for i in range(100)}):
        torch.save(foreign_tensors(VIT, depth=1) | tensors, tmp_path / "foreign.pth")
        with pytest.raises(
            CheckpointError, match=r"holds 30,\d+ tensors: at most 20,000 are taken|and 90 more fit"
        ) as refusal:
            convert_checkpoint(tmp_path / "foreign.pth", tmp_path / "ours")
        assert len(str(refusal.value)) < 2500
    long = {f"{i}{'x' * 9000}": 1 for i in range(1000)}
    torch.save({"model": foreign_tensors(VIT, depth=1), **long}, tmp_path / "foreign.pth")
    assert len(str(convert_checkpoint(tmp_path / "foreign.pth", tmp_path / "ours"))) < 20_000


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"depth": 1_000_000}, "depth is 1000000: it must be at most 512"),
        ({"depth": 500}, r"missing tensors \['encoder.blocks.1.attn.* and \d+ more"),
        ({"image_size": 16_384}, r"encoder.pos_embed is \(1, 197, 384\) instead of \(1, 1048577, 384\)"),
        ({"num_heads": "six"}, "num_heads is 'six': it must be a whole number"),
        ({"num_heads": 0}, "num_heads is 0: it must be at least 1"),
    ],
)
def test_convert_with_fields_that_the_tensors_contradict_takes_no_memory(fields, match, tmp_path):
    tensors = foreign_tensors(VIT, depth=1)
    before = peak()
    refused(tmp_path, tensors, match, (ValueError, CheckpointError), **fields)
    assert peak() - before < 100_000


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
