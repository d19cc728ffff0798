"""``siammae track``: keypoints of every frame from those of one or several annotated ones."""

from __future__ import annotations

import argparse
import csv
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siammae.cli.effort import Effort
from siammae.cli.given import given_points
from siammae.cli.inputs import load_model, overlay_writer, propagation_config, shown_frames
from siammae.cli.labels import add_label_options, numbered
from siammae.cli.lists import ListKind, add_list_option, run_list
from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_propagation_options,
    add_video_argument,
    say,
)
from siammae.cli.results import PointSink, add_format_option, chosen_formats
from siammae.outputs import Beside, claim_files, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from siammae.annotations.formats.format import Format
    from siammae.frames import Backend
    from siammae.network.model import SiamMAE
    from siammae.network.timm_extractor import TimmExtractor
    from siammae.propagation.keypoint_propagator import FrameKeypoints

_READABLE_NAMES = 8  # more names on one picture cover each other
_FORMAT = """points file: CSV with the header name,x,y (or x,y), one keypoint a line, in pixels of the first frame;
the centre of the top left pixel is 0,0. With a column frame it gives keypoints of several frames, counted from 0; so do
several files, as --points first.csv --points 40=later.csv. A keypoint that a frame leaves out is followed on there;
-1,-1 says that it is not there, until a later frame gives it again.
output: CSV with the header frame,name,x,y,confidence; -1,-1 where a keypoint is not there or not known yet.

examples:
  siammae track clip.mp4 --points first.csv -o tracks.csv --overlay
  siammae track clip.mp4 --points first.csv --points 40=later.csv -o tracks.csv   # between them, both are followed
  siammae track clip.mp4 --points CollectedData.csv -o tracks.csv --format deeplabcut --format sleap

many videos: a table with the header video,points, paths relative to it. Results lie in OUT/tracks, manifest.parquet
says which is whose; the same command again does what is missing:
  siammae track --list table.csv -o OUT --workers 8"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "track", run, "carry keypoints of annotated frames through a video", epilog=_FORMAT)
    add_video_argument(parser, optional=True)
    parser.add_argument(
        "--points",
        action="append",
        default=[],
        metavar="[N=]FILE",
        help="keypoints of frame N, counted from 0 (without N the first frame's, or as the file says), as CSV or in "
        "any format that siammae reads; may be repeated",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="gets the keypoints of every frame")
    add_format_option(parser, "tracks, the CSV", "the first is the output, others stand beside it, as OUTPUT.coco.json")
    parser.add_argument("--overlay", action="store_true", help="also write a video beside the output (.mp4)")
    add_overwrite_option(parser)
    add_label_options(parser)
    add_list_option(parser, "video,points")
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.list is not None:
        suffix = _formats(args)[0].suffix
        return run_list(args, ListKind("points", "tracks", f"tracks{suffix}", ("points",)), follow)
    if args.video is None:
        raise ValueError("there is no video: name one, or --list TABLE.csv for many.")
    if not args.points:
        raise ValueError("there are no points: pass --points FILE for the first frame, or --points N=FILE.")
    for line in follow(args)[1]:
        say(line)
    return 0


def _formats(args: argparse.Namespace) -> list[Format]:
    from siammae.annotations.formats.format import Feature

    return chosen_formats(args.format, "tracks", Feature.POINTS)


def follow(args: argparse.Namespace, model: SiamMAE | TimmExtractor | None = None) -> tuple[int, list[str]]:
    """Follow one video's keypoints; returns the number of frames, and what there is to say.

    Args:
        args: of the command.
        model: loaded already; None loads the one that the options name.
    """
    from siammae.annotations.files import claim_labels
    from siammae.propagation.keyframes import follow_keypoint_frames

    formats = _formats(args)
    output = Path(args.output)
    if output.suffix != formats[0].suffix:
        raise ValueError(f"the output is {output}: it must end in {formats[0].suffix}.")
    places = {
        one.name: output.with_suffix(f".{one.name}{one.suffix}") if place else output
        for place, one in enumerate(formats)
    }
    tracks = places.pop("tracks", None)
    overlay = output.with_suffix(".mp4")
    again = output.exists()
    sources = [numbered(text) for text in args.points]
    inputs = (args.video, args.model, *(path for _, path in sources))
    with (
        claim_files(tracks, overlay if args.overlay else None, inputs=inputs, overwrite=args.overwrite),
        ExitStack() as stack,
    ):
        writers = {
            name: stack.enter_context(claim_labels(place, format=name, inputs=inputs, overwrite=args.overwrite))
            for name, place in places.items()
        }
        given = given_points(args, sources)
        sink = PointSink(writers, given, args.video, args.reader) if writers else None
        effort = Effort(model or load_model(args))
        config = propagation_config(args, effort)
        count = _write_tracks(
            lambda frames: follow_keypoint_frames(frames, given.frames, effort, config, kernels=args.kernels),
            args.video,
            given.names,
            tracks,
            overlay if args.overlay else None,
            annotated=len(given.frames),
            reader=args.reader,
            progress=not args.quiet,
            sink=sink,
        )
        lines = sink.write() if sink else []
    said = []
    if tracks:
        known = f", {len(given.frames)} of them given" if len(given.frames) > 1 else ""
        said.append(f"{len(given.names)} keypoints in {count} frames{known}: {tracks}")
    said += lines
    said.append(effort.line())
    if args.overlay:
        said.append(f"overlay video: {overlay}")
    elif again and overlay.exists() and not overlay.samefile(args.video):
        said.append(f"{overlay} is not of this run: pass --overlay to replace it, too.")
    return count, said


def _write_tracks(
    follow: Callable[[Iterable[NDArray[np.uint8]]], Iterator[FrameKeypoints]],
    video: str,
    names: list[str],
    output: Path | None,
    overlay: Path | None,
    *,
    annotated: int,
    reader: Backend,
    progress: bool,
    sink: PointSink | None,
) -> int:
    from siammae.frames import read_frames
    from siammae.visualize import overlay_keypoints

    count = 0
    with ExitStack() as stack:
        rows = stack.enter_context(_table(output)) if output else None
        writer = stack.enter_context(overlay_writer(overlay, video, reader))
        pictures = read_frames(video, reader=reader) if writer else iter(())

        def write(result: FrameKeypoints, index: int) -> None:
            for name, (x, y), sure in zip(names, result.points, result.confidence, strict=True):
                if rows:
                    rows.writerow([index, name, f"{x:.2f}", f"{y:.2f}", f"{sure:.3f}"])
            if sink:
                sink.add(result)
            if writer:
                shown = names if len(names) <= _READABLE_NAMES else None
                picture = next(pictures)
                writer.write(overlay_keypoints(picture, result.points, confidence=result.confidence, names=shown))

        frames = stack.enter_context(shown_frames(video, reader, progress=progress))
        with Beside() as beside:
            for result in follow(frames):
                beside.do(partial(write, result, count))
                count += 1
        if 1 < count == annotated:
            raise ValueError(
                f"the points are of all {count} frames, so there is nothing to follow: leave in those that were "
                "marked by hand. Tracks of an earlier run have a line for every frame."
            )
    return count


@contextmanager
def _table(output: Path) -> Iterator[Any]:
    """Open the CSV, which appears once all is in it."""
    with whole(output) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["frame", "name", "x", "y", "confidence"])
        yield rows
