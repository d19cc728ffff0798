"""The network's shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from siammae.config.settings import Settings, check, check_choice, check_color, check_flags, check_integers

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# name: (embed_dim, depth, num_heads), as in timm's vit_<name>_patch*
VIT_SIZES: Mapping[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


# Grids are bounded by image_size and patch_size: at most 1024 patches on a side.
LARGEST: Mapping[str, float] = {
    "patch_size": 1024,
    "image_size": 16384,
    "embed_dim": 16384,
    "depth": 512,
    "num_heads": 1024,
    "mlp_ratio": 64,
    "registers": 1024,
    "decoder_dim": 16384,
    "decoder_depth": 512,
    "decoder_heads": 1024,
}
_MAX_GRID = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Settings):
    """The network's shape; stored as ``model`` in a checkpoint's ``config.json``.

    No field goes beyond ``LARGEST``, far above any public network: a config may come from a stranger.

    Attributes:
        patch_size: pixels on a side of a patch.
        image_size: pixels on a side of the square whose patches have positions, a multiple of ``patch_size``: the
            training crop, unless ``PretrainConfig.crop_size`` makes that smaller. Other frames are stretched over it.
        embed_dim: width of the encoder.
        depth: encoder blocks.
        num_heads: encoder attention heads.
        mlp_ratio: hidden width of an MLP over its block's width.
        position: ``"sincos"`` = fixed 2-D sine-cosine, recomputed at any grid size with the training grid's extent;
            ``"learned"`` = the stored table, interpolated bicubically.
        position_offset: added to both sides of the grid in the scale of that interpolation; 0.1 in DINO's code.
        position_antialias: that interpolation averages where the grid becomes smaller, as in timm and in DINOv2's
            networks with registers.
        registers: extra tokens that take part in attention and are dropped from the features; the table then has no
            row for CLS.
        layer_scale: whether each encoder block scales what it adds, channel by channel (DINOv2).
        encoder: ``"siamese"`` = each frame alone; ``"joint"`` = the tokens of both frames together.
        decoder: ``"cross-self"`` = cross-attention to the past frame, self-attention, MLP (the paper's best);
            ``"cross"`` = without self-attention; ``"joint"`` = self-attention over the tokens of both frames;
            ``"cropmae"`` = the one of CropMAE's code; ``"none"`` = features only.
        decoder_dim: width of the decoder.
        decoder_depth: decoder blocks.
        decoder_heads: decoder attention heads.
        norm_pix_loss: normalise each target patch to mean 0 and variance 1 before the l2 error.
        adapter: the last layer's normed features pass a linear layer, tanh and a layer norm (Co-Settle); only without a
            decoder, which would have to be trained on other features than those that are extracted.
        whitened: the last layer's features are whitened, by a map that the checkpoint holds.
        pixel_mean: subtracted from RGB in [0, 1].
        pixel_std: divides what is left.

    Raises:
        ValueError: a field is out of range or two do not fit together.

    Source:
        Gupta et al. 2023, sections 3 and 4; decoder width and depth are not in the public material, the default
        256 wide, 4 deep is that of the CropMAE re-implementation.

    Example:
        >>> import siammae
        >>> config = siammae.ModelConfig.vit("tiny", patch_size=8)
        >>> config.embed_dim, config.grid_size
        (192, 28)
        >>> model = siammae.SiamMAE(config.replace(depth=2))  # random weights
        >>> model.name
        'random'
    """

    patch_size: int = 16
    image_size: int = 224
    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    position: Literal["sincos", "learned"] = "sincos"
    position_offset: float = 0.0
    position_antialias: bool = False
    registers: int = 0
    layer_scale: bool = False
    encoder: Literal["siamese", "joint"] = "siamese"
    decoder: Literal["cross-self", "cross", "joint", "cropmae", "none"] = "cross-self"
    decoder_dim: int = 256
    decoder_depth: int = 4
    decoder_heads: int = 8
    norm_pix_loss: bool = True
    adapter: bool = False
    whitened: bool = False
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        check_integers(self)
        check_flags(self)
        for field, most in LARGEST.items():
            check(getattr(self, field) <= most, field, getattr(self, field), f"at most {most}")
        for field in ("patch_size", "image_size", "embed_dim", "depth", "num_heads", "decoder_dim", "decoder_depth"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        check(self.decoder_heads >= 1, "decoder_heads", self.decoder_heads, "at least 1")
        check(self.mlp_ratio > 0, "mlp_ratio", self.mlp_ratio, "above 0")
        check(self.image_size % self.patch_size == 0, "image_size", self.image_size, f"a multiple of {self.patch_size}")
        grid = f"at most {_MAX_GRID} patches of {self.patch_size}"
        check(self.grid_size <= _MAX_GRID, "image_size", self.image_size, grid)
        for width, heads in (("embed_dim", "num_heads"), ("decoder_dim", "decoder_heads")):
            got = getattr(self, width)
            check(got % getattr(self, heads) == 0, width, got, f"a multiple of {heads} = {getattr(self, heads)}")
            check(got % 4 == 0, width, got, "a multiple of 4 (sine and cosine of x and y)")
        check_choice("position", self.position, ("sincos", "learned"))
        check_choice("encoder", self.encoder, ("siamese", "joint"))
        check_choice("decoder", self.decoder, ("cross-self", "cross", "joint", "cropmae", "none"))
        check(not self.adapter or self.decoder == "none", "decoder", self.decoder, "'none' with an adapter")
        check(0 <= self.position_offset < 1, "position_offset", self.position_offset, "in [0, 1)")
        check(self.registers >= 0, "registers", self.registers, "at least 0")
        plain = self.registers == 0 and self.position_offset == 0 and not self.position_antialias
        allowed = "'learned' with registers, a position_offset or position_antialias"
        check(self.position == "learned" or plain, "position", self.position, allowed)
        check_color("pixel_mean", self.pixel_mean, least=-1.0)
        check_color("pixel_std", self.pixel_std, least=1e-6)

    @classmethod
    def vit(cls, size: str, *, patch_size: int = 16, **fields: Any) -> Self:  # noqa: ANN401 -- the fields' own types
        """Return a standard ViT shape.

        Args:
            size: ``"tiny"``, ``"small"``, ``"base"`` or ``"large"``.
            patch_size: pixels on a side, 8 or 16 in the paper.
            **fields: any other field of this class.

        Raises:
            ValueError: the size is unknown or a field out of range.
        """
        check_choice("size", size, tuple(VIT_SIZES))
        embed_dim, depth, num_heads = VIT_SIZES[size]
        shape = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
        return cls.from_dict({**shape, **fields})

    @property
    def grid_size(self) -> int:
        """Patches on a side of a training crop."""
        return self.image_size // self.patch_size
