"""``siammae track``: keypoints of every frame from those of one or several annotated ones."""

from __future__ import annotations

import argparse
import csv
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from siammae.cli.inputs import load_model, overlay_writer, propagation_config, shown_frames
from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_propagation_options,
    add_video_argument,
    say,
)
from siammae.outputs import claim_files, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from siammae.frames import Backend
    from siammae.propagation.keypoint_propagator import FrameKeypoints

_READABLE_NAMES = 8  # more names on one picture cover each other
_FORMAT = """points file: CSV with the header name,x,y (or x,y), one keypoint a line, in pixels of the first frame;
the centre of the top left pixel is 0,0. With a column frame it gives keypoints of several frames, counted from 0; so do
several files, as --points first.csv --points 40=later.csv. A keypoint that a frame leaves out is followed on there;
-1,-1 says that it is not there, until a later frame gives it again.
output: CSV with the header frame,name,x,y,confidence; -1,-1 where a keypoint is not there or not known yet.

examples:
  siammae track clip.mp4 --points first.csv -o tracks.csv --overlay
  siammae track clip.mp4 --points first.csv --points 40=later.csv -o tracks.csv   # between them, both are followed"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "track", run, "carry keypoints of annotated frames through a video", epilog=_FORMAT)
    add_video_argument(parser)
    parser.add_argument(
        "--points",
        required=True,
        action="append",
        metavar="[N=]CSV",
        help="keypoints of frame N, counted from 0 (without N the first frame's, or as the file says); may be repeated",
    )
    parser.add_argument("-o", "--output", required=True, metavar="CSV", help="gets the keypoints of every frame")
    parser.add_argument("--overlay", action="store_true", help="also write a video beside the output (.mp4)")
    add_overwrite_option(parser)
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    output = Path(args.output)
    if output.suffix != ".csv":
        raise ValueError(f"the output is {output}: it must end in .csv.")
    overlay = output.with_suffix(".mp4")
    outputs = (output, overlay) if args.overlay else (output,)
    again = output.exists()
    tables = [_numbered(text) for text in args.points]
    inputs = (args.video, args.model, *(path for _, path in tables))
    with claim_files(*outputs, inputs=inputs, overwrite=args.overwrite):
        said = _track(args, tables, output, overlay if args.overlay else None)
    say(f"{said}: {output}")
    if args.overlay:
        say(f"overlay video: {overlay}")
    elif again and overlay.exists() and not overlay.samefile(args.video):
        say(f"{overlay} is not of this run: pass --overlay to replace it, too.")
    return 0


def _numbered(text: str) -> tuple[int | None, Path]:
    """Split ``40=later.csv``; None where there is no number."""
    numbered = None if Path(text).is_file() else re.fullmatch(r"(\d+)=(.+)", text, re.DOTALL)
    return (int(numbered[1]), Path(numbered[2])) if numbered else (None, Path(text))


def _track(args: argparse.Namespace, tables: list[tuple[int | None, Path]], output: Path, overlay: Path | None) -> str:
    """Write the files; returns what was done."""
    from siammae.annotations.keypoints import read_points
    from siammae.propagation.keyframes import follow_keypoint_frames

    names, points = read_points(tables)
    model = load_model(args)
    config = propagation_config(args, model.propagation)
    count = _write_tracks(
        lambda frames: follow_keypoint_frames(frames, points, model, config, kernels=args.kernels),
        args.video,
        names,
        output,
        overlay,
        annotated=len(points),
        reader=args.reader,
        progress=not args.quiet,
    )
    return f"{len(names)} keypoints in {count} frames" + (f", {len(points)} of them given" if len(points) > 1 else "")


def _write_tracks(
    follow: Callable[[Iterable[NDArray[np.uint8]]], Iterator[FrameKeypoints]],
    video: str,
    names: list[str],
    output: Path,
    overlay: Path | None,
    *,
    annotated: int,
    reader: Backend,
    progress: bool,
) -> int:
    from siammae.frames import read_frames
    from siammae.visualize import overlay_keypoints

    count = 0
    with ExitStack() as stack:
        part = stack.enter_context(whole(output))
        file = stack.enter_context(part.open("w", newline="", encoding="utf-8"))
        writer = stack.enter_context(overlay_writer(overlay, video, reader))
        rows = csv.writer(file)
        rows.writerow(["frame", "name", "x", "y", "confidence"])
        pictures = read_frames(video, reader=reader) if writer else iter(())
        for result in follow(stack.enter_context(shown_frames(video, reader, progress=progress))):
            for name, (x, y), sure in zip(names, result.points, result.confidence, strict=True):
                rows.writerow([count, name, f"{x:.2f}", f"{y:.2f}", f"{sure:.3f}"])
            if writer:
                shown = names if len(names) <= _READABLE_NAMES else None
                picture = next(pictures)
                writer.write(overlay_keypoints(picture, result.points, confidence=result.confidence, names=shown))
            count += 1
        if 1 < count == annotated:
            raise ValueError(
                f"the points are of all {count} frames, so there is nothing to follow: leave in those that were "
                "marked by hand. Tracks of an earlier run have a line for every frame."
            )
    return count
