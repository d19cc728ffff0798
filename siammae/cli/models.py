"""``siammae models``: public checkpoints that siammae can use."""

from __future__ import annotations

import argparse
import json

from siammae.checkpoints.known_models import KnownModel, known_models
from siammae.cli.options import Commands, add_command, say

_NOTES = """
Published scores in percent: J&F on DAVIS-2017 val, mIoU on VIP val, PCK@0.1 on JHMDB. Sources differ in input size and
rules: compare nothing but by siammae evaluate. gate: whether a download needs a form or an account."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "models", run, "list public checkpoints that can be used")
    parser.add_argument("--json", action="store_true", help="print all that is known as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    models = known_models()
    if args.json:
        say(json.dumps([model.to_dict() for model in models], indent=2))
        return 0
    lines = [("name", "family", "patch", "M", "licence", "gate", "J&F", "mIoU", "PCK", "source"), *map(_cells, models)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    say(_NOTES)
    say("\nbundled and timm/ names go to --model. The others:")
    for family, load in dict.fromkeys((m.family, m.load) for m in models if "--model" not in m.load):
        say(f"  {family}: {load}")
    return 0


def _cells(model: KnownModel) -> tuple[str, ...]:
    scores = (model.davis_2017_val, model.vip_val, model.jhmdb_test)
    size = (str(model.patch_size), "" if model.parameters is None else f"{model.parameters:.1f}")
    cells = ("" if score is None else f"{score:.1f}" for score in scores)
    return (model.name, model.family, *size, model.license, model.gate, *cells, model.source or "")
