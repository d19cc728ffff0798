"""``siammae attend``: what a network looks at, and where it finds a patch again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from siammae.cli.inputs import load_model, read_clip
from siammae.cli.options import (
    Commands,
    add_clip_options,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_video_argument,
    say,
)
from siammae.outputs import claim_folder

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from siammae.config import PropagationConfig
    from siammae.features import FeatureExtractor
    from siammae.outputs import ResultFolder

    Rows = dict[str, list[NDArray[np.uint8]]]

_WIDTH, _VIDEO_WIDTH = 200, 448  # pixels of a picture on a sheet and in a video
_NOTES = """pictures, one column a frame; a row has one scale, from 0 (dark) to its largest value (light):
  cls.png    attention of the CLS token to the patches, mean of the heads and each head
  point.png  with --point: where that patch is found in each frame. features: softmax of the cosine, as label
             propagation weighs patches, but over the whole frame. decoder: cross-attention of each decoder block while
             it predicts the patch's frame (the future) from the other one (the past), where the network has it
Heads and blocks are numbered from 0.

examples:
  siammae attend clip.mp4 -o maps
  siammae attend clip.mp4 -o maps --point 217 260 --frame 0 --frames 6 --gap 10
  siammae attend clip.mp4 -o maps --model timm/vit_small_patch16_224.dino --short-side 480 --layer 8
  siammae attend clip.mp4 -o maps --frames 100 --gap 1 --video"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "show what a network attends to, and where it finds a patch again"
    parser = add_command(commands, "attend", run, text, epilog=_NOTES)
    add_video_argument(parser, progress=False)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="gets cls.png and point.png")
    parser.add_argument(
        "--layer", type=int, default=-1, metavar="N", help="block whose CLS attention is taken (-1: the last)"
    )
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="input size (default: as recommended)")
    parser.add_argument("--video", dest="write_video", action="store_true", help="also write cls.mp4 and point.mp4")
    point = parser.add_argument_group("a patch")
    point.add_argument("--point", type=float, nargs=2, metavar=("X", "Y"), help="a pixel of it, from the top left 0 0")
    point.add_argument("--frame", type=int, metavar="N", help="the frame of the video it is in (default: the first)")
    point.add_argument(
        "--mask-ratio",
        type=float,
        default=0.95,
        metavar="PART",
        help="part of that frame which the decoder does not see (%(default)s)",
    )
    point.add_argument("--seed", type=int, default=0, metavar="N", help="of what it does not see (%(default)s)")
    add_overwrite_option(parser)
    add_clip_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.frames import frame_rate

    names = r"(cls|point)\.(png|mp4)"
    inputs = (args.video, args.model)
    with claim_folder(args.output, names, inputs=inputs, overwrite=args.overwrite) as results:
        clip = _read(args)
        tables = _tables(args, clip)
        captions = [f"frame {number}" for number in clip]
        rate = (frame_rate(args.video, reader=args.reader) or 25.0) / args.gap
        results.clear()
        for name, rows in tables.items():
            for path in _write(results, name, rows, captions, rate, video=args.write_video):
                say(path)
    return 0


def _tables(args: argparse.Namespace, clip: dict[int, NDArray[np.uint8]]) -> dict[str, Rows]:
    """Make the rows of each picture, by its name."""
    import numpy as np

    from siammae.network.attention import class_attention, has_class_attention
    from siammae.propagation.context import recommended_config
    from siammae.visualize.maps import class_rows

    frames = list(clip.values())
    model = load_model(args)
    config = recommended_config(model)
    if args.short_side is not None:
        config = config.replace(resize=args.short_side, resize_side="short")
    resized = np.stack([_resized(frame, model.patch_size, config) for frame in frames])
    tables: dict[str, Rows] = {}
    if args.point is None or has_class_attention(model):
        tables["cls"] = class_rows(frames, class_attention(model, resized, layer=args.layer))
    else:
        say("no cls.png: this network has no CLS token, or attention of another kind")
    if args.point is not None:
        tables["point"] = _point_rows(args, clip, resized, model, config.temperature)
    return tables


def _read(args: argparse.Namespace) -> dict[int, NDArray[np.uint8]]:
    """Read the clip, and the frame that the point is in where that is not among it."""
    from siammae.frames import read_frames

    if args.point is None and args.frame is not None:
        raise ValueError(f"--frame is {args.frame} but there is no --point: say which patch of that frame.")
    clip = read_clip(args)
    if args.frame is not None and args.frame not in clip:
        clip[args.frame] = next(read_frames(args.video, start=args.frame, stop=args.frame + 1, reader=args.reader))
    return dict(sorted(clip.items()))


def _resized(frame: NDArray[np.uint8], patch_size: int, config: PropagationConfig) -> NDArray[np.uint8]:
    """Bring a frame to the size at which label propagation would take it."""
    from siammae.features import input_size
    from siammae.frames import resize_frame

    size = input_size(
        (frame.shape[0], frame.shape[1]),
        patch_size=patch_size,
        resize=config.resize,
        side=config.resize_side,
        multiple=config.size_multiple,
        rounding=config.rounding,
        round_both=config.round_both,
    )
    return resize_frame(frame, size, interpolation=config.interpolation)


def _point_rows(
    args: argparse.Namespace,
    clip: dict[int, NDArray[np.uint8]],
    resized: NDArray[np.uint8],
    model: FeatureExtractor,
    temperature: float,
) -> Rows:
    from siammae.visualize import patch_at
    from siammae.visualize.maps import match_patch, point_rows

    frames, number = list(clip.values()), min(clip) if args.frame is None else args.frame
    height, width = (side // model.patch_size for side in resized.shape[1:3])
    patch = patch_at(tuple(args.point), (frames[0].shape[0], frames[0].shape[1]), (height, width))
    matches = match_patch(
        model,
        resized,
        patch,
        frame=list(clip).index(number),
        temperature=temperature,
        mask_ratio=args.mask_ratio,
        seed=args.seed,
    )
    if matches.decoder is None:
        say("this network has no cross-attention: point.png shows features only")
    return point_rows(frames, matches)


def _write(
    results: ResultFolder, name: str, rows: Rows, captions: list[str], rate: float, *, video: bool
) -> list[Path]:
    """Write the sheet, and a video of its first two rows; returns the files."""
    from siammae.frames import VideoWriter, write_image
    from siammae.visualize import picture_table

    sheet = results.path(f"{name}.png")
    write_image(sheet, picture_table(rows, columns=captions, width=_WIDTH))
    if not video:
        return [sheet]
    first, second = list(rows.items())[:2]
    film = results.path(f"{name}.mp4")
    with VideoWriter(film, fps=rate) as writer:
        for caption, *pair in zip(captions, first[1], second[1], strict=True):
            writer.write(picture_table({"": pair}, columns=(caption, second[0]), width=_VIDEO_WIDTH))
    return [sheet, film]
