"""Which patches of the two frames the network may see."""

from __future__ import annotations

import torch
from torch import Tensor

from siammae.config import PRETRAIN_CHOICES

PAST_MASKS = PRETRAIN_CHOICES["past_mask"]


def draw_noise(
    batch: int, patches: int, *, generator: torch.Generator | None = None, noise: Tensor | None = None
) -> Tensor:
    """Return the numbers that decide what is hidden: drawn now, or given ones, checked.

    Each sample has its own row, so that several processes, or parts of a batch one after the other, can take their
    rows of one draw: the masks of a batch then do not depend on how it is split.

    Args:
        batch: samples.
        patches: patches of a frame.
        generator: source of randomness, on the CPU so that every device draws the same; None = torch's global one.
        noise: ``(batch, 2, patches)`` float, drawn before; None = uniform numbers.

    Returns:
        ``(batch, 2, patches)`` float; index 0 of the second axis is for the past frame, 1 for the future one.

    Raises:
        ValueError: both generator and noise are given, or the noise has another shape or holds no floats.
    """
    if noise is None:
        return torch.rand(batch, 2, patches, generator=generator, dtype=torch.float32, device="cpu")
    if generator is not None:
        raise ValueError("generator and noise are both given: the noise is drawn already. Leave one of them out.")
    if noise.shape != (batch, 2, patches) or not noise.is_floating_point():
        raise ValueError(
            f"noise is {tuple(noise.shape)} {noise.dtype}: it must be float numbers (B, 2, h*w) = "
            f"{(batch, 2, patches)}. Draw it with torch.rand."
        )
    return noise


def random_kept(noise: Tensor, mask_ratio: float) -> Tensor:
    """Pick the patches that stay visible, independently for each sample: those with the smallest numbers.

    Args:
        noise: ``(B, patches)`` float; equal numbers go to the smaller index.
        mask_ratio: part that is hidden; ``int(patches * (1 - mask_ratio))`` stay, as in MAE, but at least one.

    Returns:
        Indices ``(B, kept)`` int64 in ``[0, patches)``, ascending in each row, on the noise's device.

    Raises:
        ValueError: ``mask_ratio`` is not between 0 and 1, or so small that nothing is hidden.
    """
    patches = noise.shape[1]
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio is {mask_ratio}: it must be between 0 and 1.")
    # The small addend undoes float error such as 40 * (1 - 0.9) = 3.9999...
    kept = max(1, int(patches * (1 - mask_ratio) + 1e-6))
    if kept >= patches:
        raise ValueError(
            f"mask_ratio is {mask_ratio}: it hides none of {patches} patches. Raise it or use larger frames."
        )
    return noise.argsort(dim=1, stable=True)[:, :kept].sort(dim=1).values


def grid_kept(grid: tuple[int, int]) -> Tensor:
    """Pick one patch of every square of 2 x 2: its top left one.

    The squares are laid from the top left corner. Those that an odd side cuts at the right or the bottom keep their
    top left patch as well, so ``ceil(h / 2) * ceil(w / 2)`` patches stay.

    Args:
        grid: patches ``(h, w)``.

    Returns:
        Indices ``(kept,)`` int64 in ``[0, h*w)``, ascending, on the CPU.
    """
    h, w = grid
    return torch.arange(h * w, dtype=torch.int64, device="cpu").reshape(h, w)[::2, ::2].flatten()


def past_kept(noise: Tensor, past_mask: str, mask_ratio: float, grid: tuple[int, int]) -> Tensor | None:
    """Pick the patches of the past frame that stay visible.

    Args:
        noise: ``(B, h*w)`` float, as for :func:`random_kept`; used by ``"symmetric"`` only.
        past_mask: ``"none"``, ``"symmetric"`` or ``"grid"``, see :class:`siammae.PretrainConfig`.
        mask_ratio: part that ``"symmetric"`` hides.
        grid: patches ``(h, w)``.

    Returns:
        Indices ``(B, kept)`` int64, ascending in each row; None where the whole frame stays visible.

    Raises:
        ValueError: there is no such mask, or ``mask_ratio`` is out of range.
    """
    if past_mask not in PAST_MASKS:
        known = ", ".join(map(repr, PAST_MASKS))
        raise ValueError(f"past_mask is {past_mask!r}: it must be one of {known}.")
    if past_mask == "none":
        return None
    return random_kept(noise, mask_ratio) if past_mask == "symmetric" else grid_kept(grid).expand(len(noise), -1)


def hidden_mask(kept: Tensor, patches: int) -> Tensor:
    """Turn kept indices ``(B, n)`` into a mask ``(B, patches)`` bool, True = hidden."""
    hidden = torch.ones(kept.shape[0], patches, dtype=torch.bool, device=kept.device)
    return hidden.scatter_(1, kept, value=False)
