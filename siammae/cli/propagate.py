"""``siammae propagate``: masks of every frame from the mask of the first."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_propagation_options,
    load_model,
    propagation_config,
)

if TYPE_CHECKING:
    from siammae.propagator import Propagator

_EXAMPLES = """examples:
  siammae propagate clip.mp4 --mask first.png -o masks --overlay
  siammae propagate frames/ --mask first.png -o masks --short-side 480 --device cuda"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "propagate", run, "carry the first frame's masks through a video", epilog=_EXAMPLES)
    parser.add_argument("video", metavar="VIDEO", help="video file or folder of images")
    parser.add_argument("--mask", required=True, metavar="PNG", help="the first frame's mask: pixel value = object id")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="gets 00000.png, 00001.png, ...")
    parser.add_argument("--overlay", action="store_true", help="also write DIR/overlay.mp4")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds masks already")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.masks import read_mask
    from siammae.propagator import Propagator

    output = claim_output(Path(args.output), args.overwrite)
    first_mask = read_mask(args.mask)
    model = load_model(args)
    propagator = Propagator(model, propagation_config(args, model.propagation), kernels=args.kernels)
    overlay = output / "overlay.mp4" if args.overlay else None
    count = write_masks(propagator, args.video, first_mask, output, overlay=overlay, progress=not args.quiet)
    print(f"{count} masks of objects {', '.join(map(str, propagator.object_ids))} in {output}/")
    if overlay:
        print(f"overlay video: {overlay}")
    return 0


def claim_output(folder: Path, overwrite: bool) -> Path:
    """Make the output folder; refuse one with masks, since a shorter video would leave old ones among the new."""
    if any(folder.glob("[0-9]*.png")) and not overwrite:
        raise ValueError(f"{folder} holds masks already: choose another folder, or pass --overwrite.")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9]*.png"):
        old.unlink()
    return folder


def write_masks(
    propagator: Propagator, video: str, first_mask: object, output: Path, *, overlay: Path | None, progress: bool
) -> int:
    """Follow a video and write each mask as soon as it is there; returns the number of frames.

    Masks written before an error stay and are whole; the overlay video appears at the end only.
    """
    from tqdm import tqdm

    from siammae.frames import VideoWriter, count_frames, frame_rate, read_frames
    from siammae.masks import write_mask
    from siammae.visualize import overlay_masks

    count = 0
    with ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(overlay, fps=frame_rate(video) or 25.0)) if overlay else None
        frames = read_frames(video)
        for frame in tqdm(frames, total=count_frames(video), unit="frame", disable=not progress):
            result = propagator.step(frame, mask=first_mask if count == 0 else None)  # type: ignore[arg-type]
            labels = result.label_map()
            write_mask(output / f"{count:05d}.png", labels)
            if writer:
                writer.write(overlay_masks(frame, labels))
            count += 1
    return count
