"""``siammae pretrain``: train on a folder of videos."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from siammae.cli.inputs import pick_device
from siammae.cli.options import Commands, add_command, add_overwrite_option, field_help, say
from siammae.config import LOGGERS, PRETRAIN_CHOICES, VIT_SIZES, ModelConfig, PretrainConfig
from siammae.config.recipes import RECIPES

_EXAMPLES = """examples:
  siammae pretrain clips/ -o run --size tiny --patch-size 8 --image-size 64 --batch-size 96 --base-lr 2.7e-3
  siammae pretrain clips/ -o run --resume          go on with an interrupted run
  siammae pretrain clips/ -o run --picture-every 200 --probe DAVIS --probe-every 500         watch it
  siammae pretrain kinetics/ -o run --preset siammae-k400 --workers 8         the paper's recipe, ViT-S/16
  siammae pretrain kinetics/ -o run --preset siammae-k400 --past-mask grid    one of its ablations
  torchrun --nproc-per-node 8 -m siammae pretrain shards/ -o run --preset siammae-k400 --auto-resume
  siammae propagate clip.mp4 --mask first.png -o masks --model run/model"""
_DECODER_FIELDS = ("decoder", "decoder_dim", "decoder_depth", "decoder_heads", "norm_pix_loss")
_MODEL_FIELDS = ("depth", "patch_size", "image_size", "encoder", *_DECODER_FIELDS)
_CHOICES: dict[str, tuple[object, ...]] = {
    "encoder": ("siamese", "joint"),
    "decoder": ("cross-self", "cross", "joint", "cropmae"),
    **PRETRAIN_CHOICES,
    "probe_year": (2016, 2017),
}
# Their default None does not tell.
_TYPES_OF_OPTIONAL = {"short_side": int, "clip_grad": float, "ema": float, "init": str, "probe": str, "crop_size": int}
_OPTIONAL_RANGES = ("position_step",)
_METAVARS = {"init": "NAME", "probe": "DIR", "probe_split": "NAME"}


def add_parser(commands: Commands) -> None:
    """Add the command; its options are the fields of the settings."""
    parser = add_command(commands, "pretrain", run, "train a network on videos, without labels", epilog=_EXAMPLES)
    parser.add_argument(
        "videos",
        metavar="VIDEOS",
        help="folder of videos, images or shards, .txt list, .csv table of cuts, or one file",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="gets model/, states/ and log.jsonl")
    going_on = parser.add_mutually_exclusive_group()
    going_on.add_argument(
        "--resume", action="store_true", help="go on with the run in DIR, with the settings it began with"
    )
    going_on.add_argument(
        "--auto-resume",
        action="store_true",
        help="go on with the run in DIR where there is one, else begin it: one command for restarts by a scheduler",
    )
    add_overwrite_option(going_on)
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop after N optimiser steps in this sitting")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps (auto: a GPU where there is one)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--preset",
        choices=tuple(RECIPES),
        help="a recipe, published or the bundled network's, instead of the defaults; options given besides override it",
    )
    network = parser.add_argument_group("network")
    network.add_argument("--size", choices=tuple(VIT_SIZES), help="width and depth of the encoder (small)")
    _add_fields(network, ModelConfig, _MODEL_FIELDS)
    recipe = [f.name for f in dataclasses.fields(PretrainConfig) if f.name not in ("videos", "output_dir", "model")]
    _add_fields(parser.add_argument_group("recipe"), PretrainConfig, recipe)


def _add_fields(group: Any, settings: type, names: tuple[str, ...] | list[str]) -> None:  # noqa: ANN401 -- private type
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    helps = field_help(settings)
    for name in names:
        default = defaults[name]
        options: dict[str, Any] = {"default": None, "help": f"{helps[name].rstrip('.')} ({_shown(default)})"}
        if name in _CHOICES:
            options.update(choices=_CHOICES[name], type=type(default))
        elif name == "loggers":
            options.update(nargs="+", choices=LOGGERS)
        elif isinstance(default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif name in _OPTIONAL_RANGES:
            options.update(nargs=2, type=float, metavar=("LEAST", "LARGEST"))
        elif isinstance(default, tuple):
            names_of_two = ("BETA1", "BETA2") if name == "betas" else ("LEAST", "LARGEST")
            options.update(nargs=2, type=type(default[0]), metavar=names_of_two)
        else:
            options.update(type=_TYPES_OF_OPTIONAL.get(name, type(default)), metavar=_METAVARS.get(name, "N"))
        group.add_argument("--" + name.replace("_", "-"), **options)


def _shown(default: object) -> str:
    if isinstance(default, tuple) and default:
        return " ".join(f"{value:.4g}" for value in default)
    if default in (None, ()) or isinstance(default, bool):
        return "on" if default else "off"
    return str(default)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.distributed import is_main_process
    from siammae.pretraining import pretrain

    logging.basicConfig(format="siammae: %(message)s")
    folder = pretrain(
        _stored_config(args) if args.resume else _new_config(args),
        resume=args.output if args.resume else "auto" if args.auto_resume else None,
        device=pick_device(args.device),
        max_steps=args.max_steps,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    if is_main_process():
        say(f"weights in {folder}: use them with --model {folder}")
    return 0


def _given(args: argparse.Namespace, settings: type) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(settings)} - {"videos", "output_dir", "model"}
    given = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _new_config(args: argparse.Namespace) -> PretrainConfig:
    where = {"videos": args.videos, "output_dir": args.output}
    return _changed(PretrainConfig.preset(args.preset, **where) if args.preset else PretrainConfig(**where), args)


def _changed(config: PretrainConfig, args: argparse.Namespace) -> PretrainConfig:
    """Lay the options that were given over the settings."""
    names = ("embed_dim", "depth", "num_heads")
    shape = {} if args.size is None else dict(zip(names, VIT_SIZES[args.size], strict=True))
    network = config.model.replace(**{**shape, **_given(args, ModelConfig)})
    return config.replace(model=network, **_given(args, PretrainConfig))


def _stored_config(args: argparse.Namespace) -> PretrainConfig:
    """Read the settings a run began with; options given again are laid over them, and checked against the state."""
    if args.preset:
        raise ValueError("--preset is for new runs: --resume goes on with the settings in DIR. Leave --preset out.")
    path = Path(args.output) / "pretrain.json"
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: no {path}. Start without --resume.")
    try:
        stored = PretrainConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    return _changed(stored.replace(videos=args.videos, output_dir=args.output), args)
