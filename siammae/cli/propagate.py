"""``siammae propagate``: masks of every frame from those of one or several annotated ones."""

from __future__ import annotations

import argparse
import re
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

from siammae.cli.confidence import Confidence
from siammae.cli.effort import Effort
from siammae.cli.given import given_masks
from siammae.cli.inputs import load_model, overlay_writer, propagation_config, shown_frames
from siammae.cli.labels import add_label_options, mask_sources
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
from siammae.cli.results import MaskSink, add_format_option, chosen_formats, file_names
from siammae.outputs import Beside, claim_files, claim_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from siammae.frames import Backend
    from siammae.network.model import SiamMAE
    from siammae.network.timm_extractor import TimmExtractor
    from siammae.outputs import ResultFolder
    from siammae.propagation.labels import FrameMasks

MASKS, OVERLAY = r"\d+\.png", "overlay.mp4"
_EXAMPLES = """examples:
  siammae propagate clip.mp4 --mask first.png -o masks --overlay
  siammae propagate clip.mp4 --mask first.png --mask 40=fix.png -o masks   # between them, both are followed
  siammae propagate frames/ --mask first.png -o masks --quality best --device cuda
  siammae propagate clip.mp4 --mask export.json --object dog=1 -o masks --format davis --format coco

many videos: a table with the header video,mask, paths relative to it, the mask a picture of the first frame or a file
of labels. Results lie in OUT/masks, manifest.parquet says which is whose; the same command again does what is missing:
  siammae propagate --list table.csv -o OUT --workers 8"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "propagate", run, "carry masks of annotated frames through a video", epilog=_EXAMPLES
    )
    add_video_argument(parser, optional=True)
    parser.add_argument(
        "--mask",
        action="append",
        default=[],
        metavar="[N=]FILE",
        help="picture of frame N, counted from 0 (without N the first frame): pixel value = object id; or a file of "
        "labels in any format that siammae reads, whose labelled frames are all taken; may be repeated",
    )
    parser.add_argument(
        "--masks",
        metavar="DIR",
        help="folder of pictures whose names are the numbers of their frames, as 00040.png, or labels of any format",
    )
    parser.add_argument(
        "--threshold",
        type=int,
        metavar="LEVEL",
        help="grey level of the mask from which a pixel is the object, for masks with soft edges",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="gets 00000.png, 00001.png, ...")
    add_format_option(
        parser, "davis, the pictures", "each but davis gets DIR/NAME and its suffix, such as DIR/coco.json"
    )
    parser.add_argument("--overlay", action="store_true", help="also write DIR/overlay.mp4")
    parser.add_argument(
        "--confidence",
        metavar="CSV",
        help="also write how sure each frame is of each object, 0 to 1: frame,object,confidence",
    )
    add_overwrite_option(parser)
    add_label_options(parser)
    add_list_option(parser, "video,mask")
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.list is not None:
        return run_list(args, ListKind("mask", "masks", "", ("mask", "masks", "confidence")), follow)
    if args.video is None:
        raise ValueError("there is no video: name one, or --list TABLE.csv for many.")
    for line in follow(args)[1]:
        say(line)
    return 0


def follow(args: argparse.Namespace, model: SiamMAE | TimmExtractor | None = None) -> tuple[int, list[str]]:
    """Follow one video's masks; returns the number of frames, and what there is to say.

    Args:
        args: of the command.
        model: loaded already; None loads the one that the options name.
    """
    from siammae.annotations.files import claim_labels
    from siammae.annotations.formats.format import Feature
    from siammae.propagation.keyframes import follow_keyframes

    formats = chosen_formats(args.format, "davis", Feature.MASKS)
    sources = mask_sources(args.mask, args.masks)
    inputs = (args.video, args.model, *(path for _, path in sources))
    names = "|".join(re.escape(name) for name in (OVERLAY, *file_names()))
    with (
        claim_folder(args.output, names, numbered=MASKS, inputs=inputs, overwrite=args.overwrite) as results,
        claim_files(args.confidence, inputs=inputs, overwrite=args.overwrite),
        ExitStack() as stack,
    ):
        others = [one for one in formats if one.name != "davis"]
        places = [results.folder / (one.name + one.suffix) for one in others]
        writers = {
            one.name: stack.enter_context(claim_labels(place, format=one.name, inputs=inputs, overwrite=args.overwrite))
            for one, place in zip(others, places, strict=True)
        }
        given = given_masks(args, sources)
        sink = stack.enter_context(closing(MaskSink(writers, given))) if others else None
        effort = Effort(model or load_model(args))
        config, sure = propagation_config(args, effort), Confidence(args.confidence)
        count, ids = write_masks(
            lambda frames: sure.noted(follow_keyframes(frames, given.maps, effort, config, kernels=args.kernels)),
            args.video,
            results,
            overlay=results if args.overlay else None,
            reader=args.reader,
            progress=not args.quiet,
            leave_out=given.files,
            pictures=len(others) < len(formats),
            sink=sink,
        )
        for one, place in zip(others, places, strict=True):
            if one.suffix:
                results.path(place.name)  # so that a later run knows that it is siammae's
        lines = sink.write() if sink else []
    said = []
    if len(others) < len(formats):
        said.append(f"{count} masks of objects {', '.join(map(str, ids))} in {results.folder}/")
    said += lines
    if args.overlay:
        said.append(f"overlay video: {results.folder / OVERLAY}")
    said.append(effort.line())
    return count, said + sure.lines(given.maps)


def write_masks(
    follow: Callable[[Iterable[NDArray[np.uint8]]], Iterator[FrameMasks]],
    video: str,
    masks: ResultFolder,
    *,
    overlay: ResultFolder | None,
    reader: Backend = "auto",
    progress: bool,
    leave_out: Collection[str] = (),
    pictures: bool = True,
    sink: MaskSink | None = None,
) -> tuple[int, tuple[int, ...]]:
    """Follow a video and write each mask as soon as it is there; returns the number of frames, and the objects.

    Results of an earlier run are removed once the first frame has gone well: a shorter video would leave old masks
    among the new. Masks are rendered and written in a thread beside. Those written before an error stay and are whole;
    the overlay video appears at the end only.

    Args:
        follow: turns frames into their masks.
        video: see :func:`siammae.read_frames`; read a second time for an overlay, as masks may come later than frames.
        masks: gets 00000.png and so on.
        overlay: gets a video, too; None makes none.
        reader: decodes the video.
        progress: show a bar.
        leave_out: files in a folder of frames that are none.
        pictures: write 00000.png and so on; False for other formats only.
        sink: takes each mask, too.
    """
    from siammae.annotations.masks import mask_name, write_mask
    from siammae.frames import count_frames, read_frames
    from siammae.visualize import overlay_masks

    ids: tuple[int, ...] = ()
    count, writer = 0, None
    expected = count_frames(video, reader=reader, leave_out=leave_out)
    shown = read_frames(video, reader=reader, leave_out=leave_out) if overlay else iter(())

    def write(result: FrameMasks, index: int) -> None:
        nonlocal writer
        labels = result.label_map()
        if index == 0:
            masks.clear()
            film = overlay.path(OVERLAY) if overlay else None
            writer = stack.enter_context(overlay_writer(film, video, reader))
        if pictures:
            write_mask(masks.path(mask_name(index, expected)), labels)
        if sink:
            sink.add(result, labels)
        if writer:
            writer.write(overlay_masks(next(shown), labels))

    with (
        shown_frames(video, reader, progress=progress, leave_out=leave_out) as frames,
        ExitStack() as stack,
        Beside() as beside,
    ):
        for result in follow(frames):
            beside.do(partial(write, result, count))
            count, ids = count + 1, result.object_ids
    return count, ids
