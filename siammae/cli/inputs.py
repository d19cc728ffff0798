"""What the options name, opened: the model, the rules, the frames."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from siammae.config import PropagationConfig

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from siammae.cli.effort import Effort
    from siammae.frames import Backend, VideoWriter
    from siammae.network.dtypes import Dtype
    from siammae.network.model import SiamMAE
    from siammae.network.timm_extractor import TimmExtractor


def load_model(args: argparse.Namespace, name: str | None = None) -> SiamMAE | TimmExtractor:
    """Load the model that the options name, or that ``name`` does."""
    import torch

    from siammae.network.model import SiamMAE
    from siammae.network.timm_extractor import PREFIX, TimmExtractor

    device = pick_device(args.device)
    exact = args.dtype == "auto" and bool(getattr(args, "preset", None))  # public codes compute in float32
    dtype: Dtype = torch.float32 if exact else "auto" if args.dtype == "auto" else getattr(torch, args.dtype)
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
        torch.empty(0, dtype=torch.float32, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}. Use --device cpu.") from error
    return name


def propagation_config(
    args: argparse.Namespace, model: SiamMAE | TimmExtractor | Effort, *, dataset: str = "davis"
) -> PropagationConfig:
    """Build the rules: a preset (public codes have one a data set) or the recommendation, changed by the options.

    Raises:
        ValueError: a field is out of range, or options contradict each other.
    """
    if args.preset and args.quality:
        raise ValueError(f"--preset {args.preset} and --quality {args.quality} are both given: give one of them.")
    if args.preset:
        config = PropagationConfig.preset(args.preset, dataset=dataset)
    elif args.quality:
        config = PropagationConfig.recommended(model, args.quality)
    else:
        config = model.propagation or PropagationConfig()
    size = {} if args.short_side is None else {"resize": args.short_side, "resize_side": "short"}
    return config.replace(**size, **propagation_changes(args))


def propagation_changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that the options change, the input size left out.

    Raises:
        ValueError: an option and ``--set`` give the same field.
    """
    names = ("top_k", "temperature", "radius", "queue_length")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    fields = assignments(args.set)
    options = {name: "--" + name.replace("_", "-") for name in changes}
    if args.short_side is not None:
        options |= dict.fromkeys(("resize", "resize_side"), "--short-side")
    if twice := [name for name in fields if name in options]:
        raise ValueError(f"--set {twice[0]} and {options[twice[0]]} say the same in two ways: give one of them.")
    return changes | fields


def as_assignments(changes: dict[str, Any]) -> list[str]:
    """Write fields as the values of ``--set``."""
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changes.items()]


def assignments(texts: list[str]) -> dict[str, Any]:
    """Turn the values of ``--set`` into fields.

    Raises:
        ValueError: one of them is not ``FIELD=VALUE``, or two name one field.
    """
    fields: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: it must be FIELD=VALUE.")
        if name in fields:
            raise ValueError(f"--set {name} is given twice: give it once.")
        fields[name] = _json_or_text(value)
    return fields


def _json_or_text(value: str) -> Any:  # noqa: ANN401 -- any JSON value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, too deep
        return value  # --set rounding=floor needs no quotes


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
    frames = read_frames(args.video, start=args.start, stop=stop, step=args.gap, reader=args.reader)
    return {args.start + place * args.gap: frame for place, frame in enumerate(frames)}


@contextmanager
def shown_frames(
    video: str, reader: Backend, *, progress: bool, leave_out: Collection[str] = ()
) -> Iterator[Iterable[NDArray[np.uint8]]]:
    """Read a video under a bar that is closed before an error is printed; ``leave_out`` are no frames of a folder."""
    from tqdm import tqdm

    from siammae.frames import count_frames, read_ahead, read_frames

    count = count_frames(video, reader=reader, leave_out=leave_out) if progress else None
    with (
        closing(read_ahead(read_frames(video, reader=reader, leave_out=leave_out))) as frames,
        tqdm(frames, total=count, unit="frame", disable=not progress) as bar,
    ):
        yield bar


@contextmanager
def overlay_writer(path: Path | None, video: str, reader: Backend) -> Iterator[VideoWriter | None]:
    """Open a video beside the results, at the source's frame rate; None where no one asked for one."""
    from siammae.frames import VideoWriter, frame_rate

    if path is None:
        yield None
        return
    with VideoWriter(path, fps=frame_rate(video, reader=reader) or 25.0) as writer:
        yield writer
