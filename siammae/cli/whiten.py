"""``siammae whiten``: a network's features with what changes when a thing moves turned down."""

from __future__ import annotations

import argparse

from siammae.cli.inputs import pick_device
from siammae.cli.options import DEFAULT_MODEL, Commands, add_command, add_overwrite_option, add_reader_option, say

_EXAMPLES = """Pairs of crops are drawn as for training, with pieces that move on their own. Right matches of what moves
differ by what should not count, such as place and surroundings; every direction of the features is divided by how much
they differ in it. No gradients, some minutes of one CPU core for 400 pairs.

examples:
  siammae whiten clips/ -o better                  the bundled network, on a folder of videos
  siammae whiten clips/ -o better --model run/model --pairs 800
  siammae propagate clip.mp4 --mask first.png -o masks --model better"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "whiten", run, "fit a map of a network's features on videos", epilog=_EXAMPLES)
    parser.add_argument(
        "videos",
        metavar="VIDEOS",
        help="folder of videos, images or shards, .txt list, .csv table of cuts, or one file",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the new checkpoint, for --model")
    parser.add_argument("--pairs", type=int, default=400, metavar="N", help="pairs of crops (%(default)s)")
    parser.add_argument(
        "--epsilon",
        type=float,
        default=0.3,
        metavar="X",
        help="part of the mean variance added to every direction: more changes less (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the pairs (%(default)s)")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME", help="bundled name, folder or owner/name on the Hub"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: a GPU where there is one)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="(%(default)s)")
    add_reader_option(parser)
    add_overwrite_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from siammae.pretraining.whiten import whiten

    folder = whiten(
        args.videos,
        args.output,
        model=args.model,
        pairs=args.pairs,
        epsilon=args.epsilon,
        seed=args.seed,
        reader=args.reader,
        device=pick_device(args.device),
        dtype=getattr(torch, args.dtype),
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    say(f"checkpoint in {folder}: use it with --model {folder}")
    return 0
