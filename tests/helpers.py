"""Small networks, made-up weights and made-up videos."""

import numpy as np
import torch

from siammae.config import ModelConfig
from siammae.frames import VideoWriter
from siammae.network.model import SiamMAE

TINY = {
    "patch_size": 8,
    "image_size": 32,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "decoder_dim": 32,
    "decoder_depth": 2,
    "decoder_heads": 2,
}


def tiny_config(**fields):
    """A network of two blocks that runs in milliseconds; any field can be another."""
    return ModelConfig(**{**TINY, **fields})


def tiny_model(seed=0, **fields):
    """A tiny network in eval mode; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SiamMAE(tiny_config(**fields)).eval()


def ramp_weights(module):
    """Fill every tensor with small values that all differ, the same on every machine; fixed positions stay."""
    with torch.no_grad():
        for place, tensor in enumerate(tensor for tensor in module.parameters() if tensor.requires_grad):
            ramp = torch.arange(tensor.numel(), dtype=torch.float64) * 0.7548776662466927 + place * 0.5698402909980532
            tensor.copy_((0.3 * (ramp % 1 - 0.5)).reshape(tensor.shape))
        for part in module.modules():
            if isinstance(part, torch.nn.LayerNorm):
                part.weight += 1
    return module


def moving_square(frames=8, size=(48, 64), side=16, start=(8, 8), step=(1, 2), seed=0):
    """A textured square that moves over a textured background.

    Returns:
        The video ``(T, H, W, 3)`` uint8 and the masks ``(T, H, W)`` uint8, 1 on the square, 0 elsewhere.
    """
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
    texture = rng.integers(130, 256, (side, side, 3), dtype=np.uint8)
    video, masks = np.repeat(background[None], frames, axis=0), np.zeros((frames, *size), np.uint8)
    for t in range(frames):
        top, left = start[0] + t * step[0], start[1] + t * step[1]
        if min(top, left) < 0 or top + side > size[0] or left + side > size[1]:
            raise ValueError(f"the square leaves the frame of {size} at frame {t}: it would be at {(top, left)}.")
        video[t, top : top + side, left : left + side] = texture
        masks[t, top : top + side, left : left + side] = 1
    return video, masks


def write_video(path, frames, fps=25.0):
    """Write RGB frames to a video file (lossy) and return its path."""
    with VideoWriter(path, fps=fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path
