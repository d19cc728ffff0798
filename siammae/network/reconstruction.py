"""What the decoder predicts, as pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from siammae.features import normalize
from siammae.network.loss import patchify, unpatchify
from siammae.network.model import SiamMAE


class PredictedFrames(NamedTuple):
    """Predicted future frames, and what the network saw of the true ones."""

    frames: Tensor  # (B, 3, H, W) uint8; visible patches as the network predicts them, which no loss has taught it
    hidden: Tensor  # (B, h*w) bool, True = not seen


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for a while; every part goes back to its own mode."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@torch.no_grad()
def predict_frames(
    model: SiamMAE, past: Tensor, future: Tensor, *, mask_ratio: float = 0.95, generator: torch.Generator | None = None
) -> PredictedFrames:
    """Predict the future frames' pixels from the past frames and a few visible patches.

    A network trained with ``config.norm_pix_loss`` knows each patch only up to its brightness and contrast: these are
    taken from the true patch (its mean and deviation), as MAE's own pictures do.

    Args:
        model: with a decoder; its mode and its random numbers stay as they are.
        past: ``(B, 3, H, W)``, RGB uint8 or float in [0, 1], on any device, sides multiples of ``patch_size``.
        future: the same shape.
        mask_ratio: part of the future frame's patches that is hidden.
        generator: source of the mask, on the CPU; None = torch's global one.

    Returns:
        The predicted frames and what was hidden, on the model's device.

    Raises:
        ValueError: the network has no decoder, or frames or ``mask_ratio`` are refused.
    """
    if model.decoder is None:
        raise ValueError(
            f'{model.name} has no decoder (config.decoder is "none"): it makes features and predicts no pixels. '
            "Load a checkpoint with a decoder."
        )
    past, future = past.to(model.device), future.to(model.device)
    with _without_dropout(model):
        output = model(past, future, mask_ratio=mask_ratio, generator=generator)
    config, patches = model.config, output.prediction.float()
    if config.norm_pix_loss:
        true = patchify(normalize(future, config.pixel_mean, config.pixel_std, torch.float32), config.patch_size)
        patches = patches * (true.var(dim=-1, keepdim=True) + 1e-6).sqrt() + true.mean(dim=-1, keepdim=True)
    grid = future.shape[-2] // config.patch_size, future.shape[-1] // config.patch_size
    pixels = unpatchify(patches, grid, config.patch_size)
    mean, std = (pixels.new_tensor(color).view(3, 1, 1) for color in (config.pixel_mean, config.pixel_std))
    return PredictedFrames(((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8), output.mask)
