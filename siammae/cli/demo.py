"""``siammae demo``: the main job on a clip that comes with the package."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from siammae.cli.confidence import Confidence
from siammae.cli.effort import Effort
from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_propagation_options,
    say,
)
from siammae.cli.propagate import MASKS, OVERLAY, write_masks
from siammae.outputs import claim_folder

_SHEET, _SHEET_FRAMES = "contact_sheet.png", 8


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "demo", run, "follow two people through a short clip that comes with siammae")
    parser.add_argument("-o", "--output", default="siammae-demo", metavar="DIR", help="(%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_overwrite_option(parser)
    add_model_options(parser)
    add_propagation_options(parser)


def demo_data() -> Path:
    """Return the folder of the clip: inside an installed package, or in the source tree of an editable one.

    Raises:
        FileNotFoundError: it is in neither.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "demo_data", package.parent / "examples" / "data"):
        if (folder / "walkers.mp4").is_file():
            return folder
    raise FileNotFoundError(f"no demo clip in {package}: install siammae again.")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.annotations.masks import read_mask
    from siammae.cli.inputs import load_model, propagation_config
    from siammae.propagation.keyframes import follow_keyframes

    source, output = demo_data(), Path(args.output)
    video = source / "walkers.mp4"
    names, inputs = rf"{re.escape(OVERLAY)}|{re.escape(_SHEET)}", (source, args.model)
    with (
        claim_folder(output, names, inputs=inputs, overwrite=args.overwrite) as pictures,
        claim_folder(output / "masks", "(?!)", numbered=MASKS, inputs=inputs, overwrite=args.overwrite) as masks,
    ):
        model = Effort(load_model(args))
        config = propagation_config(args, model)
        say(f"following two people through {video.name} with {args.model}, from the mask of the first frame")
        first_mask, sure = read_mask(source / "walkers_first_mask.png"), Confidence(None)
        count, _ = write_masks(
            lambda frames: sure.noted(follow_keyframes(frames, {0: first_mask}, model, config, kernels=args.kernels)),
            str(video),
            masks,
            overlay=pictures,
            progress=not args.quiet,
        )
        sheet = _write_sheet(video, masks.folder, sure.means, pictures.path(_SHEET))
    say(f"masks          {masks.folder}/ ({count} PNGs: pixel value = object id)")
    say(f"overlay video  {pictures.folder / OVERLAY}")
    say(f"contact sheet  {sheet}")
    say(model.line())
    return 0


def _write_sheet(video: Path, masks: Path, sure: Sequence[float], path: Path) -> Path:
    from siammae.annotations.masks import read_mask
    from siammae.frames import read_frames, write_image
    from siammae.visualize import contact_sheet, overlay_masks

    shown = [round(i * (len(sure) - 1) / (_SHEET_FRAMES - 1)) for i in range(_SHEET_FRAMES)]
    pictures = [
        overlay_masks(frame, read_mask(masks / f"{index:05d}.png", binary=False))
        for index, frame in enumerate(read_frames(video))
        if index in shown
    ]
    captions = [f"frame {index}, " + (f"sure {sure[index]:.2f}" if index else "given") for index in shown]
    title = "siammae demo: two people, one annotated frame"
    write_image(path, contact_sheet(pictures, captions=captions, confidence=[sure[i] for i in shown], title=title))
    return path
