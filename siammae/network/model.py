"""SiamMAE as users call it: load, extract, save. What training calls is ``pretraining_model``."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siammae.checkpoints import hub
from siammae.checkpoints.hub import DEFAULT_WEIGHTS
from siammae.checkpoints.tensors import load_strictly
from siammae.config import ModelConfig, PropagationConfig
from siammae.errors import CheckpointError
from siammae.features import extract_features, normalize
from siammae.frames import PathLike, VideoSource
from siammae.network.defaults import float32_on_cpu
from siammae.network.dtypes import Dtype, choose_dtype
from siammae.network.pooled_keys import pooled_keys
from siammae.network.pretraining_model import PretrainingModel
from siammae.network.shapes import tensor_shapes
from siammae.network.siam_trunk import SiamTrunk
from siammae.network.token_reuse import TokenStream, reuses_tokens
from siammae.network.vit import sincos_position
from siammae.network.whitening import Whitening

logger = logging.getLogger(__name__)


class SiamMAE(PretrainingModel):
    """Siamese masked autoencoder: a ViT encoder, and a decoder that predicts a future frame from a past one.

    Attributes:
        config: the network's shape.
        propagation: recommended label propagation for these weights, or None.
        name: where the weights came from; ``"random"`` for a fresh network.
        patch_size: pixels on a side of a patch.

    Args:
        config: the network's shape; None = ViT-S/16.
        propagation: recommended label propagation.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> model = siammae.SiamMAE.from_pretrained()  # bundled; or a folder, or "owner/name" on the Hub
        >>> video = np.zeros((2, 48, 64, 3), np.uint8)
        >>> features = model.extract(video)  # a vector for each patch
        >>> tuple(features.shape), model.patch_size
        ((2, 192, 6, 8), 8)
    """

    extract_options = frozenset({"region", "pool_keys", "cls", "reuse"})  # that not every extractor has

    def __init__(self, config: ModelConfig | None = None, *, propagation: PropagationConfig | None = None) -> None:
        super().__init__(config or ModelConfig())
        self.propagation = propagation
        self.name = "random"
        self._rounded = False  # from_pretrained chose a coarser dtype, which nobody asked for

    @classmethod
    def from_pretrained(
        cls,
        name: PathLike = DEFAULT_WEIGHTS,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: Dtype = "auto",
        cache_dir: PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load weights, in eval mode.

        Args:
            name: a bundled name, a folder, or ``owner/name`` on the Hugging Face Hub.
            revision: branch, tag or commit on the Hub.
            device: where the weights go.
            dtype: float32, bfloat16, float16, or ``"auto"`` = the faster of the first two here, see
                :func:`siammae.network.dtypes.choose_dtype`. Ask for float32 to train, or to save the weights again.
            cache_dir: where downloads are kept; None = the Hub client's own cache.
            token: for private repositories.
            local_files_only: use the cache, never the network.
            force_download: download again what lies in the cache: a file there may be damaged.

        Raises:
            ValueError: the name is none of these, or ``force_download`` meets ``local_files_only``.
            FileNotFoundError: a folder was named that does not exist.
            CheckpointError: files are missing or damaged, or weights and config do not fit exactly.
        """
        folder = hub.find_checkpoint(
            name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        stored = hub.read_config(folder)
        try:
            config = ModelConfig.from_dict(stored["model"])
            recommended = stored.get("propagation")
            propagation = PropagationConfig.from_dict(recommended) if recommended else None
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{folder / hub.CONFIG_FILE}: {error}") from error
        with float32_on_cpu():
            # Names and shapes first: a config may ask for a network that fits no memory.
            tensors = hub.read_weights(folder, tensor_shapes(cls, config))
            model = cls(config, propagation=propagation)
            load_strictly(model, tensors, source=str(folder / hub.WEIGHTS_FILE))
            model._check_position(str(folder))
        model.name = str(name)
        chosen = choose_dtype(dtype, device)
        model._rounded = dtype == "auto" and chosen != torch.float32
        return model.to(device=device, dtype=chosen).eval()

    def train(self, mode: bool = True) -> Self:
        """Set training mode, as PyTorch's modules do; weights that ``dtype="auto"`` rounded are no good start."""
        if mode and self._rounded:
            logger.warning(
                "%s was loaded in %s, for inference: to train it, load it with dtype=torch.float32.",
                *(self.name, self.dtype),
            )
        return super().train(mode)

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
        region: tuple[int, int, int, int] | None = None,
        pool_keys: int = 1,
        cls: bool = False,
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
            region: encode these patches only, ``(top, left, bottom, right)``, the last two not included: at their
                places in the whole frame, but without seeing the rest of it. Features of all others are 0.
            pool_keys: every patch attends to means of so many by so many patches; 1 = to each one. 2 takes about a
                quarter of attention's time, and changes features a little.
            cls: return the CLS token of each frame instead, which is neither adapted nor whitened.

        Returns:
            ``(T, C, h, w)`` on the model's device, without CLS; with ``cls``, CLS alone: ``(T, C)``. In the model's
            dtype, or in float32 where ``dtype="auto"`` chose that.

        Raises:
            ValueError: frames or options are refused.
            VideoReadError: the video cannot be decoded.
        """
        last = self.encoder.check_layer(layer) == self.config.depth - 1
        maps = self.feature_maps(whiten) if last and norm else ()
        features = extract_features(
            frames,
            lambda images: self._encode(
                images, layer, norm, pixel_std or self.config.pixel_std, maps, region, pool_keys, cls
            ),
            patch_size=self.patch_size,
            device=self.device,
            resize=resize,
            batch_size=batch_size,
        )
        return features.float() if self._rounded else features

    def _encode(
        self,
        images: Tensor,
        layer: int,
        norm: bool,
        std: tuple[float, float, float],
        maps: Sequence[nn.Module] = (),
        region: tuple[int, int, int, int] | None = None,
        pool_keys: int = 1,
        cls: bool = False,
    ) -> Tensor:
        h, w = (side // self.patch_size for side in images.shape[-2:])
        tokens = self.encoder.embed(normalize(images, self.config.pixel_mean, std, self.dtype))
        if self.frame_embed is not None:
            tokens = tokens + self.frame_embed[0]
        top, left, bottom, right = _check_region(region, (h, w))
        if region is not None:
            tokens = tokens.unflatten(1, (h, w))[:, top:bottom, left:right].flatten(1, 2)  # type: ignore[no-untyped-call]
        with pooled_keys(pool_keys, (bottom - top, right - left), 1 + self.config.registers):
            encoded = self.encoder(tokens, layer=layer, norm=norm)  # (B, 1 + n, C)
        if cls:
            token: Tensor = encoded[:, 0]
            return token
        features = encoded[:, 1:]
        for map_features in maps:
            features = map_features(features)
        grid: Tensor = features.unflatten(1, (bottom - top, right - left))
        if region is not None:
            grid = F.pad(grid, (0, 0, left, w - right, top, h - bottom))
        return grid.permute(0, 3, 1, 2)

    def feature_maps(self, whiten: bool = True) -> Sequence[nn.Module]:
        """Return what the last layer's normed features pass, in this order: the adapter, the whitening."""
        return [part for part in (self.adapter, self.whitening if whiten else None) if part is not None]

    def open_stream(
        self,
        *,
        threshold: float,
        refresh: int = 30,
        pool_keys: int = 1,
        pixel_std: tuple[float, float, float] | None = None,
    ) -> TokenStream:
        """Return what turns one stream's frames into features, and computes again only what has changed.

        Args:
            threshold: see :class:`siammae.network.token_reuse.TokenStream`.
            refresh: likewise.
            pool_keys: see :meth:`extract`.
            pixel_std: likewise.

        Raises:
            ValueError: an option is out of range, or a block is none of timm's plain ones.
        """
        if not reuses_tokens(self.encoder.blocks):
            raise ValueError("token reuse needs timm's plain blocks without hooks: pass reuse_threshold=None.")
        trunk = SiamTrunk(self, pixel_std)
        return TokenStream(trunk, threshold=threshold, refresh=refresh, pool_keys=pool_keys)

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

    def save_pretrained(self, folder: PathLike, *, dtype: torch.dtype | None = None, card: str | None = None) -> Path:
        """Write ``config.json``, ``model.safetensors`` and a model card.

        Args:
            folder: made if missing; files of the same names are replaced.
            dtype: stored type; None = the model's own. float16 halves the file.
            card: the model card in Markdown; None = one that states the configuration.

        Returns:
            The folder, loadable by :meth:`from_pretrained`.

        Raises:
            ValueError: ``dtype`` is None, and :meth:`from_pretrained` has rounded the weights by its own choice.
        """
        if dtype is None and self._rounded:
            raise ValueError(
                f"the weights were rounded to {self.dtype} when they were loaded: load them with "
                f"from_pretrained(..., dtype=torch.float32) to store them whole, or pass dtype={self.dtype}."
            )
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


def _check_region(region: tuple[int, int, int, int] | None, grid: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a region of a patch grid, the whole grid for None."""
    if region is None:
        return 0, 0, *grid
    top, left, bottom, right = region
    if not (0 <= top < bottom <= grid[0] and 0 <= left < right <= grid[1]):
        raise ValueError(
            f"region is {region}: it must be (top, left, bottom, right) in patches, inside the grid of {grid}, at "
            "least one patch high and wide."
        )
    return region
