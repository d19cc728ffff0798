"""``siammae reconstruct``: future frames as the decoder predicts them from a past one."""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from siammae.cli.inputs import load_model, read_clip
from siammae.cli.options import (
    Commands,
    add_clip_options,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_video_argument,
    output_folder,
    say,
)
from siammae.outputs import claim_files

if TYPE_CHECKING:
    from siammae.visualize.reconstruction import Reconstruction

_NAME = "reconstruction"
_PICTURES, _ANIMATIONS, _VIDEOS = (".png", ".jpg", ".jpeg"), (".gif",), (".mp4", ".avi", ".webm")
_SLIDE_WIDTH = 256  # pixels of each of the four frames in an animation
_NOTES = """The network sees the whole past frame and a few patches of the future one; it predicts the others. Visible
patches are pasted into the prediction. With norm_pix_loss, as in most checkpoints, a network knows each patch only up
to its brightness and contrast: these are taken from the true frame, as in MAE's own pictures.

examples:
  siammae reconstruct clip.mp4 -o pictures
  siammae reconstruct clip.mp4 -o strip.png --frames 8 --gap 4 --mask-ratio 0.9
  siammae reconstruct clip.mp4 -o steps.gif --past previous --model runs/mine/model"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "reconstruct", run, "show what the decoder predicts of future frames", epilog=_NOTES)
    add_video_argument(parser, progress=False)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="PATH",
        help=f"a folder, which gets {_NAME}.png, .gif and .mp4, or one file: .png or .jpg = all frames on one strip, "
        ".gif, .mp4, .avi or .webm = one after the other",
    )
    parser.add_argument(
        "--past",
        default="0",
        metavar="N",
        help="number, among the frames shown, of the one from which the others are predicted, or previous: each from "
        "the one before it (%(default)s)",
    )
    parser.add_argument("--mask-ratio", type=float, default=0.95, metavar="PART", help="hidden part (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is hidden (%(default)s)")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="side of the middle square that enters (the network's image_size)"
    )
    parser.add_argument("--fps", type=float, default=2.0, help="of animations (%(default)s)")
    add_overwrite_option(parser)
    add_clip_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.visualize.reconstruction import reconstruct

    targets = _targets(Path(args.output))
    past = _past(args.past)
    with claim_files(*targets, inputs=(args.video, args.model), overwrite=args.overwrite):
        clip = read_clip(args)
        numbers = list(clip)
        shown = reconstruct(
            list(clip.values()),
            model=load_model(args),
            past=past,
            mask_ratio=args.mask_ratio,
            seed=args.seed,
            size=args.size,
        )
        pairs = list(pairwise(numbers))
        if past != "previous":
            pairs = [(numbers[past], number) for number in numbers if number != numbers[past]]
        for target in targets:
            _write(shown, target, [f"frame {second} from {first}" for first, second in pairs], args.fps)
    if len(numbers) < args.frames:
        say(f"the video ends after {len(numbers)} of {args.frames} frames")
    size, hidden = "x".join(map(str, shown.target.shape[1:3])), int(shown.hidden[0].sum())
    say(f"{len(pairs)} frames of {size} pixels, {hidden} of {shown.hidden[0].size} patches predicted in each")
    say("\n".join(map(str, targets)))
    return 0


def _targets(output: Path) -> list[Path]:
    """Return the files to write: the one that is named, or three in a folder."""
    suffix = output.suffix.lower()
    if suffix in (*_PICTURES, *_ANIMATIONS, *_VIDEOS):
        return [output]
    if suffix and not output.is_dir():
        known = ", ".join((*_PICTURES, *_ANIMATIONS, *_VIDEOS))
        raise ValueError(f"the output is {output}: it must be a folder, or end in {known}.")
    return [output_folder(str(output)) / f"{_NAME}{suffix}" for suffix in (".png", ".gif", ".mp4")]


def _past(text: str) -> int | Literal["previous"]:
    if text == "previous":
        return "previous"
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--past is {text!r}: it must be a number or previous.") from None


def _write(shown: Reconstruction, target: Path, captions: list[str], fps: float) -> None:
    from siammae.frames import VideoWriter, write_animation, write_image

    suffix = target.suffix.lower()
    if suffix in _PICTURES:
        write_image(target, shown.strip(captions=captions))
    elif suffix in _ANIMATIONS:
        write_animation(target, shown.slides(width=_SLIDE_WIDTH), fps=fps)
    else:
        with VideoWriter(target, fps=fps) as writer:
            for slide in shown.slides(width=_SLIDE_WIDTH):
                writer.write(slide)
