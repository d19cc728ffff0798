"""The dtype where nobody chose one."""

import logging

import numpy as np
import pytest
import torch

import siammae
from siammae.config import ModelConfig, PropagationConfig
from siammae.network import cpu_layers, dtypes
from siammae.network.dtypes import choose_dtype
from siammae.network.loading import load_extractor

_TINY = ModelConfig(patch_size=8, image_size=16, embed_dim=24, depth=1, num_heads=2, decoder="none")


@pytest.fixture
def checkpoint(tmp_path):
    return siammae.SiamMAE(_TINY).save_pretrained(tmp_path / "tiny")


@pytest.fixture(params=(True, False))
def faster(request, monkeypatch):
    monkeypatch.setattr(dtypes, "bfloat16_is_faster", lambda: request.param)
    load_extractor.__globals__["_load"].cache_clear()
    yield request.param
    load_extractor.__globals__["_load"].cache_clear()


@pytest.mark.parametrize(
    ("make", "bfloat16", "amx", "expected"),
    [
        ("AuthenticAMD", True, False, True),
        ("AuthenticAMD", False, False, False),
        ("GenuineIntel", True, False, False),  # half the rate of float32
        ("GenuineIntel", True, True, True),
        ("", False, False, False),
    ],
)
def test_bfloat16_is_faster_with_amx_and_on_amd_with_its_instruction(monkeypatch, make, bfloat16, amx, expected):
    monkeypatch.setattr(cpu_layers, "_make", lambda: (make, 6))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert cpu_layers.bfloat16_is_faster() is expected


def test_auto_takes_what_is_faster_on_the_cpu(faster):
    assert choose_dtype("auto", None) == (torch.bfloat16 if faster else torch.float32)
    assert choose_dtype("auto", "mps") == torch.float32


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_auto_asks_a_cuda_device_for_its_capability(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype("auto", "cuda:0") == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_dtype_that_was_asked_for_is_never_replaced(faster, dtype):
    assert choose_dtype(dtype, "cpu") == dtype


def test_another_word_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"must be 'auto' or a torch\.dtype"):
        siammae.SiamMAE.from_pretrained(checkpoint, dtype="bf16")


def test_from_pretrained_chooses_and_says_so(checkpoint, faster):
    model = siammae.SiamMAE.from_pretrained(checkpoint)
    assert model.dtype == (torch.bfloat16 if faster else torch.float32)


def test_features_are_float32_unless_another_dtype_was_asked_for(checkpoint, faster):
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    assert siammae.SiamMAE.from_pretrained(checkpoint).extract(frames).numpy().dtype == np.float32
    assert siammae.SiamMAE.from_pretrained(checkpoint, dtype=torch.bfloat16).extract(frames).dtype == torch.bfloat16
    name = "vit_tiny_patch16_224"
    options = {"pretrained": False, "depth": 1, "img_size": 16}
    assert siammae.TimmExtractor.from_pretrained(name, **options).extract(frames).numpy().dtype == np.float32


def test_rounded_weights_are_not_stored_unasked(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(dtypes, "bfloat16_is_faster", lambda: True)
    model = siammae.SiamMAE.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match=r"rounded to torch.bfloat16 .* dtype=torch.float32"):
        model.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    model.save_pretrained(tmp_path / "asked", dtype=torch.bfloat16)
    siammae.SiamMAE.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(tmp_path / "chosen")


def test_rounded_weights_warn_who_trains_them(checkpoint, monkeypatch, caplog):
    monkeypatch.setattr(dtypes, "bfloat16_is_faster", lambda: True)
    with caplog.at_level(logging.WARNING):
        siammae.SiamMAE.from_pretrained(checkpoint, dtype=torch.float32).train()
        assert not caplog.records
        siammae.SiamMAE.from_pretrained(checkpoint).train()
    assert "dtype=torch.float32" in caplog.text


def test_rules_of_public_codes_load_float32(checkpoint, faster):
    public = PropagationConfig.preset("dino").replace(resize=240)
    assert load_extractor(checkpoint, public).dtype == torch.float32
    for own in (None, PropagationConfig(), public.replace(top_k=9)):
        assert load_extractor(checkpoint, own).dtype == (torch.bfloat16 if faster else torch.float32)
