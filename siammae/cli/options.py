"""Options that several commands share, and how they become settings and models."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from siammae.config import PropagationConfig
from siammae.config.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from siammae.backbones import TimmExtractor
    from siammae.model import SiamMAE

Commands = Any  # argparse's type of add_subparsers() is private


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


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add which weights to use, and where."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="siammae-ti8",
        metavar="NAME",
        help="bundled name, folder, owner/name on the Hub or timm/NAME for a ViT of timm (%(default)s)",
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: a GPU where there is one)")
    group.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="(%(default)s)")


def load_model(args: argparse.Namespace) -> SiamMAE | TimmExtractor:
    """Load the model that the options name."""
    import torch

    from siammae.backbones import PREFIX, TimmExtractor
    from siammae.model import SiamMAE

    device, dtype = pick_device(args.device), getattr(torch, args.dtype)
    if args.model.startswith(PREFIX):
        return TimmExtractor.from_pretrained(args.model, device=device, dtype=dtype)
    return SiamMAE.from_pretrained(args.model, device=device, dtype=dtype)


def pick_device(name: str) -> str:
    """Turn ``auto`` into the fastest device; a device that was asked for is never replaced.

    Raises:
        ValueError: the device is not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}. Use --device cpu.") from error
    return name


def add_propagation_options(parser: argparse.ArgumentParser) -> None:
    """Add how labels travel."""
    group = parser.add_argument_group("label propagation", "default: what the checkpoint recommends")
    names = dict.fromkeys(name for name, _ in PRESETS)
    group.add_argument("--preset", choices=tuple(names), help="the rules of a public evaluation code")
    group.add_argument("--short-side", type=int, metavar="PIXELS", help="input size; more is finer and slower")
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


def propagation_config(
    args: argparse.Namespace, recommended: PropagationConfig | None, *, dataset: str = "davis"
) -> PropagationConfig:
    """Build the rules: a preset (public codes have one a data set) or the recommendation, changed by the options."""
    preset = PropagationConfig.preset(args.preset, dataset=dataset) if args.preset else None
    config = preset or recommended or PropagationConfig()
    changes: dict[str, Any] = {
        "resize": args.short_side,
        "resize_side": None if args.short_side is None else "short",
        "top_k": args.top_k,
        "temperature": args.temperature,
        "radius": args.radius,
        "queue_length": args.queue_length,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    return config.replace(**changes, **assignments(args.set))


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
