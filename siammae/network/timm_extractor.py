"""Any timm ViT with a patch grid as a feature extractor: DINO, DINOv2, DINOv3, MAE, CLIP, SigLIP, EVA and others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Self

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from siammae.checkpoints.hub import loading_errors
from siammae.config import PropagationConfig
from siammae.errors import CheckpointError, one_line
from siammae.features import extract_features, normalize, to_batch
from siammae.frames import VideoSource
from siammae.network.cpu_layers import faster_products, pools_keys, use_cpu_layers
from siammae.network.defaults import float32_on_cpu
from siammae.network.dtypes import Dtype, choose_dtype
from siammae.network.pooled_keys import pooled_keys
from siammae.network.token_reuse import TokenStream, reuses_tokens
from siammae.network.wide_block import normed

PREFIX = "timm/"
_META_TAGS = (".lvd1689m", ".sat493m")  # of DINOv3's own weights


@dataclass(frozen=True, slots=True)
class _Trunk:
    """The network as token reuse needs it."""

    extractor: TimmExtractor
    pixel_std: tuple[float, float, float] | None

    @property
    def patch_size(self) -> int:
        return self.extractor.patch_size

    @property
    def blocks(self) -> Sequence[Block]:
        own = self.extractor
        return list(own.model.blocks)[: own.check_layer(own.layer) + 1]

    @property
    def prefix(self) -> int:
        return int(self.extractor.model.num_prefix_tokens)

    def embed(self, frame: NDArray[np.uint8], region: tuple[int, int, int, int]) -> Tensor:
        own = self.extractor
        own.check_size((frame.shape[0], frame.shape[1]))
        pixels = normalize(to_batch([frame], own.device), own.pixel_mean, self.pixel_std or own.pixel_std, own.dtype)
        tokens: Tensor = own.model.norm_pre(own.model._pos_embed(own.model.patch_embed(pixels)))
        if region == (0, 0, frame.shape[0] // own.patch_size, frame.shape[1] // own.patch_size):
            return tokens[0]
        raise ValueError(f"region is {region}, but {own.name} encodes whole frames only.")

    def encode(self, frame: NDArray[np.uint8], region: tuple[int, int, int, int] | None, pool_keys: int) -> Tensor:
        if region is not None:
            raise ValueError(f"region is {region}, but {self.extractor.name} encodes whole frames only.")
        features = self.extractor.extract(frame[None], pool_keys=pool_keys, pixel_std=self.pixel_std)[0]
        return features.to(self.extractor.dtype)

    def finish(self, tokens: Tensor) -> Tensor:
        own = self.extractor
        return normed(own.model.norm, tokens, own.dtype) if own.norm else tokens.to(own.dtype)


class TimmExtractor:
    """A ViT of timm as the features of label propagation, in timm's own normalisation of pixels.

    Attributes:
        model: the network, in eval mode.
        name: where the weights came from.
        patch_size: pixels on a side of a patch.
        propagation: None; the rules are yours to choose.

    Args:
        model: from ``timm.create_model``; ``dynamic_img_size=True`` there lets it take frames of any size. Its
            attention and MLPs become those of :func:`siammae.network.cpu_layers.use_cpu_layers`.
        device: where it goes; None = where it is.
        dtype: float32, bfloat16 or float16; None = as it is.
        layer: the block whose output is returned, as a Python index.
        norm: apply the final norm (where timm has none, as in networks that pool patches, this changes nothing).
        name: for reports; None = the architecture's.
        propagation: recommended rules.

    Raises:
        ValueError: the model has no patch grid or no such block, or timm's record of its normalisation is missing.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> import timm
        >>> network = timm.create_model("test_vit", pretrained=False)  # or TimmExtractor.from_pretrained("timm/NAME")
        >>> extractor = siammae.TimmExtractor(network)
        >>> tuple(extractor.extract(np.zeros((2, 48, 64, 3), np.uint8)).shape), extractor.patch_size
        ((2, 64, 3, 4), 16)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        layer: int = -1,
        norm: bool = True,
        name: str | None = None,
        propagation: PropagationConfig | None = None,
    ) -> None:
        self.patch_size = _patch_size(model)
        cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        if "mean" not in cfg or "std" not in cfg:
            raise ValueError(
                f"{type(model).__name__} has no pretrained_cfg with mean and std: make it with timm.create_model."
            )
        self.pixel_mean, self.pixel_std = _color(cfg["mean"]), _color(cfg["std"])
        self.model: Any = model.to(device=device, dtype=dtype).eval()
        self.layer, self.norm, self.propagation = layer, norm, propagation
        self.name = name or str(cfg.get("architecture") or type(model).__name__)
        self._rounded = False  # from_pretrained chose a coarser dtype, which nobody asked for
        self.check_layer(layer)
        use_cpu_layers(self.model)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        pretrained: bool = True,
        device: torch.device | str | None = None,
        dtype: Dtype = "auto",
        layer: int = -1,
        norm: bool = True,
        **options: Any,  # noqa: ANN401 -- those of timm
    ) -> Self:
        """Make a network by timm's name; timm downloads the weights once and keeps them.

        DINOv3's rotary periods become those that its own files hold, rounded to bfloat16, where timm computes them anew
        in float32; so features equal the source's. Its biases of queries and values are 0 in the public weights, and
        timm's networks without ``_qkvb`` in their name have none.

        Args:
            name: e.g. ``"timm/vit_small_patch16_224.dino"``; the part ``timm/`` may be left out.
            pretrained: False = random weights.
            device: where it goes; None = the CPU.
            dtype: see :meth:`siammae.SiamMAE.from_pretrained`.
            layer: see the class.
            norm: see the class.
            **options: for ``timm.create_model``.

        Raises:
            ValueError: timm has no such network or weights, or it has no patch grid.
            CheckpointError: the weights cannot be had.
        """
        timm_name = _check_name(name.removeprefix(PREFIX), pretrained=pretrained)
        arguments = {"pretrained": pretrained, "num_classes": 0, **options}
        try:
            with float32_on_cpu():
                try:
                    model = timm.create_model(timm_name, **{"dynamic_img_size": True, **arguments})
                except TypeError:  # a network without that option: of fixed size, or not a ViT at all
                    model = timm.create_model(timm_name, **arguments)
        except loading_errors() as error:
            raise CheckpointError(
                f"the weights of {PREFIX}{timm_name} cannot be had ({type(error).__name__}: {one_line(error)}). Check "
                "the network and its proxy, copy timm's cache from a machine that has them, or replace a damaged copy: "
                f"hf download {PREFIX}{timm_name} --force-download."
            ) from error
        chosen = choose_dtype(dtype, device)
        extractor = cls(model, device=device, dtype=chosen, layer=layer, norm=norm, name=PREFIX + timm_name)
        extractor._rounded = dtype == "auto" and chosen != torch.float32
        if "dinov3" in timm_name and timm_name.endswith(_META_TAGS):
            _round_periods(extractor.model.rope)
        return extractor

    @property
    def extract_options(self) -> frozenset[str]:
        """What not every extractor can.

        ``"pool_keys"`` with timm's plain attention, ``"reuse"`` with plain blocks, ``"cls"`` with a CLS token.
        """
        pooling = all(pools_keys(getattr(block, "attn", None)) for block in self.model.blocks)
        classes = getattr(self.model, "cls_token", None) is not None
        return frozenset(["pool_keys"] * pooling + ["reuse"] * self._reuses() + ["cls"] * classes)

    def _reuses(self) -> bool:
        return isinstance(self.model, VisionTransformer) and reuses_tokens(self.model.blocks)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, in which features come."""
        return next(self.model.parameters()).dtype  # type: ignore[no-any-return]

    @torch.no_grad()
    def extract(
        self,
        frames: VideoSource,
        *,
        resize: int | tuple[int, int] | None = None,
        layer: int | None = None,
        norm: bool | None = None,
        batch_size: int = 8,
        pixel_std: tuple[float, float, float] | None = None,
        pool_keys: int = 1,
        cls: bool = False,
    ) -> Tensor:
        """Return dense features; CLS, registers and other prefix tokens are dropped.

        Args:
            frames: a path, folder, array, tensor or iterable of RGB frames of one size.
            resize: see :meth:`siammae.SiamMAE.extract`.
            layer: another block than the extractor's.
            norm: another choice than the extractor's.
            batch_size: frames encoded at once.
            pixel_std: overrides the divisor of normalised pixels.
            pool_keys: see :meth:`siammae.SiamMAE.extract`; for networks with timm's plain self-attention.
            cls: return the CLS token of each frame instead; for networks that have one.

        Returns:
            ``(T, C, h, w)`` on the model's device; with ``cls``, ``(T, C)``. In the model's dtype, or in float32 where
            ``dtype="auto"`` chose that.

        Raises:
            ValueError: frames or options are refused, or the model takes one size only and this is another.
            VideoReadError: the video cannot be decoded.
        """
        block = self.check_layer(self.layer if layer is None else layer)
        if pool_keys != 1 and "pool_keys" not in self.extract_options:
            raise ValueError(f"pool_keys is {pool_keys}, but {self.name} has another attention than timm's plain one.")
        if cls and "cls" not in self.extract_options:
            raise ValueError(f"{self.name} has no CLS token: pool its patches instead.")
        final_norm = self.norm if norm is None else norm
        std = pixel_std or self.pixel_std

        def encode(images: Tensor) -> Tensor:
            self.check_size((images.shape[-2], images.shape[-1]))
            pixels = normalize(images, self.pixel_mean, std, self.dtype)
            grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
            with faster_products(self.dtype), pooled_keys(pool_keys, grid, self.model.num_prefix_tokens):
                found = self.model.forward_intermediates(
                    pixels,
                    indices=[block],
                    norm=final_norm,
                    stop_early=True,
                    intermediates_only=True,
                    return_prefix_tokens=cls,
                )[0]  # (B, C, h, w), and with CLS (B, prefix, C)
            features: Tensor = found[1][:, 0] if cls else found
            return features

        features = extract_features(
            frames, encode, patch_size=self.patch_size, device=self.device, resize=resize, batch_size=batch_size
        )
        return features.float() if self._rounded else features

    def open_stream(
        self,
        *,
        threshold: float,
        refresh: int = 30,
        pool_keys: int = 1,
        pixel_std: tuple[float, float, float] | None = None,
    ) -> TokenStream:
        """Return what turns one stream's frames into features, see :meth:`siammae.SiamMAE.open_stream`.

        Raises:
            ValueError: an option is out of range, or the network has other blocks than timm's plain ones.
        """
        if not self._reuses():
            raise ValueError(f"{self.name} has other blocks than timm's plain ones: pass reuse_threshold=None.")
        trunk = _Trunk(self, pixel_std)
        return TokenStream(trunk, threshold=threshold, refresh=refresh, pool_keys=pool_keys)

    def check_layer(self, layer: int) -> int:
        """Return the block's index counted from 0.

        Raises:
            ValueError: there is no such block.
        """
        depth = len(self.model.blocks)
        if not -depth <= layer < depth:
            raise ValueError(f"layer is {layer}: {self.name} has {depth} blocks, so it must be in [{-depth}, {depth}).")
        return layer % depth

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse frames of another size than the one that the network takes.

        Raises:
            ValueError: it takes one size only, and this is another.
        """
        own = self.model.patch_embed.img_size
        if not getattr(self.model, "dynamic_img_size", False) and own is not None and size != tuple(own):
            raise ValueError(
                f"{self.name} takes frames of {tuple(own)} only, got {size}: make it with dynamic_img_size=True where "
                f"timm knows that for it, or pass resize={tuple(own)}."
            )


@torch.no_grad()
def _round_periods(rope: Any) -> None:  # noqa: ANN401 -- timm's RotaryEmbeddingDinoV3
    """Give rotary positions the periods that DINOv3's public files hold."""
    rope.periods.copy_(rope.periods.bfloat16())
    if rope.feat_shape is not None:  # of one size: computed once
        rope.pos_embed_cached.copy_(rope.get_embed(shape=rope.feat_shape))


def _color(values: Any) -> tuple[float, float, float]:  # noqa: ANN401 -- timm's record
    red, green, blue = values
    return float(red), float(green), float(blue)


def _patch_size(model: nn.Module) -> int:
    """Return the side of a patch of a network whose blocks all work on one grid of patches."""
    embed: Any = getattr(model, "patch_embed", None)
    needed = all(hasattr(model, name) for name in ("blocks", "num_prefix_tokens", "forward_intermediates"))
    ratio = embed.feat_ratio(as_scalar=False) if needed and hasattr(embed, "feat_ratio") else None
    if ratio is None or ratio[0] != ratio[1]:
        raise ValueError(
            f"{type(model).__name__} has no grid of square patches that all its blocks share: pass a plain ViT of timm."
        )
    return int(ratio[0])


def _check_name(name: str, *, pretrained: bool) -> str:
    """Refuse what timm does not have, before it downloads or builds anything."""
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = get_close_matches(name, timm.list_pretrained(), 3) or get_close_matches(name, timm.list_models(), 3)
        hint = f" Did you mean {' or '.join(PREFIX + one for one in near)}?" if near else ""
        raise ValueError(f"timm {timm.__version__} has no network {name!r}.{hint}")
    weights = [one for one in timm.list_pretrained() if one.split(".")[0] == architecture]
    if pretrained and (not weights or ("." in name and name not in weights)):
        raise ValueError(
            f"timm {timm.__version__} has no weights {name!r}: it has {', '.join(weights) or 'none for this network'}."
        )
    return name
