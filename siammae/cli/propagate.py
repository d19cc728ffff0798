"""``siammae propagate``: masks of every frame from the mask of the first."""

from __future__ import annotations

import argparse
import re
from contextlib import ExitStack
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
from siammae.outputs import claim_folder

if TYPE_CHECKING:
    from collections.abc import Collection

    from siammae.frames import Backend
    from siammae.outputs import ResultFolder
    from siammae.propagation.propagator import Propagator

MASKS, OVERLAY = r"\d+\.png", "overlay.mp4"
_EXAMPLES = """examples:
  siammae propagate clip.mp4 --mask first.png -o masks --overlay
  siammae propagate frames/ --mask first.png -o masks --short-side 480 --device cuda"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "propagate", run, "carry the first frame's masks through a video", epilog=_EXAMPLES)
    add_video_argument(parser)
    parser.add_argument("--mask", required=True, metavar="PNG", help="the first frame's mask: pixel value = object id")
    parser.add_argument(
        "--threshold",
        type=int,
        metavar="LEVEL",
        help="grey level of the mask from which a pixel is the object, for masks with soft edges",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="gets 00000.png, 00001.png, ...")
    parser.add_argument("--overlay", action="store_true", help="also write DIR/overlay.mp4")
    add_overwrite_option(parser)
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.annotations.masks import mask_image, read_mask
    from siammae.propagation.propagator import Propagator

    inputs = (args.video, args.mask, args.model)
    with claim_folder(
        args.output, re.escape(OVERLAY), numbered=MASKS, inputs=inputs, overwrite=args.overwrite
    ) as results:
        first_mask = mask_image(read_mask(args.mask, threshold=args.threshold))  # read once, then nothing but ids
        propagator = load_propagator(args, Propagator)
        overlay = results if args.overlay else None
        count = write_masks(
            propagator,
            args.video,
            first_mask,
            results,
            overlay=overlay,
            reader=args.reader,
            progress=not args.quiet,
            leave_out=[args.mask],
        )
    say(f"{count} masks of objects {', '.join(map(str, propagator.object_ids))} in {results.folder}/")
    if overlay:
        say(f"overlay video: {results.folder / OVERLAY}")
    return 0


def write_masks(
    propagator: Propagator,
    video: str,
    first_mask: object,
    masks: ResultFolder,
    *,
    overlay: ResultFolder | None,
    reader: Backend = "auto",
    progress: bool,
    leave_out: Collection[str] = (),
) -> int:
    """Follow a video and write each mask as soon as it is there; returns the number of frames.

    Results of an earlier run are removed once the first frame has gone well: a shorter video would leave old masks
    among the new. Masks written before an error stay and are whole; the overlay video appears at the end only.

    Args:
        propagator: what follows.
        video: see :func:`siammae.read_frames`.
        first_mask: of the first frame.
        masks: gets 00000.png and so on.
        overlay: gets a video, too; None makes none.
        reader: decodes the video.
        progress: show a bar.
        leave_out: files in a folder of frames that are none.
    """
    from siammae.annotations.masks import mask_name, write_mask
    from siammae.frames import count_frames
    from siammae.visualize import overlay_masks

    count, writer = 0, None
    expected = count_frames(video, reader=reader, leave_out=leave_out)
    with shown_frames(video, reader, progress=progress, leave_out=leave_out) as frames, ExitStack() as stack:
        for frame in frames:
            result = propagator.step(frame, mask=first_mask if count == 0 else None)  # type: ignore[arg-type]
            labels = result.label_map()
            if count == 0:
                masks.clear()
                film = overlay.path(OVERLAY) if overlay else None
                writer = stack.enter_context(overlay_writer(film, video, reader))
            write_mask(masks.path(mask_name(count, expected)), labels)
            if writer:
                writer.write(overlay_masks(frame, labels))
            count += 1
    return count
