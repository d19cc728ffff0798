"""Which patches of the future frame the network may see."""

from __future__ import annotations

import torch
from torch import Tensor


def random_kept(
    batch: int, patches: int, mask_ratio: float, *, generator: torch.Generator | None = None, device: torch.device
) -> Tensor:
    """Draw the patches that stay visible, independently for each sample.

    Args:
        batch: samples.
        patches: patches of a frame.
        mask_ratio: part that is hidden; ``int(patches * (1 - mask_ratio))`` stay, as in MAE, but at least one.
        generator: source of randomness, on the CPU so that every device draws the same; None = torch's global one.
        device: of the result.

    Returns:
        Indices ``(batch, kept)`` int64 in ``[0, patches)``, ascending in each row.

    Raises:
        ValueError: ``mask_ratio`` is not between 0 and 1, or so small that nothing is hidden.
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio is {mask_ratio}: it must be between 0 and 1.")
    # The small addend undoes float error such as 40 * (1 - 0.9) = 3.9999...
    kept = max(1, int(patches * (1 - mask_ratio) + 1e-6))
    if kept >= patches:
        raise ValueError(
            f"mask_ratio is {mask_ratio}: it hides none of {patches} patches. Raise it or use larger frames."
        )
    order = torch.rand(batch, patches, generator=generator).argsort(dim=1)
    return order[:, :kept].sort(dim=1).values.to(device)


def hidden_mask(kept: Tensor, patches: int) -> Tensor:
    """Turn kept indices ``(B, n)`` into a mask ``(B, patches)`` bool, True = hidden."""
    hidden = torch.ones(kept.shape[0], patches, dtype=torch.bool, device=kept.device)
    return hidden.scatter_(1, kept, value=False)
