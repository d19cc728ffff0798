"""Options that several commands share; ``inputs`` opens what they name."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from siammae.config.presets import PRESETS, QUALITIES
from siammae.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_MODEL = "siammae-ti8"  # that of siammae.checkpoints.hub, which would load torch before a command runs
Commands = Any  # argparse's type of add_subparsers() is private


def say(text: object = "") -> None:
    """Print; what comes from files cannot command the terminal. Every command prints by this."""
    try:
        print(printable(text, keep="\n\t"), flush=True)  # noqa: T201 -- the one place
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"the standard output cannot be written: {error.strerror}.") from error


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], help_text: str, **details: str
) -> argparse.ArgumentParser:
    """Add a subcommand whose description is its help line unless ``details`` says more."""
    details.setdefault("description", help_text[0].upper() + help_text[1:] + ".")
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, formatter_class=argparse.RawDescriptionHelpFormatter, **details
    )
    parser.set_defaults(run=run)
    return parser


def add_video_argument(parser: argparse.ArgumentParser, *, progress: bool = True, optional: bool = False) -> None:
    """Add the video, which may be left out where it is ``optional``, and whether a bar is shown while it is read."""
    parser.add_argument(
        "video", metavar="VIDEO", nargs="?" if optional else None, help="video file or folder of images"
    )
    add_reader_option(parser)
    if progress:
        parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_overwrite_option(parser: argparse._ActionsContainer) -> None:
    """Add whether results that are there are replaced: one rule and one wording for all commands."""
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there; inputs never are")


def add_reader_option(parser: argparse.ArgumentParser) -> None:
    """Add what decodes videos."""
    parser.add_argument(
        "--reader",
        default="auto",
        choices=("auto", "opencv", "pyav", "torchcodec"),
        help="decodes videos (auto: pyav; opencv squeezes a size that changes in mid-stream, misses mirroring outside "
        "MP4 and MOV, and shows HDR in other colours; torchcodec needs the extra of its name)",
    )


def add_model_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add which weights to use, and where; ``several`` lets the name be given more than once."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        action="append" if several else "store",
        default=None if several else DEFAULT_MODEL,
        metavar="NAME",
        help="bundled name, folder, owner/name on the Hub or timm/NAME for a ViT of timm "
        f"({DEFAULT_MODEL}{'; may be repeated' if several else ''})",
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: a GPU where there is one)")
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="auto: bfloat16 where this machine multiplies it faster, else float32; always float32 with --preset",
    )


def add_propagation_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add how labels travel; ``several`` lets presets be given more than once, and several input sizes."""
    group = parser.add_argument_group("label propagation", "default: what the checkpoint recommends")
    names = dict.fromkeys(name for name, _ in PRESETS)
    group.add_argument(
        "--preset",
        action="append" if several else "store",
        choices=tuple(names),
        help="the rules of a public evaluation code" + "; may be repeated" * several,
    )
    if not several:
        group.add_argument(
            "--quality",
            choices=tuple(QUALITIES),
            help="input size and fineness of masks together (siammae-ti8: balanced)",
        )
    group.add_argument(
        "--short-side",
        type=sizes if several else int,
        metavar="PIXELS",
        help="input size; more is finer and slower" + "; several as 240,360,480" * several,
    )
    group.add_argument("--top-k", type=int, metavar="K", help="context patches mixed for each patch")
    group.add_argument("--temperature", type=float, metavar="T", help="divides the similarity before the softmax")
    group.add_argument("--radius", type=int, metavar="PATCHES", help="search window around each patch")
    group.add_argument("--queue-length", type=int, metavar="FRAMES", help="last frames kept as context")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of PropagationConfig, the value as JSON, e.g. --set min_max=true; may be repeated",
    )
    group.add_argument("--kernels", default="auto", help="auto, triton, native, cpu or reference (%(default)s)")


def output_folder(text: str) -> Path:
    """Return the folder to write to, which need not be there yet.

    Raises:
        ValueError: there is a file of this name.
    """
    folder = Path(text)
    if folder.is_file():
        raise ValueError(f"the output is {folder}, which is a file: it must be a folder. Choose another name.")
    return folder


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """Add which frames of the video are shown."""
    group = parser.add_argument_group("frames")
    group.add_argument("--start", type=int, default=0, metavar="N", help="first frame, from 0 (%(default)s)")
    group.add_argument("--frames", type=int, default=8, metavar="N", help="how many (%(default)s)")
    group.add_argument("--gap", type=int, default=4, metavar="N", help="from one to the next (%(default)s)")


def sizes(text: str) -> list[int]:
    """Read ``240,360``; argparse turns the ValueError of anything else into its own message."""
    return [int(part) for part in text.split(",")]


def _docstring(settings: type) -> str:
    """Return a class's docstring; out of the source where ``python -OO`` has left it out."""
    if settings.__doc__ is not None and sys.flags.optimize < 2:
        return settings.__doc__
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(settings)))
    except (OSError, TypeError):  # no source here: the options work without their explanations
        return ""
    return ast.get_docstring(cast(ast.ClassDef, tree.body[0])) or ""


def field_help(settings: type) -> dict[str, str]:
    """Take the explanation of each field out of a settings class's docstring."""
    doc = _docstring(settings).split("Attributes:")[-1]
    names = "|".join(field.name for field in dataclasses.fields(settings))
    found = re.findall(rf"^ +({names}): (.*?)(?=^ +(?:{names}): |^\s*$|\Z)", doc, re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.replace("``", "").replace("%", "%%").split()) for name, text in found}
