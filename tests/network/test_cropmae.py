"""CropMAE's decoder against PyTorch's own attention, in the order that its authors wrote down."""

import pytest
import torch
import torch.nn.functional as F

import siammae
from siammae.convert import convert_checkpoint
from siammae.network.loss import patchify
from tests.convert.foreign import foreign_tensors, layer_norm, plain_blocks, plain_vit
from tests.helpers import tiny_model


def attention(weights, prefix, query, memory, heads=8):
    module = torch.nn.MultiheadAttention(query.shape[-1], heads, batch_first=True)
    names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    module.load_state_dict({name: weights[prefix + name] for name in names})
    return module(query, memory, memory)[0]


def linear(weights, name, x):
    return F.linear(x, weights[name + ".weight"], weights[name + ".bias"])


def plain_decoder(weights, past, future, hidden):
    """Past tokens ``(B, 1 + N, C)``, future tokens with any values at hidden places, ``(B, N)`` bool -> pixels."""
    memory, x = linear(weights, "decoder_embed", past), linear(weights, "decoder_embed", future)
    patches = torch.where(hidden[..., None], weights["mask_token"], x[:, 1:])
    x = torch.cat([x[:, :1], patches], dim=1) + weights["decoder_pos_embed"]
    for block in range(2):
        at = f"decoder_blocks.{block}."
        x = layer_norm(x + attention(weights, at + "multihead_attn.", x, memory), weights, at + "norm2")
        y = linear(weights, at + "linear2", F.gelu(linear(weights, at + "linear1", x)))
        x = layer_norm(x + y, weights, at + "norm3")
        x = layer_norm(x + attention(weights, at + "self_attn.", x, x), weights, at + "norm1")
    return linear(weights, "decoder_pred", layer_norm(x, weights, "decoder_norm"))[:, 1:]


@pytest.fixture
def weights():
    return foreign_tensors("cropmae_vits16")


@pytest.fixture
def model(weights, tmp_path):
    torch.save({"model": weights}, tmp_path / "cropmae.pth")
    convert_checkpoint(tmp_path / "cropmae.pth", tmp_path / "ours")
    return siammae.SiamMAE.from_pretrained(tmp_path / "ours")


def pair(size=224, seed=0):
    return torch.rand(
        2, 2, 3, *((size, size) if isinstance(size, int) else size), generator=torch.Generator().manual_seed(seed)
    )


def test_converted_cropmae_predicts_the_pixels_of_the_source(model, weights):
    past, future = pair()
    with torch.inference_mode():
        got = model(past, future, mask_ratio=0.9, generator=torch.Generator().manual_seed(3))
        mean, std = (torch.tensor(color).view(3, 1, 1) for color in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        past, future = (past - mean) / std, (future - mean) / std
        seen = plain_vit_of_seen(weights, future, got.mask)
        expected = plain_decoder(weights, plain_vit(past, weights, heads=6), seen, got.mask)
        target = patchify(future, 16)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        loss = (expected - target).square().mean(-1)[got.mask].mean()
    torch.testing.assert_close(got.prediction, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.loss, loss, atol=1e-5, rtol=0)
    assert got.mask.sum(dim=1).tolist() == [177, 177]


def plain_vit_of_seen(weights, images, hidden):
    """Encode each sample's visible patches alone, and put them back at their places."""
    out = torch.zeros(len(images), 1 + hidden.shape[1], 384)
    tokens = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=16)
    tokens = tokens.flatten(2).transpose(1, 2) + weights["pos_embed"][:, 1:]
    cls = weights["cls_token"] + weights["pos_embed"][:, :1]
    for index, mask in enumerate(hidden):
        x = torch.cat([cls, tokens[index : index + 1, ~mask]], dim=1)
        out[index, torch.cat([torch.tensor([True]), ~mask])] = plain_blocks(x, weights, heads=6)[0]
    return out


def test_cropmae_decoder_at_another_size_interpolates_positions(model, weights):
    table = weights["decoder_pos_embed"][:, 1:].reshape(1, 14, 14, 256).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(3, 5), mode="bicubic").flatten(2).transpose(1, 2)
    other = {**weights, "decoder_pos_embed": torch.cat([weights["decoder_pos_embed"][:, :1], table], dim=1)}
    generator = torch.Generator().manual_seed(0)
    past, future = torch.randn(2, 1, 16, 384, generator=generator)
    kept = torch.tensor([[2, 11]])
    hidden = torch.ones(1, 15, dtype=torch.bool).scatter(1, kept, value=False)
    with torch.inference_mode():
        seen = torch.cat([future[:, :1], future[:, 1 + kept[0]]], dim=1)
        got = model.decoder(past, seen, kept, (3, 5))
        torch.testing.assert_close(got, plain_decoder(other, past, future, hidden), atol=1e-5, rtol=0)


def test_fresh_cropmae_network_trains_and_keeps_its_positions():
    model = tiny_model(decoder="cropmae", decoder_heads=2).train()
    loss = model(*pair(32), mask_ratio=0.5, generator=torch.Generator().manual_seed(0)).loss
    loss.backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert without == {"encoder.pos_embed", "decoder.pos_embed"}
    assert not model.decoder.pos_embed[:, 0].any()
