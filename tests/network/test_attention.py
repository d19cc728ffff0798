"""Attention weights against softmax written out, and against what PyTorch's own layer says of itself."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from torch import nn

from siammae.features import PixelExtractor
from siammae.network.attention import attention_weights, class_attention, cross_attention, has_class_attention
from siammae.network.decoder import CrossAttention
from siammae.network.timm_extractor import TimmExtractor
from tests.convert.foreign import layer_norm, normalised
from tests.helpers import moving_square, ramp_weights, tiny_model

CROSSING = ("cross-self", "cross", "cropmae")


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(query, key, heads):
    """Queries ``(B, N, C)`` and keys ``(B, M, C)`` to weights, one head after the other."""
    d = query.shape[-1] // heads
    parts = []
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        scores = torch.einsum("bnd,bmd->bnm", query[..., part], key[..., part]) / d**0.5
        parts.append(scores.exp() / scores.exp().sum(dim=-1, keepdim=True))
    return torch.stack(parts, dim=1)


# --- attention_weights


@pytest.mark.parametrize("qk_norm", [False, True])
def test_weights_of_timms_attention_mix_values_to_its_output(qk_norm):
    torch.manual_seed(0)
    layer = Attention(24, num_heads=3, qkv_bias=True, qk_norm=qk_norm, norm_layer=nn.LayerNorm).eval()
    x = tokens(2, 7, 24)
    with torch.no_grad():
        weights = attention_weights(layer, x)
        values = layer.qkv(x)[..., 48:].unflatten(2, (3, 8)).transpose(1, 2)
        torch.testing.assert_close(layer.proj((weights @ values).transpose(1, 2).flatten(2)), layer(x))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 7))


def test_weights_of_cross_attention_equal_softmax_written_out():
    layer, x, memory = ramp_weights(CrossAttention(24, 3)), tokens(2, 7, 24), tokens(2, 5, 24, seed=1)
    with torch.no_grad():
        weights = attention_weights(layer, x, memory)
        keys = F.linear(memory, layer.kv.weight[:24], layer.kv.bias[:24])
        torch.testing.assert_close(weights, plain(layer.q(x), keys, heads=3))
    assert weights.shape == (2, 3, 7, 5)


def test_weights_of_multihead_attention_are_those_it_returns():
    layer = ramp_weights(nn.MultiheadAttention(24, 3, batch_first=True)).eval()
    x, memory = tokens(2, 7, 24), tokens(2, 5, 24, seed=1)
    with torch.no_grad():
        expected = layer(x, memory, memory, need_weights=True, average_attn_weights=False)[1]
        torch.testing.assert_close(attention_weights(layer, x, memory), expected)


@pytest.mark.parametrize("rows", [slice(0, 1), torch.tensor([4, 2])])
def test_weights_of_some_rows_are_those_rows(rows):
    layers = (Attention(24, num_heads=3), CrossAttention(24, 3), nn.MultiheadAttention(24, 3, batch_first=True))
    for layer in map(ramp_weights, layers):
        with torch.no_grad():
            every, some = (attention_weights(layer, tokens(2, 7, 24), rows=r) for r in (slice(None), rows))
        torch.testing.assert_close(some, every[:, :, rows])


def test_weights_in_half_precision_are_float32_and_sum_to_1():
    weights = attention_weights(CrossAttention(24, 3).bfloat16(), tokens(1, 7, 24).bfloat16())
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 3, 7))


class OwnAttention(Attention):
    """Might do anything."""


@pytest.mark.parametrize(
    "layer",
    [
        OwnAttention(24),
        nn.Linear(24, 24),
        nn.MultiheadAttention(24, 3),
        nn.MultiheadAttention(24, 3, kdim=12, batch_first=True),
        nn.MultiheadAttention(24, 3, bias=False, batch_first=True),
        nn.MultiheadAttention(24, 3, add_zero_attn=True, batch_first=True),
        nn.MultiheadAttention(24, 3, add_bias_kv=True, batch_first=True),
    ],
)
def test_weights_of_an_unknown_layer_are_refused(layer):
    with pytest.raises(ValueError, match=f"attention of the kind {type(layer).__name__} may compute"):
        attention_weights(layer, tokens(1, 7, 24))


# --- class_attention


def plain_class_attention(weights, pixels, *, block, heads):
    """Tokens ``(B, n, C)`` before a block to the weights of the first: ``(B, heads, n)``."""
    y = layer_norm(pixels, weights, f"blocks.{block}.norm1")
    qkv = F.linear(y, weights[f"blocks.{block}.attn.qkv.weight"], weights[f"blocks.{block}.attn.qkv.bias"])
    query, key, _ = qkv.chunk(3, dim=-1)
    return plain(query[:, :1], key, heads)[:, :, 0]


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("layer", [0, -1])
def test_class_attention_equals_that_written_out(registers, layer):
    model = ramp_weights(tiny_model(registers=registers, position="learned" if registers else "sincos"))
    video, _ = moving_square(frames=3, size=(24, 40), side=8, start=(0, 0))
    got = class_attention(model, video, layer=layer, batch_size=2)
    encoder, weights = model.encoder, model.encoder.state_dict()
    with torch.no_grad():
        x = encoder.embed(normalised(video))
        cls = encoder.cls_token if registers else encoder.cls_token + encoder.pos_embed[:, :1]
        prefix = [cls, encoder.reg_token] if registers else [cls]
        x = torch.cat([*(part.expand(3, -1, -1) for part in prefix), x], dim=1)
        for block in encoder.blocks[:-1] if layer == -1 else ():
            x = block(x)
        expected = plain_class_attention(weights, x, block=layer % 2, heads=2)
    assert (got.shape, got.dtype) == ((3, 2, 3, 5), torch.float32)
    torch.testing.assert_close(got.flatten(2), expected[:, :, 1 + registers :])
    torch.testing.assert_close(got.sum(dim=(2, 3)), 1 - expected[:, :, : 1 + registers].sum(dim=2))


def small_timm(name, **options):
    torch.manual_seed(0)
    return TimmExtractor(timm.create_model(name, num_classes=0, dynamic_img_size=True, depth=2, **options))


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_class_attention_of_timms_networks_equals_that_written_out(name):
    model = small_timm(name)
    p, prefix = model.patch_size, model.model.num_prefix_tokens
    video, _ = moving_square(frames=2, size=(3 * p, 2 * p), side=8, start=(0, 0), step=(1, 1))
    got = class_attention(model, video)
    inputs = []
    hook = model.model.blocks[1].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model.extract(video)
    hook.remove()
    expected = plain_class_attention(model.model.state_dict(), inputs[0], block=1, heads=6)
    torch.testing.assert_close(got, expected[:, :, prefix:].unflatten(2, (3, 2)))


def test_class_attention_leaves_features_and_network_as_they_were():
    model, (video, _) = tiny_model(), moving_square()
    before = model.extract(video)
    class_attention(model, video)
    with pytest.raises(ValueError, match="layer is 2: the encoder has 2 blocks"):
        class_attention(model, video, layer=2)
    with pytest.raises(ValueError, match="frames must be"):
        class_attention(model, video[..., :2])
    assert torch.equal(model.extract(video), before)
    assert not any(part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize(
    ("name", "message"),
    [("vit_base_patch16_siglip_224", "has no CLS token"), ("eva02_tiny_patch14_224", "of the kind EvaAttention")],
)
def test_class_attention_of_other_networks_is_refused(name, message):
    model = small_timm(name, embed_dim=48, num_heads=2)
    assert not has_class_attention(model)
    with pytest.raises(ValueError, match=message):
        class_attention(model, np.zeros((1, 4 * model.patch_size, 4 * model.patch_size, 3), np.uint8))


def test_class_attention_of_pixels_is_refused():
    assert has_class_attention(tiny_model())
    assert not has_class_attention(PixelExtractor())
    with pytest.raises(ValueError, match="PixelExtractor has no CLS token: pass a SiamMAE"):
        class_attention(PixelExtractor(), np.zeros((1, 8, 8, 3), np.uint8))


# --- cross_attention


def pair(size=(24, 40)):
    video, _ = moving_square(frames=4, size=size, side=8, start=(0, 0))
    frames = torch.from_numpy(video).permute(0, 3, 1, 2)
    return frames[:2], frames[2:]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("decoder", CROSSING)
@pytest.mark.parametrize("encoder", ["siamese", "joint"])
def test_cross_attention_equals_that_written_out(encoder, decoder):
    model = ramp_weights(tiny_model(encoder=encoder, decoder=decoder))
    seen = []
    hooks = [block.register_forward_hook(lambda *given: seen.append(given[1:])) for block in model.decoder.blocks]
    with torch.no_grad():
        output = model(*pair(), mask_ratio=0.7, generator=generator())
    for hook in hooks:
        hook.remove()
    got = cross_attention(model, *pair(), mask_ratio=0.7, generator=generator())
    assert got.weights.shape == (2, 2, 2, 15, 16)
    assert torch.equal(got.hidden, output.mask)
    torch.testing.assert_close(got.weights.sum(dim=-1), torch.ones(2, 2, 2, 15))
    for place, (block, ((x, memory), _)) in enumerate(zip(model.decoder.blocks, seen, strict=True)):
        with torch.no_grad():
            if decoder == "cropmae":
                expected = block.multihead_attn(x, memory, memory, average_attn_weights=False)[1]
            else:
                keys = block.cross_attn.kv(block.norm_memory(memory))[..., :32]
                expected = plain(block.cross_attn.q(block.norm_cross(x)), keys, heads=2)
        torch.testing.assert_close(got.weights[:, place], expected[:, :, 1:])


@pytest.mark.parametrize("decoder", CROSSING)
def test_cross_attention_of_some_rows_are_those_rows_and_prediction_stays(decoder):
    model = tiny_model(decoder=decoder)
    before = model(*pair(), generator=generator()).prediction
    every = cross_attention(model, *pair(), generator=generator()).weights
    some = cross_attention(model, *pair(), generator=generator(), rows=torch.tensor([14, 0])).weights
    torch.testing.assert_close(some, every[:, :, :, [14, 0]])
    assert torch.equal(model(*pair(), generator=generator()).prediction, before)
    assert not any(part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("decoder", ["joint", "none"])
def test_cross_attention_without_such_a_decoder_is_refused(decoder):
    with pytest.raises(ValueError, match=f'random has no cross-attention .config.decoder is "{decoder}".'):
        cross_attention(tiny_model(decoder=decoder), *pair())
