"""Options that several commands share, and how they become settings and models."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siammae.config import PropagationConfig
from siammae.config.presets import PRESETS
from siammae.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from siammae.network.model import SiamMAE
    from siammae.network.timm_extractor import TimmExtractor

DEFAULT_MODEL = "siammae-ti8"  # that of siammae.checkpoints.hub, which would load torch before a command runs
Commands = Any  # argparse's type of add_subparsers() is private


def say(text: object = "") -> None:
    """Print; what comes from files cannot command the terminal. Every command prints by this."""
    print(printable(text, keep="\n\t"))  # noqa: T201 -- the one place


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
    group.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="(%(default)s)")


def load_model(args: argparse.Namespace, name: str | None = None) -> SiamMAE | TimmExtractor:
    """Load the model that the options name, or that ``name`` does."""
    import torch

    from siammae.network.model import SiamMAE
    from siammae.network.timm_extractor import PREFIX, TimmExtractor

    device, dtype = pick_device(args.device), getattr(torch, args.dtype)
    name = name or args.model
    if name.startswith(PREFIX):
        return TimmExtractor.from_pretrained(name, device=device, dtype=dtype)
    return SiamMAE.from_pretrained(name, device=device, dtype=dtype)


def pick_device(name: str) -> str:
    """Turn ``auto`` into the fastest device; a device that was asked for is never replaced.

    Processes that torchrun started get a GPU each where no one is named.

    Raises:
        ValueError: the device is not there.
    """
    import torch

    if name in ("auto", "cuda") and torch.cuda.is_available():
        rank = os.environ.get("LOCAL_RANK")
        return "cuda" if rank is None else f"cuda:{int(rank) % torch.cuda.device_count()}"
    if name == "auto":
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}. Use --device cpu.") from error
    return name


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


def read_clip(args: argparse.Namespace) -> dict[int, NDArray[np.uint8]]:
    """Read the frames that the options name, by their numbers in the video; fewer where it ends before.

    Raises:
        ValueError: an option is out of range, or the video ends before ``--start``.
    """
    from siammae.frames import read_frames

    for option, least in (("start", 0), ("frames", 1), ("gap", 1)):
        if getattr(args, option) < least:
            raise ValueError(f"--{option} is {getattr(args, option)}: it must be at least {least}.")
    stop = args.start + (args.frames - 1) * args.gap + 1
    frames = read_frames(args.video, start=args.start, stop=stop, step=args.gap)
    return {args.start + place * args.gap: frame for place, frame in enumerate(frames)}


def propagation_config(
    args: argparse.Namespace, recommended: PropagationConfig | None, *, dataset: str = "davis"
) -> PropagationConfig:
    """Build the rules: a preset (public codes have one a data set) or the recommendation, changed by the options."""
    preset = PropagationConfig.preset(args.preset, dataset=dataset) if args.preset else None
    config = preset or recommended or PropagationConfig()
    size = {} if args.short_side is None else {"resize": args.short_side, "resize_side": "short"}
    return config.replace(**size, **propagation_changes(args))


def propagation_changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that the options change, the input size left out."""
    names = ("top_k", "temperature", "radius", "queue_length")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return changes | assignments(args.set)


def sizes(text: str) -> list[int]:
    """Read ``240,360``; argparse turns the ValueError of anything else into its own message."""
    return [int(part) for part in text.split(",")]


def as_assignments(changes: dict[str, Any]) -> list[str]:
    """Write fields as the values of ``--set``."""
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changes.items()]


def assignments(texts: list[str]) -> dict[str, Any]:
    """Turn the values of ``--set`` into fields.

    Raises:
        ValueError: one of them is not ``FIELD=VALUE``.
    """
    fields = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: it must be FIELD=VALUE.")
        fields[name] = _json_or_text(value)
    return fields


def _json_or_text(value: str) -> Any:  # noqa: ANN401 -- any JSON value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value  # --set rounding=floor needs no quotes


def field_help(settings: type) -> dict[str, str]:
    """Take the explanation of each field out of a settings class's docstring."""
    doc = (settings.__doc__ or "").split("Attributes:")[-1]
    names = "|".join(field.name for field in dataclasses.fields(settings))
    found = re.findall(rf"^ +({names}): (.*?)(?=^ +(?:{names}): |^\s*$|\Z)", doc, re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.replace("``", "").replace("%", "%%").split()) for name, text in found}


@contextmanager
def shown_frames(video: str, *, progress: bool) -> Iterator[Iterable[NDArray[np.uint8]]]:
    """Read a video under a bar that is closed before an error is printed."""
    from tqdm import tqdm

    from siammae.frames import count_frames, read_frames

    with tqdm(read_frames(video), total=count_frames(video), unit="frame", disable=not progress) as bar:
        yield bar
