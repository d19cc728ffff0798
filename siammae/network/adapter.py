"""The adapter that Co-Settle trains behind a frozen image encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """A linear layer, tanh and a layer norm over the channels of each token.

    Args:
        dim: channels, in and out.

    Source:
        Liu et al. 2026 (Co-Settle), ST_adapter.py, AdapterBlock with ``fusion_net="linear"``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)  # its epsilon is PyTorch's 1e-5, not the encoder's

    def forward(self, tokens: Tensor) -> Tensor:
        """Adapt tokens ``(..., C)``; returns the same shape."""
        adapted: Tensor = self.norm(torch.tanh(self.linear(tokens)))
        return adapted
