"""What commands share that work through many videos."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from siammae.cli.options import say
from siammae.errors import printable

if TYPE_CHECKING:
    from siammae.corpus.running import CorpusReport

_NAMED = 20


def add_engine_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add where many videos are worked on; returns the group."""
    group = parser.add_argument_group("many videos")
    group.add_argument("--engine", default="local", choices=("local", "ray"), help="this machine, or a Ray cluster")
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes, each with one thread or GPU (default: one a CPU, or a GPU)"
    )
    group.add_argument("--address", metavar="HOST:PORT", help="of a running Ray cluster (default: one on this machine)")
    group.add_argument(
        "--max-failed",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of videos that may be unreadable, 0 to 1; more stop the run (%(default)s)",
    )
    return group


def say_report(report: CorpusReport) -> None:
    """Say what a run over many videos did."""
    rate = f", {report.frames / report.seconds:.1f} frames a second" if report.frames and report.seconds else ""
    say(f"{report.made} videos done, {report.found} were there, {len(report.failed)} failed{rate}: {report.manifest}")
    for path, reason in list(report.failed.items())[:_NAMED]:
        say(f"  {printable(path)}: {printable(reason)}")
    if (more := len(report.failed) - _NAMED) > 0:
        say(f"  and {more} more, see the column error")
