"""``siammae relabel``: labels from one format into another, without a network."""

from __future__ import annotations

import argparse
import re

from siammae.cli.options import Commands, add_command, add_overwrite_option, say

_EXAMPLES = """examples:
  siammae relabel masks/ masks.json --format coco
  siammae relabel annotations.xml masks/ --format davis --video clip.mp4
  siammae relabel labels/ out/ --format davis --size 720x1280

`siammae formats` lists the formats. What the new one has no place for is left out and said."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "relabel", run, "convert labels from one format to another", epilog=_EXAMPLES)
    parser.add_argument("labels", metavar="IN", help="file or folder of labels")
    parser.add_argument("output", metavar="OUT", help="file or folder to write")
    parser.add_argument("--format", required=True, metavar="NAME", help="the new format")
    parser.add_argument("--input-format", metavar="NAME", help="that of IN (found by looking at it)")
    parser.add_argument("--video", metavar="VIDEO", help="the labelled video, file or folder of images")
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="of the frames, where neither IN nor a video tells it"
    )
    parser.add_argument("--sequence", metavar="NAME", help="which video, where IN holds the labels of several")
    add_overwrite_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.annotations.files import claim_labels, read_annotations

    inputs = (args.labels, args.video)
    with claim_labels(args.output, format=args.format, inputs=inputs, overwrite=args.overwrite) as write:
        labels = read_annotations(
            args.labels, video=args.video, size=args.size, sequence=args.sequence, format=args.input_format
        )
        written = write(labels)
    say(f"{written.frames} frames as {written.format} in {written.path}")
    return 0


def _size(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)):
        raise argparse.ArgumentTypeError(f"{text!r} must be HEIGHTxWIDTH, such as 720x1280")
    return int(found[1]), int(found[2])
