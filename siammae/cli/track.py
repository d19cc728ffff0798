"""``siammae track``: keypoints of every frame from those of the first."""

from __future__ import annotations

import argparse
import csv
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from siammae.cli.inputs import load_propagator, overlay_writer, shown_frames
from siammae.cli.options import Commands, add_command, add_model_options, add_propagation_options, add_video_argument

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from siammae.frames import Backend
    from siammae.propagation.propagator import KeypointPropagator

_READABLE_NAMES = 8  # more names on one picture cover each other
_FORMAT = """points file: CSV with the header name,x,y (or x,y), one keypoint a line, in pixels of the first frame;
the centre of the top left pixel is 0,0.
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
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.propagation.propagator import KeypointPropagator

    output = Path(args.output)
    if output.suffix != ".csv":
        raise ValueError(f"the output is {output}: it must end in .csv.")
    names, points = read_points(args.points)
    propagator = load_propagator(args, KeypointPropagator)
    output.parent.mkdir(parents=True, exist_ok=True)
    overlay = output.with_suffix(".mp4") if args.overlay else None
    count = _write_tracks(
        propagator, args.video, names, points, output, overlay, reader=args.reader, progress=not args.quiet
    )
    print(f"{len(names)} keypoints in {count} frames: {output}")
    if overlay:
        print(f"overlay video: {overlay}")
    return 0


def read_points(path: str) -> tuple[list[str], NDArray[np.float64]]:
    """Read keypoints; returns names and ``(N, 2)`` x, y.

    Raises:
        ValueError: the file is not in the format, with the line.
    """
    import numpy as np

    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        if not {"x", "y"} <= set(columns):
            raise ValueError(f"{path} has the columns {columns}: the first line must be name,x,y (or x,y).")
        reader.fieldnames = columns
        rows = list(reader)
    names, points = [], []
    for line, row in enumerate(rows, start=2):
        try:
            x, y = float(row["x"]), float(row["y"])
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {line}: x is {row['x']!r} and y {row['y']!r}, no numbers.") from None
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"{path}, line {line}: x is {x} and y {y}, they must be finite.")
        points.append((x, y))
        names.append((row.get("name") or f"point_{line - 1}").strip())
    if not points:
        raise ValueError(f"{path} holds no keypoint: write one name,x,y a line.")
    return names, np.array(points)


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

    part = output.with_name(f".{output.name}.part")
    count = 0
    with ExitStack() as stack:
        stack.callback(part.unlink, missing_ok=True)
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
        file.close()
        part.replace(output)
    return count
