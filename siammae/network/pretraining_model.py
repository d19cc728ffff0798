"""The network as training calls it: two frames in, the loss over the hidden patches out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from siammae.config import ModelConfig
from siammae.features import normalize
from siammae.network.adapter import Adapter
from siammae.network.cropmae import CropMAEDecoder
from siammae.network.decoder import CrossAttention, Decoder
from siammae.network.loss import masked_patch_loss, matching_loss, patchify
from siammae.network.masking import draw_noise, hidden_mask, past_kept, random_kept
from siammae.network.vit import Encoder
from siammae.network.whitening import Whitening


class PretrainOutput(NamedTuple):
    """What one training step needs and one figure shows."""

    loss: Tensor  # ()
    prediction: Tensor  # (B, N, P*P*3)
    mask: Tensor  # (B, N) bool, True = hidden
    matching_loss: Tensor | None = None  # (), where places were given
    past_mask: Tensor | None = None  # (B, N) bool, True = hidden; None = the whole past frame was seen


def _pick(tokens: Tensor, kept: Tensor) -> Tensor:
    """Take the tokens ``(B, n, C)`` at the places ``(B, n)`` out of ``(B, N, C)``."""
    return tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))


def _decoder(config: ModelConfig) -> Decoder | CropMAEDecoder | None:
    if config.decoder == "none":
        return None
    return CropMAEDecoder(config) if config.decoder == "cropmae" else Decoder(config)


class PretrainingModel(nn.Module):
    """A ViT encoder, and a decoder that predicts a future frame from a past one.

    Attributes:
        config: the network's shape.
        patch_size: pixels on a side of a patch.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_size = config.patch_size
        self.encoder = Encoder(config)
        self.decoder = _decoder(config)
        self.adapter = Adapter(config.embed_dim) if config.adapter else None
        self.whitening = Whitening(config.embed_dim).to(self.device, self.dtype) if config.whitened else None
        # A jointly encoding network must know which frame a token is from; alone, a frame counts as the past one.
        joint = config.encoder == "joint"
        self.frame_embed = nn.Parameter(self.encoder.cls_token.new_zeros(2, 1, config.embed_dim)) if joint else None
        if self.frame_embed is not None:
            nn.init.normal_(self.frame_embed, std=0.02)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.cls_token.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, in which features come."""
        return self.encoder.cls_token.dtype

    def forward(
        self,
        past: Tensor,
        future: Tensor,
        *,
        mask_ratio: float = 0.95,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        past_mask: str = "none",
        places: Tensor | None = None,
        match_temperature: float = 0.1,
        match_weights: Tensor | None = None,
        placing: Tensor | None = None,
    ) -> PretrainOutput:
        """Predict the hidden patches of ``future`` from ``past``.

        To predict the past from the future, exchange the frames, as the training step does for ``predict="past"``.

        Args:
            past: ``(B, 3, H, W)``, RGB uint8 or float in [0, 1], sides multiples of ``patch_size``.
            future: the same shape.
            mask_ratio: part of the future frame's patches that is hidden.
            generator: source of the masks, on the CPU; None = torch's global one.
            noise: the numbers that decide what is hidden, ``(B, 2, h*w)`` float, index 0 for the past and 1 for the
                future frame: in each row the patches with the smallest numbers stay, of equal ones that with the
                smaller index. For those who split a batch: each part takes its rows of one draw. None = uniform
                numbers from ``generator``.
            past_mask: what is hidden of the past frame: ``"none"``; ``"symmetric"`` = ``mask_ratio`` of it;
                ``"grid"`` = all but the top left one of every 2 x 2 patches. Hidden past patches are not encoded, so
                the decoder looks at the visible ones only.
            places: where each future patch lies in the past frame, ``(B, h*w, 2)``, as
                ``siammae.network.loss.matching_loss`` takes it; NaN where it is not known. None = no matching loss.
            match_temperature: of the matching loss.
            match_weights: what each future patch counts in it, ``(B, h*w)``; None = all alike.
            placing: where each frame lies in the grid of positions, ``(B, 2, 2, 2)``: past and future, x and y, place
                of the first patch and step to the next; for the encoder only. None = each fills the grid.

        Returns:
            The loss over the hidden future patches, the predicted patches (normalised as the loss sees them), the
            masks, and with ``places`` the matching loss of the two whole frames.

        Raises:
            ValueError: shapes differ or do not divide into patches, pixels are integers other than uint8, an option is
                out of range, or ``places`` come with frames that are not square, with a joint encoder or with a masked
                past frame.
            RuntimeError: the network has no decoder.
        """
        if self.decoder is None:
            raise RuntimeError(
                'this network has no decoder (config.decoder is "none"): it makes features only. Use extract, or load '
                "a checkpoint with a decoder."
            )
        grid = self._check_pair(past, future)
        mean, std = self.config.pixel_mean, self.config.pixel_std
        past, future = (normalize(frame, mean, std, self.dtype) for frame in (past, future))
        patches = grid[0] * grid[1]
        noise = draw_noise(len(past), patches, generator=generator, noise=noise)
        kept = random_kept(noise[:, 1], mask_ratio).to(self.device)
        seen = past_kept(noise[:, 0], past_mask, mask_ratio, grid)
        if places is not None and seen is not None:
            raise ValueError(f"places need the whole past frame, but past_mask is {past_mask!r}: it must be 'none'.")
        past_placing, future_placing = self._check_placing(placing, len(past))
        past_tokens = self.encoder.embed(past, past_placing)
        future_tokens = self.encoder.embed(future, future_placing)
        if seen is not None:
            seen = seen.to(self.device)
            past_tokens = _pick(past_tokens, seen)
        past_latent, future_latent = self._encode_pair(past_tokens, _pick(future_tokens, kept))
        prediction = self.decoder(past_latent, future_latent, kept, grid, seen)
        mask = hidden_mask(kept, patches)
        target = patchify(future, self.patch_size)
        loss = masked_patch_loss(prediction, target, mask, norm_pix=self.config.norm_pix_loss)
        matching = None
        if places is not None:
            self._check_places(places, len(past), grid)
            known = places.isfinite().flatten(1).any(dim=1)  # (B,)
            matching = matching_loss(
                past_latent[known, 1:],
                self.encoder(future_tokens[known])[:, 1:],
                places[known],
                temperature=match_temperature,
                weights=None if match_weights is None else match_weights[known],
            )
        return PretrainOutput(loss, prediction, mask, matching, None if seen is None else hidden_mask(seen, patches))

    def _check_places(self, places: Tensor, batch: int, grid: tuple[int, int]) -> None:
        if self.frame_embed is not None or grid[0] != grid[1] or places.shape != (batch, grid[0] ** 2, 2):
            raise ValueError(
                f"places are {tuple(places.shape)} for a grid of {grid} and a {self.config.encoder} encoder: they must "
                "be (B, h*w, 2), the frames square and the encoder siamese."
            )

    def _check_placing(self, placing: Tensor | None, batch: int) -> tuple[Tensor | None, Tensor | None]:
        if placing is None:
            return None, None
        if placing.shape != (batch, 2, 2, 2) or self.config.position != "sincos":
            raise ValueError(
                f"placing is {tuple(placing.shape)} for {batch} pairs and {self.config.position} positions: it must be "
                "(B, 2, 2, 2), and the positions sincos, which exist between whole numbers too."
            )
        return placing[:, 0], placing[:, 1]

    def _check_pair(self, past: Tensor, future: Tensor) -> tuple[int, int]:
        p = self.patch_size
        shape = tuple(past.shape)
        if past.shape != future.shape or past.ndim != 4 or past.shape[1] != 3 or past.shape[2] % p or past.shape[3] % p:
            raise ValueError(
                f"past is {shape} and future {tuple(future.shape)}: both must be (B, 3, H, W) of one shape with H and "
                f"W multiples of the patch size {p}. Crop or resize the frames."
            )
        for name, frame in (("past", past), ("future", future)):
            if frame.dtype != torch.uint8 and not frame.is_floating_point():
                raise ValueError(f"{name} is {frame.dtype}: it must be uint8, or float in [0, 1]. Convert it to uint8.")
        return shape[2] // p, shape[3] // p

    def _encode_pair(self, past: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the seen tokens ``(B, m, C)`` and ``(B, n, C)``; each comes back with a CLS token in front."""
        if self.frame_embed is None:
            return self.encoder(past), self.encoder(visible)
        both = self.encoder(torch.cat([past + self.frame_embed[0], visible + self.frame_embed[1]], dim=1))
        cut = 1 + past.shape[1]
        return both[:, :cut], torch.cat([both[:, :1], both[:, cut:]], dim=1)


def set_fused_attention(module: nn.Module, fused: bool) -> None:
    """Switch every attention in a network between PyTorch's fused kernel and plain products; the result is the same.

    Fused is the default and right for inference, on GPUs and in float32. For training in bfloat16 on a CPU plain
    products win: forward and backward take 8 ms against 39 ms (96 samples, 3 heads, 65 tokens, width 64; 2 cores of an
    Intel Xeon with AMX, torch 2.14).
    """
    for part in module.modules():
        if isinstance(part, (Attention, CrossAttention)):
            setattr(part, "fused_attn", fused)  # noqa: B010 -- timm marks it Final, for TorchScript only


def set_recompute(model: nn.Module, recompute: bool) -> None:
    """Let every block of encoder and decoder keep its input only and compute the rest again when gradients are taken.

    Gradients are the same, bit by bit.
    """
    for part in model.modules():
        if isinstance(blocks := getattr(part, "blocks", None), nn.Sequential | nn.ModuleList):
            for block in blocks:
                setattr(block, "recompute", recompute)  # noqa: B010 -- a plain flag that no module declares
