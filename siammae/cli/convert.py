"""``siammae convert``: another project's checkpoint as one of ours."""

from __future__ import annotations

import argparse

from siammae.cli.inputs import assignments
from siammae.cli.options import Commands, add_command, add_overwrite_option, say

_EXAMPLES = """families:
  cropmae (and SiamMAE as re-implemented there), catmae, rsp, tobo, mae, dino, dinov2, tcore, cosettle, cosettle-blip,
  vit (timm's names);
  other networks of timm need no conversion: --model timm/NAME
examples:
  siammae convert SiamMAE_vits16.pth -o siammae_vits16
  siammae convert dino_deitsmall8_pretrain.pth -o dino_vits8 --family dino
  siammae propagate clip.mp4 --mask first.png -o masks --model dino_vits8/

No code from the file runs: pickles are read with weights_only, and only as tensors and plain values."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "convert", run, "turn another project's checkpoint into ours", epilog=_EXAMPLES)
    parser.add_argument("file", metavar="FILE", help=".pth, .pt, .bin or .safetensors")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the new checkpoint, for --model")
    parser.add_argument("--family", default="auto", metavar="NAME", help="whose checkpoint it is (%(default)s)")
    add_overwrite_option(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="what tensors do not tell, the value as JSON, e.g. --set num_heads=8; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.convert import convert_checkpoint

    fields = assignments(args.set)
    if taken := {"file", "folder", "family", "overwrite"} & set(fields):
        raise ValueError(
            f"--set {taken.pop()}: it is no field of ModelConfig. Say whose checkpoint it is by --family, and where "
            "the new one goes by --output."
        )
    report = convert_checkpoint(args.file, args.output, family=args.family, overwrite=args.overwrite, **fields)
    say(report)
    say(f"checkpoint in {report.folder}")
    return 0
