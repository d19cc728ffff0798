"""SiamMAE: the network, its weights, its features."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siammae.checkpoints import hub
from siammae.checkpoints.hub import DEFAULT_WEIGHTS
from siammae.config import ModelConfig, PropagationConfig
from siammae.errors import CheckpointError
from siammae.features import extract_features, normalize
from siammae.frames import PathLike, VideoSource
from siammae.network.cropmae import CropMAEDecoder
from siammae.network.loss import masked_patch_loss, matching_loss, patchify
from siammae.network.masking import draw_noise, hidden_mask, past_kept, random_kept
from siammae.network.vit import Decoder, Encoder, sincos_position
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


class SiamMAE(nn.Module):
    """Siamese masked autoencoder: a ViT encoder, and a decoder that predicts a future frame from a past one.

    Attributes:
        config: the network's shape.
        propagation: recommended label propagation for these weights, or None.
        name: where the weights came from; ``"random"`` for a fresh network.
        patch_size: pixels on a side of a patch.

    Args:
        config: the network's shape; None = ViT-S/16.
        propagation: recommended label propagation.
    """

    def __init__(self, config: ModelConfig | None = None, *, propagation: PropagationConfig | None = None) -> None:
        super().__init__()
        self.config = config or ModelConfig()
        self.propagation = propagation
        self.name = "random"
        self.patch_size = self.config.patch_size
        self.encoder = Encoder(self.config)
        self.decoder = _decoder(self.config)
        self.whitening = Whitening(self.config.embed_dim) if self.config.whitened else None
        # A jointly encoding network must know which frame a token is from; alone, a frame counts as the past one.
        joint = self.config.encoder == "joint"
        self.frame_embed = nn.Parameter(torch.zeros(2, 1, self.config.embed_dim)) if joint else None
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

    @classmethod
    def from_pretrained(
        cls,
        name: PathLike = DEFAULT_WEIGHTS,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        cache_dir: PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load weights, in eval mode.

        Args:
            name: a bundled name, a folder, or ``owner/name`` on the Hugging Face Hub.
            revision: branch, tag or commit on the Hub.
            device: where the weights go.
            dtype: float32, bfloat16 or float16.
            cache_dir: where downloads are kept; None = the Hub client's own cache.
            token: for private repositories.
            local_files_only: use the cache, never the network.

        Raises:
            ValueError: the name is none of these.
            FileNotFoundError: a folder was named that does not exist.
            CheckpointError: files are missing or damaged, or weights and config do not fit exactly.
        """
        folder = hub.find_checkpoint(
            name, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        stored = hub.read_config(folder)
        try:
            config = ModelConfig.from_dict(stored["model"])
            recommended = stored.get("propagation")
            propagation = PropagationConfig.from_dict(recommended) if recommended else None
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{folder / hub.CONFIG_FILE}: {error}") from error
        model = cls(config, propagation=propagation)
        hub.load_strictly(model, hub.read_weights(folder), source=str(folder / hub.WEIGHTS_FILE))
        model._check_position(str(folder))
        model.name = str(name)
        return model.to(device=device, dtype=dtype).eval()

    def _check_position(self, source: str) -> None:
        """Refuse a position table that is not the one recomputed at other sizes: it would be wrong silently."""
        if self.config.position != "sincos":
            return
        side, dim = self.config.grid_size, self.config.embed_dim
        expected = F.pad(sincos_position((side, side), dim, extent=side), (0, 0, 1, 0))  # (1 + side*side, C), CLS first
        if (worst := (self.encoder.pos_embed - expected).abs().max().item()) > 2e-3:  # half precision stores to 5e-4
            raise CheckpointError(
                f"{source}: pos_embed differs from the sine-cosine table by up to {worst:.3g}. "
                'Set position to "learned" in config.json.'
            )

    @torch.no_grad()  # not inference_mode: a head can be trained on the features
    def extract(
        self,
        frames: VideoSource,
        *,
        resize: int | tuple[int, int] | None = None,
        layer: int = -1,
        norm: bool = True,
        batch_size: int = 8,
        whiten: bool = True,
        pixel_std: tuple[float, float, float] | None = None,
    ) -> Tensor:
        """Return dense features; nothing is ever masked.

        Args:
            frames: a path, folder, array, tensor or iterable of RGB frames of one size.
            resize: None = the frame's size, each side rounded to whole patches; an int = that short side, aspect
                kept to whole patches; ``(H, W)`` = exactly that, multiples of ``patch_size``.
            layer: the block whose output is returned, as a Python index; later blocks are not computed.
            norm: apply the final layer norm.
            batch_size: frames encoded at once.
            whiten: apply the checkpoint's whitening, where it has one, to the last layer's normed features.
            pixel_std: overrides the divisor of normalised pixels.

        Returns:
            ``(T, C, h, w)`` on the model's device, in its dtype; CLS is dropped.

        Raises:
            ValueError: frames or options are refused.
            VideoReadError: the video cannot be decoded.
        """
        last = self.encoder.check_layer(layer) == self.config.depth - 1
        whitening = self.whitening if whiten and last and norm else None
        return extract_features(
            frames,
            lambda images: self._encode(images, layer, norm, pixel_std or self.config.pixel_std, whitening),
            patch_size=self.patch_size,
            device=self.device,
            resize=resize,
            batch_size=batch_size,
        )

    def _encode(
        self, images: Tensor, layer: int, norm: bool, std: tuple[float, float, float], whitening: Whitening | None
    ) -> Tensor:
        tokens = self.encoder.embed(normalize(images, self.config.pixel_mean, std, self.dtype))
        if self.frame_embed is not None:
            tokens = tokens + self.frame_embed[0]
        features = self.encoder(tokens, layer=layer, norm=norm)[:, 1:]  # (B, h*w, C)
        if whitening is not None:
            features = whitening(features)
        h, w = (side // self.patch_size for side in images.shape[-2:])
        return features.transpose(1, 2).reshape(len(images), -1, h, w)  # type: ignore[no-any-return]

    def fit_whitening(
        self, frames: VideoSource, *, resize: int | tuple[int, int] | None = None, epsilon: float = 0.01
    ) -> None:
        """Make the last layer's features vary equally in every direction, as they vary over these frames.

        A pretrained network's features are whitened once, on unlabelled frames such as those it was trained on; the
        map is saved with the weights, and ``config.whitened`` becomes True.

        Args:
            frames: some dozens of varied frames of one size; see :meth:`extract`.
            resize: see :meth:`extract`.
            epsilon: part of the mean variance added to every direction, > 0: weak directions are mostly noise.

        Raises:
            ValueError: there are too few patches, or frames or options are refused.
        """
        features = self.extract(frames, resize=resize, whiten=False)
        whitening = Whitening(self.config.embed_dim)
        whitening.fit(features.cpu(), epsilon=epsilon)
        self.whitening = whitening.to(self.device, self.dtype)
        self.config = self.config.replace(whitened=True)

    def drop_whitening(self) -> None:
        """Go back to raw features."""
        self.whitening = None
        self.config = self.config.replace(whitened=False)

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
            matching = self._match(past_latent, future_tokens, places, grid, match_temperature)
        return PretrainOutput(loss, prediction, mask, matching, None if seen is None else hidden_mask(seen, patches))

    def _match(
        self, past_latent: Tensor, future_tokens: Tensor, places: Tensor, grid: tuple[int, int], temperature: float
    ) -> Tensor:
        if self.frame_embed is not None or grid[0] != grid[1] or places.shape != (len(past_latent), grid[0] ** 2, 2):
            raise ValueError(
                f"places are {tuple(places.shape)} for a grid of {grid} and a {self.config.encoder} encoder: they must "
                "be (B, h*w, 2), the frames square and the encoder siamese."
            )
        known = places.isfinite().flatten(1).any(dim=1)  # (B,)
        future_latent = self.encoder(future_tokens[known])
        return matching_loss(past_latent[known, 1:], future_latent[:, 1:], places[known], temperature=temperature)

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

    def save_pretrained(self, folder: PathLike, *, dtype: torch.dtype | None = None, card: str | None = None) -> Path:
        """Write ``config.json``, ``model.safetensors`` and a model card.

        Args:
            folder: made if missing; files of the same names are replaced.
            dtype: stored type; None = the model's own. float16 halves the file.
            card: the model card in Markdown; None = one that states the configuration.

        Returns:
            The folder, loadable by :meth:`from_pretrained`.
        """
        tensors = {name: tensor.to(dtype or tensor.dtype) for name, tensor in self.state_dict().items()}
        config: dict[str, Any] = {"model": self.config.to_dict()}
        if self.propagation is not None:
            config["propagation"] = self.propagation.to_dict()
        return hub.write_checkpoint(folder, config, tensors, self._card() if card is None else card)

    def _card(self) -> str:
        rows = "\n".join(f"| {name} | {value} |" for name, value in self.config.to_dict().items())
        return (
            "---\nlibrary_name: siammae\ntags: [video, self-supervised, label-propagation]\n---\n\n"
            f"# SiamMAE checkpoint\n\nLoad it with `siammae.SiamMAE.from_pretrained(...)`.\n\n"
            f"| field | value |\n| --- | --- |\n{rows}\n"
        )

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | bool | None = None) -> str:
        """Upload what :meth:`save_pretrained` writes.

        Args:
            repo_id: ``owner/name``; made if missing.
            private: for a new repository.
            token: None = the one you logged in with.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: the Hub refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as temporary:
            return hub.upload(self.save_pretrained(temporary), repo_id, private=private, token=token)
