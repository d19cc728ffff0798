"""``siammae shard``: decode videos once, so that training only reads small pictures."""

from __future__ import annotations

import argparse

from siammae.cli.options import Commands, add_command, add_overwrite_option, add_reader_option, say
from siammae.errors import printable
from siammae.outputs import hold_folder

_EXAMPLES = """Shards are uncompressed tar files in WebDataset's naming: a sample a clip, NUMBER.json with its name,
frame rate and sizes, NUMBER.FRAME.jpg for each frame. From them training draws the pairs that it would draw from the
videos, and decodes two small pictures for each instead of a video.

examples:
  siammae shard clips/ -o shards                   JPEGs of 256 pixels' short side
  siammae shard cuts.csv -o shards --step 4        only the parts in the table, and every 4th frame of them
  siammae shard clips/ -o shards --format png      every pixel as it was, several times the size
  siammae pretrain shards/ -o run                  train on them

An interrupted command goes on when it is run again."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "shard", run, "turn videos into shards, from which training reads faster")
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "videos", metavar="VIDEOS", help="folder searched for videos or images, .txt list, .csv of cuts, or one video"
    )
    parser.add_argument("-o", "--output", required=True, metavar="SHARDS", help="folder for the tars and index.json")
    parser.add_argument(
        "--short-side",
        type=int,
        default=256,
        metavar="PIXELS",
        help="frames are shrunk to it, 0 keeps them (%(default)s)",
    )
    parser.add_argument("--format", default="jpg", choices=("jpg", "png"), help="png keeps every pixel (%(default)s)")
    parser.add_argument("--quality", type=int, default=90, metavar="N", help="of the JPEGs, 1 to 95 (%(default)s)")
    parser.add_argument("--step", type=int, default=1, metavar="N", help="keep every Nth frame (%(default)s)")
    parser.add_argument("--shard-mb", type=float, default=500, metavar="MIB", help="size of a tar (%(default)s)")
    add_reader_option(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="clips decoded at once (default: one a CPU)")
    add_overwrite_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.pretraining.data.sharding import ShardSettings, write_shards

    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers is {args.workers}: it must be at least 1.")
    settings = ShardSettings(
        short_side=args.short_side or None,
        quality=args.quality,
        format=args.format,
        step=args.step,
        shard_mb=args.shard_mb,
        reader=args.reader,
    )
    try:
        with hold_folder(args.output, inputs=(args.videos,)):
            report = write_shards(
                args.videos,
                args.output,
                settings,
                workers=args.workers,
                overwrite=args.overwrite,
                progress=not args.quiet,
            )
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("stopped; the same command goes on after the last whole tar") from stop
    say(f"{report.clips} clips in {report.shards} shards in {args.output}: train with siammae pretrain {args.output}")
    if report.skipped:
        say(f"skipped {len(report.skipped)} that cannot be read:")
        for name, reason in report.skipped:
            say(f"  {printable(name)}: {reason}")
    return 0
