"""Foreign checkpoints made up from their tensors' names and shapes, and the network they belong to, stated plainly."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

from tests.convert.positions import mae, resized

MANIFESTS = Path(__file__).parents[1] / "data" / "manifests"


def foreign_tensors(name, *, depth=2, seed=0):
    """Fill a public checkpoint's names and shapes with small random values; ``depth=None`` keeps all blocks."""
    manifest = json.loads((MANIFESTS / f"{name}.json").read_text())
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for pattern, shape in manifest["tensors"].items():
        blocks = manifest["depth"][pattern.split(".")[0]] if ".N." in pattern else 1
        for block in range(min(blocks, depth or blocks)):
            key = pattern.replace(".N.", f".{block}.")
            tensors[key] = torch.randn(shape, generator=generator) * (0.3 if key.endswith("gamma") else 0.02)
            if "norm" in key and key.endswith("weight"):
                tensors[key] += 1
    return tensors


def attend(x, weights, prefix, heads):
    """Self-attention with softmax written out."""
    b, n, c = x.shape
    qkv = F.linear(x, weights[prefix + "qkv.weight"], weights[prefix + "qkv.bias"])
    q, k, v = (part.reshape(b, n, heads, c // heads).transpose(1, 2) for part in qkv.split(c, dim=-1))
    mixed = (q @ k.transpose(-1, -2) / (c // heads) ** 0.5).softmax(dim=-1) @ v
    return F.linear(
        mixed.transpose(1, 2).reshape(b, n, c), weights[prefix + "proj.weight"], weights[prefix + "proj.bias"]
    )


def plain_vit(images, weights, *, heads, rule=mae, blocks=None, norm=True):
    """A ViT under the names of MAE, DINO, DINOv2 and timm alike: ``(B, 3, H, W)`` to tokens ``(B, 1 + h*w, C)``.

    Registers go between CLS and the patches after the positions are added, and are left out of the result. A table
    of positions with no row for CLS gives CLS none; ``rule`` brings it to other grids, see ``positions``.
    """
    patch = weights["patch_embed.proj.weight"]
    p, dim = patch.shape[-1], patch.shape[0]
    x = F.conv2d(images, patch, weights["patch_embed.proj.bias"], stride=p)
    h, w = x.shape[-2:]
    table = weights["pos_embed"]
    side = int(table.shape[1] ** 0.5)
    place, cls_place = (table[:, 1:], table[:, :1]) if table.shape[1] > side**2 else (table, 0.0)
    x = x.flatten(2).transpose(1, 2) + resized(place, side, (h, w), rule)
    registers = weights.get("register_tokens", weights.get("reg_token", torch.zeros(1, 0, dim)))
    parts = (weights["cls_token"] + cls_place, registers)
    x = torch.cat([*(part.expand(len(x), -1, -1) for part in parts), x], dim=1)
    x = plain_blocks(x, weights, heads=heads, blocks=blocks, norm=norm)
    return torch.cat([x[:, :1], x[:, 1 + registers.shape[1] :]], dim=1)


def plain_blocks(x, weights, *, heads, blocks=None, norm=True):
    """Pre-norm blocks over tokens ``(B, n, C)``, with LayerScale where the weights have it."""
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for block in range(depth if blocks is None else blocks):
        at = f"blocks.{block}."
        y = layer_norm(x, weights, at + "norm1")
        x = x + attend(y, weights, at + "attn.", heads) * weights.get(at + "ls1.gamma", 1.0)
        y = F.gelu(
            F.linear(layer_norm(x, weights, at + "norm2"), weights[at + "mlp.fc1.weight"], weights[at + "mlp.fc1.bias"])
        )
        y = F.linear(y, weights[at + "mlp.fc2.weight"], weights[at + "mlp.fc2.bias"])
        x = x + y * weights.get(at + "ls2.gamma", 1.0)
    return layer_norm(x, weights, "norm") if norm else x


def layer_norm(x, weights, name):
    """Layer norm as all these families have it."""
    return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], 1e-6)


def normalised(frames, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """RGB frames ``(T, H, W, 3)`` uint8 as the networks' input ``(T, 3, H, W)``."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def as_grid(tokens, h, w):
    """Tokens ``(B, 1 + h*w, C)`` as features ``(B, C, h, w)`` without CLS."""
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, h, w)
