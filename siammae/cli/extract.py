"""``siammae extract``: dense features of a video as one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from siammae.cli.inputs import load_model, shown_frames
from siammae.cli.options import Commands, add_command, add_model_options, add_overwrite_option, add_video_argument, say
from siammae.outputs import claim_files, whole

_EXAMPLE = """The file holds one tensor "features" (T, C, h, w) and the checkpoint's name in its metadata:
  from safetensors.torch import load_file
  features = load_file("features.safetensors")["features"]"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "extract", run, "write a video's dense features to a file", epilog=_EXAMPLE)
    add_video_argument(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="ends in .safetensors")
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="input size (default: the frames' own)")
    parser.add_argument("--layer", type=int, default=-1, help="block whose output is taken (%(default)s: the last)")
    parser.add_argument("--no-norm", action="store_true", help="leave out the final layer norm")
    parser.add_argument("--batch-size", type=int, default=4, help="frames encoded at once (%(default)s)")
    parser.add_argument("--half", action="store_true", help="store float16: half the size")
    add_overwrite_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.checkpoints.tensors import save_tensors

    output = Path(args.output)
    if output.suffix != ".safetensors":
        raise ValueError(f"the output is {output}: it must end in .safetensors.")
    with claim_files(output, inputs=(args.video, args.model), overwrite=args.overwrite):
        model = load_model(args)
        with shown_frames(args.video, args.reader, progress=not args.quiet) as frames:
            features = model.extract(
                frames, resize=args.short_side, layer=args.layer, norm=not args.no_norm, batch_size=args.batch_size
            ).cpu()
        features = (features.half() if args.half else features).contiguous()
        with whole(output) as part:
            save_tensors({"features": features}, part, {"model": model.name, "layer": str(args.layer)})
    say(f"features {tuple(features.shape)} {features.dtype} (frames, channels, rows, columns) in {output}")
    return 0
