"""``siammae track``: keypoints of every frame from those of the first."""

from __future__ import annotations

import argparse
import csv
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from siammae.cli.inputs import load_propagator, overlay_writer, shown_frames
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
    import numpy as np
    from numpy.typing import NDArray

    from siammae.frames import Backend
    from siammae.propagation.keypoint_propagator import KeypointPropagator

_READABLE_NAMES = 8  # more names on one picture cover each other
_FORMAT = """points file: CSV with the header name,x,y (or x,y), one keypoint a line, in pixels of the first frame;
the centre of the top left pixel is 0,0. Of a table with frames, such as an output, frame 0 is taken.
output: CSV with the header frame,name,x,y,confidence.

example:
  siammae track clip.mp4 --points first.csv -o tracks.csv --overlay"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "track", run, "carry the first frame's keypoints through a video", epilog=_FORMAT)
    add_video_argument(parser)
    parser.add_argument("--points", required=True, metavar="CSV", help="the first frame's keypoints")
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
    with claim_files(*outputs, inputs=(args.video, args.points, args.model), overwrite=args.overwrite):
        count, names = _track(args, output, overlay if args.overlay else None)
    say(f"{len(names)} keypoints in {count} frames: {output}")
    if args.overlay:
        say(f"overlay video: {overlay}")
    elif again and overlay.exists() and not overlay.samefile(args.video):
        say(f"{overlay} is not of this run: pass --overlay to replace it, too.")
    return 0


def _track(args: argparse.Namespace, output: Path, overlay: Path | None) -> tuple[int, list[str]]:
    """Write the files; returns the number of frames and the names of the keypoints."""
    from siammae.annotations.keypoints import read_points
    from siammae.propagation.keypoint_propagator import KeypointPropagator

    names, points = read_points(Path(args.points))
    propagator = load_propagator(args, KeypointPropagator)
    count = _write_tracks(
        propagator, args.video, names, points, output, overlay, reader=args.reader, progress=not args.quiet
    )
    return count, names


def _write_tracks(
    propagator: KeypointPropagator,
    video: str,
    names: list[str],
    points: NDArray[np.float64],
    output: Path,
    overlay: Path | None,
    *,
    reader: Backend,
    progress: bool,
) -> int:
    from siammae.visualize import overlay_keypoints

    count = 0
    with ExitStack() as stack:
        part = stack.enter_context(whole(output))
        file = stack.enter_context(part.open("w", newline="", encoding="utf-8"))
        writer = stack.enter_context(overlay_writer(overlay, video, reader))
        rows = csv.writer(file)
        rows.writerow(["frame", "name", "x", "y", "confidence"])
        for frame in stack.enter_context(shown_frames(video, reader, progress=progress)):
            result = propagator.step(frame, keypoints=points if count == 0 else None)
            for name, (x, y), sure in zip(names, result.points, result.confidence, strict=True):
                rows.writerow([count, name, f"{x:.2f}", f"{y:.2f}", f"{sure:.3f}"])
            if writer:
                shown = names if len(names) <= _READABLE_NAMES else None
                writer.write(overlay_keypoints(frame, result.points, confidence=result.confidence, names=shown))
            count += 1
    return count
