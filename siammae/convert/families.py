"""What the public checkpoint families call their tensors, and which family a file belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from siammae.errors import CheckpointError, name_some

_AFFINE = r"\.(?:weight|bias)"
_ENCODER = re.compile(
    r"cls_token|reg_token|pos_embed|patch_embed\.proj" + _AFFINE + r"|norm" + _AFFINE + r"|"
    r"blocks\.\d+\.(?:(?:norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)" + _AFFINE + r"|ls[12]\.gamma)"
)
_DINOV3 = re.compile(r"storage_tokens|rope_embed\.periods|blocks\.\d+\.gamma_1")
_CLIP = re.compile(r"visual\.(?:class_embedding|ln_pre" + _AFFINE + ")")
_TIMM = 'Load such a network through timm: TimmExtractor.from_pretrained("timm/...") or --model timm/...'


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A public checkpoint family; patterns must match whole names.

    Attributes:
        name: for ``family=``.
        title: for people.
        marks: every one matches some tensor of the family's full checkpoints.
        renames: pattern and replacement, for tensors that are kept beside the encoder's.
        drops: pattern and reason, for tensors that are not.
        patch_size: the only one there is; None = any.
        position_offset: of its own evaluation code, see ``ModelConfig``.
        position_antialias: the same.
        source: where that code states its rule of positions.
    """

    name: str
    title: str
    marks: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    drops: tuple[tuple[str, str], ...] = ()
    patch_size: int | None = None
    position_offset: float = 0.0
    position_antialias: bool = False
    source: str


_CROSS = r"decoder_blocks\.\d+\.(?:(?:self|multihead)_attn\.(?:in_proj_(?:weight|bias)|out_proj\.(?:weight|bias))|"
_CROPMAE_BLOCK = _CROSS + r"(?:linear[12]|norm[123])" + _AFFINE + ")"
_RSP_BLOCK = (
    r"decoder_blocks\.\d+\.(?:norm1|norm_kv1|norm3|norm4|cattn\.(?:q|kv|proj)|attn\.(?:qkv|proj)|mlp2\.fc[12])"
    + _AFFINE
)
_MAE_BLOCK = r"decoder_blocks\.\d+\.(?:norm1|norm2|attn\.(?:qkv|proj)|mlp\.fc[12])" + _AFFINE
_TAIL = r"mask_token|decoder_pos_embed|(?:decoder_embed|decoder_norm|decoder_pred)" + _AFFINE
_REGISTERS = (r"register_tokens", "reg_token")
_MASK_TOKEN = (r"mask_token", "stands for hidden patches in training: features do not need it")
_CLASSIFIER = (r"head" + _AFFINE, "classifier: features do not need it")
_DINO_HEAD = (r"(?:dino_|ibot_)?head\..*|(?:dino|ibot_patch)_loss\..*", "self-distillation: features do not need it")
_ADAPTER = (
    (r"adapter\.adapter\.adapter_linear(\.(?:weight|bias))", r"adapter.linear\1"),
    (r"adapter\.adapter\.adapter_layer_norm1(\.(?:weight|bias))", r"adapter.norm\1"),
)
_ADAPTER_MARK = r"adapter\.adapter\.adapter_.*"
_DINO_CODE = "DINO, vision_transformer.py, interpolate_pos_encoding"
_CROPMAE_CODE = "CropMAE, downstreams/propagation/src/models_mae.py, interpolate_pos_encoding"

FAMILIES = (
    Family(
        name="catmae",
        title="CatMAE",
        marks=(r"decoder_frame_info", _CROPMAE_BLOCK),
        drops=((rf"{_TAIL}|{_CROPMAE_BLOCK}|decoder_frame_info", "CatMAE's decoder predicts two frames at once"),),
        position_offset=0.1,
        source="CatMAE, downstream/davis2017-seg/code/models_mae.py, interpolate_pos_encoding",
    ),
    Family(
        name="cropmae",
        title="CropMAE, and SiamMAE as re-implemented there",
        marks=(_CROPMAE_BLOCK,),
        renames=(
            (r"mask_token", "decoder.mask_token"),
            (r"decoder_pos_embed", "decoder.pos_embed"),
            (r"decoder_(embed|norm|pred)(\..*)", r"decoder.\1\2"),
            (rf"(?={_CROPMAE_BLOCK}$)decoder_(.*)", r"decoder.\1"),
        ),
        position_offset=0.1,
        source=_CROPMAE_CODE,
    ),
    Family(
        name="rsp",
        title="RSP",
        marks=(r"to_(?:prior|posterior)\..*", _RSP_BLOCK),
        drops=(
            (rf"{_TAIL}|{_RSP_BLOCK}", "RSP's decoder needs its latent variables"),
            (rf"(?:to_prior|to_posterior)\.[02]{_AFFINE}", "RSP's prior and posterior"),
            (rf"decoder_embed_(?:mae|deter|stoch){_AFFINE}", "RSP's decoder needs its latent variables"),
        ),
        position_offset=0.1,
        source=f"eval_video_segmentation_davis.py, which takes {_DINO_CODE}",
    ),
    Family(
        name="tobo",
        title="ToBo",
        marks=(_RSP_BLOCK,),
        drops=((rf"{_TAIL}|{_RSP_BLOCK}|decoder_embed_mae{_AFFINE}", "ToBo's decoder reads one bottleneck token"),),
        position_offset=0.1,
        source=f"docs/Evaluation.md, which names {_CROPMAE_CODE}",
    ),
    Family(
        name="mae",
        title="MAE",
        marks=(_MAE_BLOCK,),
        drops=((rf"{_TAIL}|{_MAE_BLOCK}", "MAE's decoder sees one frame only"),),
        source="MAE, util/pos_embed.py",
    ),
    Family(
        name="tcore",
        title="T-CoRe",
        marks=(r"register_tokens", r"blocks\.\d+\.ls1\.gamma"),
        renames=(_REGISTERS,),
        drops=(_MASK_TOKEN, _DINO_HEAD),
        patch_size=16,
        position_antialias=True,
        source="T-CoRe, base_model/configs/ssl_default_config.yaml",
    ),
    Family(
        name="dinov2",
        title="DINOv2",
        marks=(r"register_tokens|mask_token", r"blocks\.\d+\.ls1\.gamma"),
        renames=(_REGISTERS,),
        drops=(_MASK_TOKEN, _DINO_HEAD),
        position_offset=0.1,  # those with registers: see position_rule
        source="DINOv2, dinov2/hub/backbones.py",
    ),
    Family(
        name="cosettle",
        title="Co-Settle on MAE, MoCo v3, iBOT, DINO or DINOv2",
        marks=(_ADAPTER_MARK,),
        renames=(_REGISTERS, *_ADAPTER),
        drops=(_MASK_TOKEN, _CLASSIFIER),
        position_offset=0.1,  # DINOv2 is trained there with registers: see position_rule
        source="Co-Settle, interpolate_pos_encoding of each base in models/, and dinov2's ssl_default_config.yaml",
    ),
    Family(
        name="cosettle-blip",
        title="Co-Settle on BLIP",
        marks=(_ADAPTER_MARK,),
        renames=_ADAPTER,
        position_antialias=True,
        source="Co-Settle, models/blip/vit.py, interpolate_pos_encoding",
    ),
    Family(
        name="dino",
        title="DINO",
        marks=(r"head\.(?:mlp|last_layer)\..*",),
        drops=(_DINO_HEAD,),
        position_offset=0.1,
        source=_DINO_CODE,
    ),
    Family(
        name="vit",
        title="plain ViT under timm's names",
        drops=(_CLASSIFIER,),
        position_antialias=True,
        source="timm, layers/pos_embed.py, resample_abs_pos_embed",
    ),
)
NAMES = tuple(family.name for family in FAMILIES)


def position_rule(family: Family, registers: int) -> tuple[float, bool]:
    """Return ``position_offset`` and ``position_antialias`` of a family; DINOv2 has two rules."""
    if registers and family.name in ("dinov2", "cosettle"):
        return 0.0, True
    return family.position_offset, family.position_antialias


def match(name: str, patterns: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the first pattern that matches the whole name, with what belongs to it."""
    return next(((pattern, text) for pattern, text in patterns if re.fullmatch(pattern, name)), None)


def is_encoder(name: str) -> bool:
    """Say whether a name is one of timm's plain ViT."""
    return bool(_ENCODER.fullmatch(name))


def choose_family(family: str, tensors: Mapping[str, Tensor]) -> Family:
    """Find the family whose names cover a checkpoint's.

    Args:
        family: ``"auto"`` or a name.
        tensors: under their cleaned names.

    Raises:
        ValueError: there is no such family.
        CheckpointError: the tensors are of no family, or not of the one asked for; the message names them.
    """
    if family not in ("auto", *NAMES):
        raise ValueError(f"family is {family!r}: it must be 'auto' or one of {', '.join(map(repr, NAMES))}.")
    if found := sorted(name for name in tensors if _DINOV3.fullmatch(name)):
        raise CheckpointError(
            f"{name_some(found, 3)} belong to DINOv3 or EVA, whose rotary positions SiamMAE lacks. {_TIMM}."
        )
    if found := sorted(name for name in tensors if _CLIP.fullmatch(name)):
        raise CheckpointError(
            f"{name_some(found, 3)} belong to CLIP, with a layer norm before the blocks and another GELU, which "
            "SiamMAE lacks; Co-Settle on CLIP cannot be loaded. Load plain CLIP through timm: "
            'TimmExtractor.from_pretrained("timm/vit_base_patch16_clip_224.openai").'
        )
    fitting = [one for one in FAMILIES if _has_marks(one, tensors)]
    if family == "auto":
        chosen = min(fitting, key=lambda one: len(_unknown(one, tensors)))
    else:
        chosen = FAMILIES[NAMES.index(family)]
        if chosen not in fitting and not all(is_encoder(name) for name in tensors):
            guess = min(fitting, key=lambda one: len(_unknown(one, tensors)))
            raise CheckpointError(f"this is no {chosen.title} checkpoint: its tensors fit family={guess.name!r} best.")
    if unknown := _unknown(chosen, tensors):
        asked = "no family" if family == "auto" else f"not {chosen.title}"
        raise CheckpointError(
            f"{name_some(unknown)} fit {asked} (families: {', '.join(NAMES)}), and what is not understood is never "
            f"dropped. {_TIMM}."
        )
    if chosen.name.startswith("cosettle") and "cls_token" not in tensors:
        raise CheckpointError(
            "an adapter, but no cls_token: this is Co-Settle on I-JEPA, whose encoder has no CLS token and whose "
            "features pass no norm before the adapter. SiamMAE's encoder has both, so it cannot be loaded."
        )
    return chosen


def _has_marks(family: Family, tensors: Mapping[str, Tensor]) -> bool:
    weight = tensors.get("patch_embed.proj.weight")
    if family.patch_size and (weight is None or weight.shape[-1] != family.patch_size):
        return False
    return all(any(re.fullmatch(mark, name) for name in tensors) for mark in family.marks)


def _unknown(family: Family, tensors: Mapping[str, Tensor]) -> list[str]:
    known = (*family.renames, *family.drops)
    return sorted(name for name in tensors if not is_encoder(name) and match(name, known) is None)
