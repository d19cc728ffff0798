"""From a foreign file to a folder that ``SiamMAE.from_pretrained`` loads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siammae.checkpoints import hub
from siammae.checkpoints.tensors import check_tensors, describe, load_strictly
from siammae.config import VIT_SIZES, ModelConfig
from siammae.convert.families import Family, choose_family, is_encoder, match, position_rule
from siammae.convert.reading import Weights, check_storage, file_hash, find_weights, read_source
from siammae.errors import CheckpointError
from siammae.frames import PathLike
from siammae.network.model import SiamMAE
from siammae.network.shapes import tensor_shapes
from siammae.outputs import claim_folder

# Tensors do not tell the number of heads; these are the public networks' by width (ViT-H: MAE, ViT-g: DINOv2).
_HEADS = {dim: heads for dim, _, heads in VIT_SIZES.values()} | {1280: 16, 1536: 24}
_FILES = "|".join(map(re.escape, (hub.CONFIG_FILE, hub.WEIGHTS_FILE, hub.CARD_FILE)))
_DECODER_HEADS = {256: 8, 512: 16, 1024: 16}  # CropMAE's


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """What became of a foreign checkpoint.

    Attributes:
        folder: the new checkpoint.
        source: the file's name.
        sha256: of the file.
        family: see :func:`convert_checkpoint`.
        wrapper: the key under which the weights lay, or None.
        config: the network's shape.
        mapped: name in the file to name here.
        dropped: name in the file to the reason.
        notes: what tensors do not tell and was assumed.
    """

    folder: Path
    source: str
    sha256: str
    family: str
    wrapper: str | None
    config: ModelConfig
    mapped: Mapping[str, str]
    dropped: Mapping[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return the report in a few lines of Markdown."""
        lines = [
            f"- source: `{self.source}`, sha256 `{self.sha256}`",
            f"- family: {self.family}" + (f", weights under `{self.wrapper}`" if self.wrapper else ""),
            f"- mapped: {len(self.mapped)} tensors; " + _summary(f"{old} -> {new}" for old, new in self.mapped.items()),
        ]
        for reason in dict.fromkeys(self.dropped.values()):
            names = [name for name, why in self.dropped.items() if why == reason]
            lines.append(f"- dropped ({reason}): {_summary(names)}")
        return "\n".join(lines + [f"- note: {note}" for note in self.notes])


def _summary(names: Iterable[str], most: int = 40) -> str:
    """Name tensors, those of all blocks at once; names that come from a file are cut."""
    patterns = Counter(re.sub(r"\.\d+\.\S*", ".N.*", name)[:200] for name in names)
    shown = [f"`{name}`" + (f" x{count}" if count > 1 else "") for name, count in patterns.items()]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def convert_checkpoint(
    file: PathLike,
    folder: PathLike,
    *,
    family: str = "auto",
    overwrite: bool = False,
    **fields: Any,  # noqa: ANN401 -- the fields' own types
) -> ConversionReport:
    """Turn another project's checkpoint into a folder that :meth:`SiamMAE.from_pretrained` loads.

    Pickles are read by ``torch.load(weights_only=True)``: no code from the file runs. Files that unpack to more than
    four times their size or hold more than 20,000 tensors are refused, and no memory is taken for the network before
    all shapes fit. Every tensor is mapped, or dropped with a reason in the report and the model card; one that is not
    understood stops the conversion.

    Args:
        file: ``.pth``, ``.pt``, ``.bin`` or ``.safetensors``.
        folder: of the new checkpoint; made if missing.
        family: ``"auto"``, ``"cropmae"`` (also SiamMAE as re-implemented there), ``"catmae"``, ``"rsp"``, ``"tobo"``,
            ``"mae"``, ``"dino"``, ``"dinov2"``, ``"tcore"``, ``"cosettle"``, ``"cosettle-blip"`` or ``"vit"`` (timm's
            names). An encoder alone looks the same in all of them and counts as ``"vit"`` unless you say which it is;
            Co-Settle on BLIP looks like Co-Settle on MAE, DINO or iBOT.
        overwrite: whether a ``config.json``, ``model.safetensors`` and ``README.md`` in the folder may be replaced.
        **fields: of :class:`ModelConfig`, for what tensors do not tell: ``num_heads``, ``decoder_heads``,
            ``pixel_mean``, ``pixel_std``, ``position_offset``, ``position_antialias``.

    Returns:
        What was mapped, dropped and assumed.

    Raises:
        ValueError: the family or a field is unknown, the number of heads cannot be guessed, or the folder holds files
            of these names, the source among them.
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, holds more than tensors and plain values, or fits no family.

    Source:
        The families' public code for names; timm's ``checkpoint_filter_fn`` for DINOv2's registers.

    Example:
        >>> import siammae
        >>> import timm
        >>> import torch
        >>> network = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=2)
        >>> torch.save(network.state_dict(), "foreign.pth")  # stands for a file from elsewhere
        >>> report = siammae.convert_checkpoint("foreign.pth", "ours")
        >>> report.family, sorted(report.dropped)
        ('vit', ['head.bias', 'head.weight'])
        >>> siammae.SiamMAE.from_pretrained("ours").config.embed_dim
        192
    """
    with claim_folder(folder, _FILES, inputs=[file], overwrite=overwrite):
        return _convert(Path(file), Path(folder), family, fields)


def _convert(path: Path, folder: Path, family: str, fields: Mapping[str, Any]) -> ConversionReport:
    sha256 = file_hash(path) if path.is_file() else ""
    weights = find_weights(read_source(path))
    chosen = choose_family(family, weights.tensors)
    tensors, mapped, dropped = _map(weights, chosen)
    check_storage(tensors)
    _arrange_positions(tensors)
    config = _config(tensors, chosen, fields)
    found = {name: describe(tensor) for name, tensor in tensors.items()}
    check_tensors(found, tensor_shapes(SiamMAE, config), source=str(path))  # before memory is taken for the network
    with torch.device("cpu"):  # whatever the default device and type are
        model = SiamMAE(config).float()
    load_strictly(model, tensors, source=str(path))
    report = ConversionReport(
        folder=folder,
        source=path.name,
        sha256=sha256,
        family=chosen.name,
        wrapper=weights.wrapper,
        config=config,
        mapped=mapped,
        dropped=dropped,
        notes=_notes(chosen, config, fields),
    )
    model.save_pretrained(folder, card=_card(chosen, report))
    return report


def _map(weights: Weights, family: Family) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Rename what is kept; return the tensors, the names and the reasons for the rest."""
    tensors: dict[str, Tensor] = {}
    mapped: dict[str, str] = {}
    dropped = dict(weights.dropped)
    for name, tensor in weights.tensors.items():
        old = weights.originals[name]
        if drop := match(name, family.drops):
            dropped[old] = drop[1]
            continue
        rename = match(name, family.renames)
        new = re.sub(*rename, name, count=1) if rename else name
        new = f"encoder.{new}" if is_encoder(new) else new
        tensors[new], mapped[old] = tensor, new
    return tensors, mapped, dropped


def _arrange_positions(tensors: dict[str, Tensor]) -> None:
    """Bring the position table to timm's form: a row for CLS without registers, none with them."""
    table, cls = _need(tensors, "encoder.pos_embed", 3), _need(tensors, "encoder.cls_token", 3)
    if cls.shape != (1, 1, table.shape[2]) or len(table) != 1:
        raise CheckpointError(
            f"cls_token is {tuple(cls.shape)} and pos_embed {tuple(table.shape)}: they must be (1, 1, C) and (1, N, C)."
        )
    has_row = isqrt(table.shape[1]) ** 2 != table.shape[1]
    if "encoder.reg_token" in tensors and has_row:
        tensors["encoder.cls_token"] = cls.float() + table[:, :1].float()
        tensors["encoder.pos_embed"] = table[:, 1:]
    elif "encoder.reg_token" not in tensors and not has_row:
        tensors["encoder.pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)


def _need(tensors: Mapping[str, Tensor], name: str, ndim: int) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != ndim:
        got = "is missing" if tensor is None else f"is {tuple(tensor.shape)}, not {ndim}-dimensional"
        raise CheckpointError(f"{name.removeprefix('encoder.')} {got}: this is no whole ViT encoder with a CLS token.")
    return tensor


def _config(tensors: Mapping[str, Tensor], family: Family, fields: Mapping[str, Any]) -> ModelConfig:
    """Read the network's shape off its tensors."""
    dim, colors, patch, _ = _need(tensors, "encoder.patch_embed.proj.weight", 4).shape
    side = isqrt(_need(tensors, "encoder.pos_embed", 3).shape[1])
    if dim == 0:
        raise CheckpointError("patch_embed.proj.weight is empty: this is no whole ViT encoder.")
    if colors != 3:
        raise CheckpointError(f"the network takes {colors} channels: it must take 3, red, green and blue.")
    registers = _need(tensors, "encoder.reg_token", 3).shape[1] if "encoder.reg_token" in tensors else 0
    offset, antialias = position_rule(family, registers)
    plain = {
        "patch_size": patch,
        "image_size": patch * side,
        "embed_dim": dim,
        "depth": _depth(tensors, "encoder.blocks."),
        "num_heads": _heads(dim, _HEADS, "num_heads", fields),
        "mlp_ratio": _need(tensors, "encoder.blocks.0.mlp.fc1.weight", 2).shape[0] / dim,
        "position": "learned",
        "position_offset": offset,
        "position_antialias": antialias,
        "registers": registers,
        "layer_scale": any(name.endswith(".ls1.gamma") for name in tensors),
        "adapter": any(name.startswith("adapter.") for name in tensors),
        "decoder": "none",
    }
    if any(name.startswith("decoder.") for name in tensors):
        width = _need(tensors, "decoder.embed.weight", 2).shape[0]
        plain |= {"decoder": "cropmae", "decoder_dim": width, "decoder_depth": _depth(tensors, "decoder.blocks.")}
        plain["decoder_heads"] = _heads(width, _DECODER_HEADS, "decoder_heads", fields)
    try:
        return ModelConfig.from_dict({**plain, **fields})
    except ValueError as error:
        if fields:  # which may be what is wrong
            raise
        raise CheckpointError(f"the network that the tensors describe cannot be: {error}") from error


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


def _heads(width: int, known: Mapping[int, int], field: str, fields: Mapping[str, Any]) -> object:
    if field in fields:
        return fields[field]
    if width not in known:
        raise ValueError(f"no public network is {width} wide, and tensors do not tell {field}: pass {field}=...")
    return known[width]


def _notes(family: Family, config: ModelConfig, fields: Mapping[str, Any]) -> tuple[str, ...]:
    offset = f" with an offset of {config.position_offset}" if config.position_offset else ""
    averaging = ", averaging where the grid becomes smaller" * config.position_antialias
    notes = [
        f"positions are the stored table; at other sizes it is interpolated bicubically{offset}{averaging} "
        f"({family.source})"
    ]
    if "num_heads" not in fields:
        notes.append(f"{config.num_heads} heads, from the width {config.embed_dim}; tensors do not tell")
    if family.name == "cosettle" and not config.registers:
        notes.append(
            "Co-Settle on BLIP looks the same but interpolates positions by another rule: pass family='cosettle-blip' "
            "if this is it"
        )
    if family.name == "vit":
        notes.append(
            "a bare encoder looks the same in MAE, DINO and timm; pass family=... if you know it (only timm averages "
            "positions where the grid becomes smaller, and DINO interpolates them with an offset)"
        )
        if "pixel_mean" not in fields:
            notes.append("pixels are normalised with ImageNet's mean and deviation; timm's AugReg networks want 0.5")
    return tuple(notes)


def _card(family: Family, report: ConversionReport) -> str:
    use = "features and pixel predictions" if report.config.decoder != "none" else "features; there is no decoder"
    return (
        "---\nlibrary_name: siammae\ntags: [video, self-supervised, label-propagation]\n---\n\n"
        f"# Converted checkpoint: {family.title}\n\nMade by `siammae convert` from another project's weights, whose "
        "licence and terms stay in force.\nLoad it with `siammae.SiamMAE.from_pretrained(...)`: "
        f"{use}.\n\n{report}\n"
    )
