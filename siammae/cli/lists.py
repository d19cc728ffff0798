"""Many videos: what ``extract``, ``propagate --list`` and ``track --list`` share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siammae.cli.options import say
from siammae.errors import printable

if TYPE_CHECKING:
    from siammae.corpus.running import CorpusReport
    from siammae.corpus.work import Part

_NAMED = 20
Follow = Callable[..., "tuple[int, list[str]]"]


def add_engine_options(parser: argparse.ArgumentParser, title: str = "many videos") -> argparse._ArgumentGroup:
    """Add where many videos are worked on; returns the group."""
    group = parser.add_argument_group(title)
    group.add_argument("--engine", default="local", choices=("local", "ray"), help="this machine, or a Ray cluster")
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes, each with one thread or GPU (default: one a CPU, or a GPU)"
    )
    group.add_argument("--address", metavar="HOST:PORT", help="of a running Ray cluster (default: one on this machine)")
    group.add_argument("--shard", metavar="I/N", help="do part I of N, from 1/N to N/N; siammae extract --merge joins")
    group.add_argument(
        "--max-failed",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of videos that may be unreadable, 0 to 1; more stop the run (%(default)s)",
    )
    return group


def add_list_option(parser: argparse.ArgumentParser, header: str) -> None:
    """Add the table of many videos, and where they are worked on."""
    group = add_engine_options(parser)
    group.add_argument("--list", metavar="TABLE.csv", help=f"follow many videos; the first line is {header}")


def say_report(report: CorpusReport) -> None:
    """Say what a run over many videos did."""
    rate = f", {report.frames / report.seconds:.1f} frames a second" if report.frames and report.seconds else ""
    say(f"{report.made} videos done, {report.found} were there, {len(report.failed)} failed{rate}: {report.manifest}")
    for path, reason in list(report.failed.items())[:_NAMED]:
        say(f"  {printable(path)}: {printable(reason)}")
    if (more := len(report.failed) - _NAMED) > 0:
        say(f"  and {more} more, see the column error")


@dataclass(frozen=True)
class ListKind:
    """What a command does with a list.

    Attributes:
        column: of what is given for each video.
        folder: of the results.
        output: name of a video's result in its own folder; empty = the folder itself.
        apart: options that the table takes the place of.
    """

    column: str
    folder: str
    output: str
    apart: tuple[str, ...]


def run_list(args: argparse.Namespace, kind: ListKind, follow: Follow) -> int:
    """Follow all videos of a table.

    Args:
        args: of the command.
        kind: of list.
        follow: does one video, by ``args`` of its own and a model.

    Raises:
        ValueError: options contradict each other, or the table is refused.
        FileNotFoundError: there is no table.
    """
    from siammae.cli.list_work import follow_list

    given = [args.video, *(getattr(args, name) for name in kind.apart)]
    names = ["VIDEO", *(f"--{name}" for name in kind.apart)]
    if twice := [name for name, value in zip(names, given, strict=True) if value]:
        raise ValueError(f"--list names the videos and their {kind.column}, so leave out {twice[0]}.")
    say_report(follow_list(args, kind, follow))
    return 0


def listed_parts(table: Path, column: str) -> Iterator[Part]:
    """Yield the videos of a table with what is given for each.

    Raises:
        ValueError: a line is malformed, leaves the table's folder, or is there twice.
        FileNotFoundError: there is no table.
    """
    from siammae.annotations.tables import table_rows
    from siammae.clips.clip import Clip
    from siammae.clips.listing import listed_path
    from siammae.corpus.work import Part

    if not table.is_file():
        raise FileNotFoundError(f"no table {table}: it must be a CSV with the header video,{column}.")
    seen = set()
    for where, row in table_rows(table, ("video", column), f"video,{column}", errors="surrogateescape"):
        cells = [(row[name] or "").strip() for name in ("video", column)]
        if not all(cells):
            raise ValueError(f"{where} lacks the video or its {column}: it must be video,{column}.")
        (name, video), (_, given) = (listed_path(table, cell, must_exist=False) for cell in cells)
        if name in seen:
            raise ValueError(f"{where} lists {name!r} again: a video has one line, with one file for all its objects.")
        seen.add(name)
        yield Part.of(Clip(name, video, kind="frames" if video.is_dir() else "video"), (str(given),))


def args_of(args: argparse.Namespace, kind: ListKind, part: Part, place: Path) -> argparse.Namespace:
    """Return the options that follow one video of a list into a folder."""
    own = copy(args)
    own.video, own.output, own.list = str(part.clip.path), str(place / kind.output if kind.output else place), None
    own.quiet, own.overwrite = True, False
    setattr(own, kind.column, list(part.given))
    return own


def settings_of(args: argparse.Namespace, rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options on which results depend, JSON-ready."""
    names = ("reader", "threshold", "format", "overlay", "object", "frame", "sequence", "input_format", "kernels")
    chosen = {name: getattr(args, name) for name in names if hasattr(args, name)}
    return dict(json.loads(json.dumps({"options": chosen, "propagation": rules})))
