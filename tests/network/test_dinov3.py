"""DINOv3 through timm against a plain statement of its own network: rotary positions, registers, LayerScale.

Stated from dinov3/layers/rope_position_encoding.py, layers/attention.py and hub/backbones.py (dinov3_vits16).
"""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.eva import checkpoint_filter_fn

from siammae.network.timm_extractor import TimmExtractor
from tests.convert.foreign import foreign_tensors, normalised
from tests.convert.test_convert import frames

HEADS = 6
# What its public files hold in rope_embed.periods: 100 ** (k / 16), rounded to bfloat16
PERIODS = [1, 1.3359375, 1.78125, 2.375, 3.15625, 4.21875, 5.625, 7.5]
PERIODS += [10, 13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75]


def angles(h, w):
    """Turn each patch's centre, from -1 to 1 along each side, into angles ``(h*w, 64)``: y, x, and both again."""
    y, x = (2 * (torch.arange(n) + 0.5) / n - 1 for n in (h, w))
    both = torch.stack([y[:, None].expand(h, w), x.expand(h, w)], dim=-1).reshape(h * w, 2, 1)
    half = (2 * math.pi * both / torch.tensor(PERIODS)).flatten(1)
    return half.repeat(1, 2)


def turned(x, angle):
    """Rotate the patches' part of ``(B, heads, 5 + h*w, 64)``: each channel with that half the width away."""
    prefix, rest = x[:, :, :5], x[:, :, 5:]
    first, second = rest.chunk(2, dim=-1)
    return torch.cat([prefix, rest * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()], dim=2)


def norm(x, weights, name):
    return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], 1e-5)


def dinov3(images, weights):
    """Compute patch features ``(B, C, h, w)`` of images ``(B, 3, H, W)``."""
    x = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=16)
    b, c, h, w = x.shape
    tokens = [weights[name].expand(b, -1, -1) for name in ("cls_token", "storage_tokens")]
    x, angle = torch.cat([*tokens, x.flatten(2).transpose(1, 2)], dim=1), angles(h, w)
    for at in ("blocks.0.", "blocks.1."):
        qkv = F.linear(norm(x, weights, at + "norm1"), weights[at + "attn.qkv.weight"], weights[at + "attn.qkv.bias"])
        q, k, v = (part.reshape(b, -1, HEADS, c // HEADS).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        scores = turned(q, angle) @ turned(k, angle).transpose(-1, -2) / (c // HEADS) ** 0.5
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, -1, c)
        mixed = F.linear(mixed, weights[at + "attn.proj.weight"], weights[at + "attn.proj.bias"])
        x = x + mixed * weights[at + "ls1.gamma"]
        y = F.linear(norm(x, weights, at + "norm2"), weights[at + "mlp.fc1.weight"], weights[at + "mlp.fc1.bias"])
        y = F.linear(F.gelu(y), weights[at + "mlp.fc2.weight"], weights[at + "mlp.fc2.bias"])
        x = x + y * weights[at + "ls2.gamma"]
    return norm(x, weights, "norm")[:, 5:].transpose(1, 2).reshape(b, c, h, w)


@pytest.mark.parametrize("options", [{}, {"dynamic_img_size": False, "img_size": (80, 144)}], ids=["any size", "one"])
@pytest.mark.parametrize("bias", [False, True])
def test_dinov3_through_timm_has_the_features_of_its_source(bias, options):
    weights = foreign_tensors("dinov3_vits16")
    for name in weights:
        if name.endswith("attn.qkv.bias"):
            weights[name] *= bias  # 0 in the public files
            weights[name][384:768] = 0  # of keys: masked
        elif name.endswith(".weight") and "norm" not in name:
            weights[name] *= 4  # attention that looks somewhere
    name = "vit_small_patch16_dinov3_qkvb.lvd1689m" if bias else "vit_small_patch16_dinov3.lvd1689m"
    subject = TimmExtractor.from_pretrained(name, pretrained=False, depth=2, **options)
    subject.model.load_state_dict(checkpoint_filter_fn(dict(weights), subject.model))
    video = frames(80, 144, count=2)
    expected = dinov3(normalised(video), weights)
    torch.testing.assert_close(subject.extract(video), expected, atol=1e-4, rtol=0)
