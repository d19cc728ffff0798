"""``siammae extract``: dense features of a video as one file, or of many videos with a manifest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from siammae.cli.inputs import pick_device
from siammae.cli.lists import add_engine_options, say_report
from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_reader_option,
    say,
)

if TYPE_CHECKING:
    from siammae.config import ExtractionConfig
    from siammae.corpus.models import ModelName

_EXAMPLE = """One video: the file holds the tensor "features" (T, C, h, w) and the checkpoint's name in its metadata. It
is written while the video is read, in memory that does not grow with it:
  siammae extract clip.mp4 -o features.safetensors --short-side 240 --store int8
  siammae extract clip.mp4 -o features.zarr                   one chunk a frame; pip install "siammae[zarr]"

Many videos: a folder, a .txt list, a .csv of cuts (path,start,stop) or shards, into a folder with a file each and
manifest.parquet (pip install "siammae[corpus]"). The same command again does what is missing:
  siammae extract videos/ -o features --short-side 240 --store float16 --workers 8
  siammae extract videos/ -o features --pool mean --engine ray --address auto     pip install "siammae[ray]"
  siammae extract videos/ -o features --shard 3/8             part 3 of 8, as in a Slurm array
  siammae extract --merge features                            one manifest of all parts

In Python: siammae.open_features("features")["clip.mp4"][40] is frame 40."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "extract", run, "write dense features of a video, or of many", epilog=_EXAMPLE)
    parser.add_argument(
        "videos",
        metavar="VIDEOS",
        nargs="?",
        help="video or folder of images; or, for many, folder, list, table, shards",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="file that ends in .safetensors or .zarr; or, for many videos, a folder"
    )
    add_reader_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_overwrite_option(parser)
    group = parser.add_argument_group("features")
    group.add_argument("--short-side", type=int, metavar="PIXELS", help="input size (default: the frames' own)")
    group.add_argument("--layer", type=int, default=-1, help="block whose output is taken (%(default)s: the last)")
    group.add_argument("--no-norm", action="store_true", help="leave out the final layer norm")
    group.add_argument("--start", type=int, default=0, metavar="N", help="first frame, from 0 (%(default)s)")
    group.add_argument("--stop", type=int, metavar="N", help="frame to stop before (default: the end)")
    group.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth frame (%(default)s)")
    group.add_argument("--pool", choices=("mean", "cls"), help="one vector a frame: mean of the patches, or CLS")
    group.add_argument("--pca", type=int, metavar="N", help="keep N principal components, fitted on a sample of frames")
    group.add_argument(
        "--store", choices=("float32", "float16", "int8"), default="float32", help="type of the file (%(default)s)"
    )
    group.add_argument(
        "--half", dest="store", action="store_const", const="float16", help="the same as --store float16"
    )
    group.add_argument(
        "--scale", choices=("channel", "patch"), default="channel", help="of what int8 has a scale each (%(default)s)"
    )
    group.add_argument("--batch-size", type=int, default=4, help="frames encoded at once (%(default)s)")
    many = add_engine_options(parser)
    many.add_argument(
        "--format", choices=("safetensors", "zarr"), default="safetensors", help="of each file (%(default)s)"
    )
    many.add_argument("--merge", metavar="OUT", help="only make one manifest of the parts in OUT")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.merge is not None:
        return _merge(args)
    if args.videos is None or args.output is None:
        raise ValueError("VIDEOS and -o OUT are needed, or --merge OUT alone.")
    if Path(args.output).suffix:
        return _one(args)
    return _many(args)


def _config(args: argparse.Namespace, kind: str) -> ExtractionConfig:
    from siammae.config import ExtractionConfig

    names = ("short_side", "layer", "start", "stop", "every", "pool", "pca", "store", "scale", "reader", "batch_size")
    return ExtractionConfig(norm=not args.no_norm, format=kind, **{name: getattr(args, name) for name in names})


def _model(args: argparse.Namespace) -> ModelName:
    from siammae.corpus.models import ModelName

    return ModelName(args.model, pick_device(args.device), args.dtype)


def _one(args: argparse.Namespace) -> int:
    from siammae.corpus.extraction import extract_to

    for option in ("engine", "workers", "address", "shard"):
        if getattr(args, option) not in (None, "local"):
            raise ValueError(f"--{option} is for many videos, but the output {args.output} is one file: name a folder.")
    done = extract_to(
        args.videos,
        args.output,
        model=_model(args),
        config=_config(args, "safetensors"),
        overwrite=args.overwrite,
        progress=not args.quiet,
        say=None if args.quiet else say,
    )
    axes = "frames, channels, rows, columns" if len(done.shape) == 3 else "frames, channels"
    say(f"features {(done.frames, *done.shape)} {args.store} ({axes}) in {done.path}")
    return 0


def _many(args: argparse.Namespace) -> int:
    from siammae.corpus.extracting import extract_corpus

    report = extract_corpus(
        args.videos,
        args.output,
        model=_model(args),
        config=_config(args, args.format),
        engine=args.engine,
        workers=args.workers,
        address=args.address,
        shard=args.shard,
        max_failed=args.max_failed,
        overwrite=args.overwrite,
        progress=not args.quiet,
        say=None if args.quiet else say,
    )
    say_report(report)
    return 0


def _merge(args: argparse.Namespace) -> int:
    from siammae.corpus.merging import merge_shares

    if args.videos is not None or args.output is not None:
        raise ValueError("--merge OUT needs neither VIDEOS nor -o: it only joins what is in OUT.")
    say_report(merge_shares(Path(args.merge)))
    return 0
