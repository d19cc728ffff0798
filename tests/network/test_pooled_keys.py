"""Attention to averaged keys: against its plain statement, in every network that has it."""

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import Attention

from siammae import SiamMAE, TimmExtractor
from siammae.config import ModelConfig, PropagationConfig
from siammae.network import cpu_layers
from siammae.network.cpu_layers import CpuAttention, use_cpu_layers
from siammae.network.pooled_keys import KeyPooling, pooled_keys
from siammae.propagation.propagator import Propagator

SMALL = ModelConfig(patch_size=8, image_size=32, embed_dim=64, depth=2, num_heads=2, decoder_depth=1, decoder_dim=32)


def stated(layer, x, side, grid, prefix):
    """Attention as its definition says: a loop over means, no layout, no library product."""
    b, n, c = x.shape
    qkv = layer.qkv(x).view(b, n, 3, layer.num_heads, -1)
    q, k, v = qkv.unbind(2)  # (B, N, heads, D)
    boxes = [[token] for token in range(prefix)]
    for top in range(0, grid[0], side):
        for left in range(0, grid[1], side):
            rows, columns = range(top, min(top + side, grid[0])), range(left, min(left + side, grid[1]))
            boxes.append([prefix + row * grid[1] + column for row in rows for column in columns])
    k, v = (torch.stack([part[:, box].mean(dim=1) for box in boxes], dim=1) for part in (k, v))
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) * (c // layer.num_heads) ** -0.5).softmax(dim=-1)
    return layer.proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).reshape(b, n, c))


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = Attention(64, num_heads=2, qkv_bias=True).double()
    use_cpu_layers(layer)
    assert type(layer) is CpuAttention
    return layer


@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (1, 3), (2, 2)])
@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_pooled_attention_equals_its_statement(layer, grid, side, prefix):
    x = torch.randn(2, prefix + grid[0] * grid[1], 64, dtype=torch.float64)
    expected = stated(layer, x, side, grid, prefix)
    with pooled_keys(side, grid, prefix):
        torch.testing.assert_close(layer(x), expected)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("route", ["native", "pytorch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooled_attention_by_every_route_equals_its_statement(layer, route, dtype, monkeypatch):
    if route == "native" and not cpu_layers.native_attention.attends(dtype, 32):
        pytest.skip(f"no native attention in {dtype} on this machine")
    monkeypatch.setattr(cpu_layers, "attention_route", lambda *_: route)
    x = torch.randn(2, 1 + 9 * 13, 64, dtype=torch.float64)
    expected = stated(layer, x, 2, (9, 13), 1)
    with torch.no_grad(), pooled_keys(2, (9, 13), 1):
        got = layer.to(dtype)(x.to(dtype))
    bound = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got.double(), expected, atol=bound, rtol=bound)


def test_pooled_attention_has_the_gradients_of_its_statement(layer):
    x = torch.randn(1, 1 + 12, 64, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(stated(layer, x, 2, (3, 4), 1).square().sum(), x)
    with pooled_keys(2, (3, 4), 1):
        (got,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(got, expected)


def test_pooling_ends_with_its_block(layer):
    x = torch.randn(1, 5, 64, dtype=torch.float64)
    before = layer(x)
    with pytest.raises(RuntimeError, match="on purpose"), pooled_keys(2, (2, 2), 1):
        raise RuntimeError("on purpose")
    assert torch.equal(layer(x), before)


def test_replaced_projection_is_respected(layer):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    doubled = Doubled(64, 192).double()
    doubled.load_state_dict(layer.qkv.state_dict())
    layer.qkv = doubled
    x = torch.randn(1, 7, 64, dtype=torch.float64)
    with torch.no_grad(), pooled_keys(2, (2, 3), 1):
        torch.testing.assert_close(layer(x), stated(layer, x, 2, (2, 3), 1))


def test_attention_with_norms_of_its_own_is_refused():
    layer = Attention(64, num_heads=2, qk_norm=True, norm_layer=torch.nn.LayerNorm)
    use_cpu_layers(layer)
    with pooled_keys(2, (2, 2), 1), pytest.raises(ValueError, match="pool_keys needs plain attention"):
        layer(torch.zeros(1, 5, 64))


def test_means_keep_the_prefix_and_the_order_of_patches():
    tokens = torch.arange(2 + 6, dtype=torch.float32).view(1, -1, 1)  # patches 2..7 in two rows of three
    assert KeyPooling(2, (2, 3), 2).pool(tokens).flatten().tolist() == [0, 1, 4, 5.5]


@pytest.mark.parametrize("size", [(32, 48), (40, 24), (8, 8)])
@pytest.mark.parametrize("registers", [0, 2])
def test_siammae_with_pooled_keys_differs_a_little_and_one_is_off(size, registers):
    torch.manual_seed(0)
    model = SiamMAE(SMALL.replace(registers=registers, position="learned" if registers else "sincos")).eval()
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    plain, pooled = model.extract(frames), model.extract(frames, pool_keys=2)
    assert torch.equal(model.extract(frames, pool_keys=1), plain)
    assert plain.shape == pooled.shape
    if size == (8, 8):  # one patch is its own mean
        torch.testing.assert_close(pooled, plain)
    else:
        assert 0 < (plain - pooled).abs().max() < 1
    with pytest.raises(ValueError, match="pool_keys is 0: it must be at least 1"):
        model.extract(frames, pool_keys=0)


def test_pooled_keys_within_a_region_average_its_own_patches():
    torch.manual_seed(0)
    model = SiamMAE(SMALL).eval()
    frame = np.random.default_rng(0).integers(0, 256, (1, 40, 48, 3), np.uint8)
    part = model.extract(frame, region=(1, 2, 4, 6), pool_keys=3)
    assert part[:, :, 1:4, 2:6].abs().amin(dim=1).max() > 0
    assert part.count_nonzero() == part[:, :, 1:4, 2:6].count_nonzero()
    assert not torch.equal(part, model.extract(frame, region=(1, 2, 4, 6)))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_timm_vit_takes_pooled_keys(name):
    torch.manual_seed(0)
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 0, "dynamic_img_size": True, "img_size": 56}
    if "dinov2" not in name:
        options["img_size"] = 64
    extractor = TimmExtractor(timm.create_model(name, **options))
    side = extractor.patch_size
    frames = np.random.default_rng(0).integers(0, 256, (1, 3 * side, 5 * side, 3), np.uint8)
    plain, pooled = extractor.extract(frames), extractor.extract(frames, pool_keys=2)
    assert plain.shape == pooled.shape
    assert 0 < (plain - pooled).abs().max() < 1
    assert torch.equal(extractor.extract(frames, pool_keys=1), plain)


def test_timm_network_with_another_attention_refuses_pooled_keys():
    model = timm.create_model("eva02_tiny_patch14_224", num_classes=0, depth=1, dynamic_img_size=True)
    with pytest.raises(ValueError, match=r"pool_keys is 2, but .* has another attention than timm's plain one"):
        TimmExtractor(model).extract(np.zeros((1, 28, 28, 3), np.uint8), pool_keys=2)


def test_recommended_rules_pool_keys_only_where_the_network_can():
    plain = TimmExtractor(timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, dynamic_img_size=True))
    other = TimmExtractor(timm.create_model("eva02_tiny_patch14_224", num_classes=0, depth=1, dynamic_img_size=True))
    assert [PropagationConfig.recommended(one).pool_keys for one in (plain, other)] == [2, 1]
    plain.model.blocks[0].attn.q_norm = torch.nn.LayerNorm(64)
    assert PropagationConfig.recommended(plain).pool_keys == 1


def test_rule_reaches_the_extractor_and_others_are_refused():
    asked = []

    class Extractor:
        patch_size = 8
        extract_options = frozenset({"pool_keys"})

        def extract(self, frames, *, batch_size=8, pixel_std=None, pool_keys=1):
            asked.append(pool_keys)
            return torch.ones(1, 4, 2, 2)

    frame, mask = np.zeros((16, 16, 3), np.uint8), np.ones((16, 16), np.uint8)
    rules = PropagationConfig(pool_keys=2)
    Propagator(Extractor(), rules).step(frame, mask=mask)
    Propagator(Extractor()).step(frame, mask=mask)
    assert asked == [2, 1]
    del Extractor.extract_options
    with pytest.raises(
        ValueError, match=r"pool_keys is 2, but Extractor\.extract knows no 'pool_keys': pass pool_keys=1"
    ):
        Propagator(Extractor(), rules)
