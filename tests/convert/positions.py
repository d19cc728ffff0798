"""How each family's own code brings its position table to another grid, written out as sums.

Everywhere ``n`` places lie on ``side`` of them; a rule gives the ``(n, side)`` weights of one axis.
"""

import torch


def cubic(distance, sharpness):
    """Weigh by the cubic kernel: 1 at distance 0, 0 at 1 and from 2 on."""
    d, a = distance.abs(), sharpness
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def four_taps(side, n, offset=0.0):
    """Take the four places around each new one; beyond the border the last place counts.

    The new places are ``side / (n + offset)`` apart: an offset gathers them towards the first.
    """
    new = (torch.arange(n, dtype=torch.float64) + 0.5) * side / (n + offset) - 0.5
    weights = torch.zeros(n, side, dtype=torch.float64)
    for step in (-1, 0, 1, 2):
        old = new.floor() + step
        place = old.clamp(0, side - 1).long()[:, None]
        weights.scatter_add_(1, place, cubic(new - old, -0.75)[:, None])
    return weights


def averaged(side, n):
    """Take all places within the kernel, which grows with the step where the grid becomes smaller; none beyond."""
    step = side / n
    old = torch.arange(side, dtype=torch.float64) + 0.5
    new = (torch.arange(n, dtype=torch.float64) + 0.5) * step
    weights = cubic((old - new[:, None]) / max(step, 1.0), -0.5)
    return weights / weights.sum(dim=1, keepdim=True)


def dino(side, n):
    """State the rule of DINO, vision_transformer.py, interpolate_pos_encoding: the scale factor is of ``n + 0.1``.

    Copied by CropMAE (downstreams/propagation/src/models_mae.py), whose code evaluates ToBo too (its
    docs/Evaluation.md), and by CatMAE (downstream/davis2017-seg/code/models_mae.py); RSP's evaluation takes DINO's.
    DINOv2 has it (dinov2/hub/backbones.py: interpolate_antialias False, interpolate_offset 0.1) without registers.
    """
    return four_taps(side, n, offset=0.1)


def dinov2_registers(side, n):
    """State the rule of DINOv2 with registers: interpolate_antialias True, interpolate_offset 0.0, so to a size.

    From dinov2/hub/backbones.py, dinov2_vits14_reg and the others; T-CoRe's base_model/configs/ssl_default_config.yaml
    has the same values, and timm's resample_abs_pos_embed does the same for every ViT.
    """
    return averaged(side, n)


def mae(side, n):
    """State the rule of MAE, util/pos_embed.py, interpolate_pos_embed: to a size, without averaging."""
    return four_taps(side, n)


def resized(table, side, grid, rule):
    """Bring a table ``(1, side*side, C)`` to a grid ``(h, w)`` by one family's rule: ``(1, h*w, C)``."""
    if grid == (side, side):
        return table
    rows, columns = (rule(side, n) for n in grid)
    square = table.double().reshape(side, side, -1)
    return torch.einsum("ai,bj,ijc->abc", rows, columns, square).flatten(0, 1)[None].to(table.dtype)
