"""The command ``siammae``: one module a command, each with ``add_parser``; heavy imports wait until a command runs."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

from siammae._version import __version__
from siammae.cli import (
    attend,
    convert,
    demo,
    evaluate,
    extract,
    formats,
    info,
    models,
    pretrain,
    propagate,
    reconstruct,
    relabel,
    shard,
    sweep,
    track,
)
from siammae.cli.interrupting import interruptible
from siammae.errors import SiamMAEError, printable

_TRACEBACK = "SIAMMAE_TRACEBACK"
# Commands of one process, in which a frame may be one long computation; others save what they have on Ctrl-C.
_COMPUTING = ("demo", "propagate", "track", "extract", "reconstruct", "attend")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None = those of the process.

    Returns:
        0 = done, 1 = a mistake in the input, said in one line on stderr, 130 = stopped by Ctrl-C, 141 = whoever read
        the output, such as ``head``, wants no more of it. Wrong options exit with 2.
    """
    args = _parser().parse_args(argv)
    # PyTorch warns about missing drivers and the like; a user of the command can do nothing about them.
    warnings.filterwarnings("ignore")
    try:
        return _run(args)
    except KeyboardInterrupt as stop:
        print(f"\nsiammae: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write goes nowhere, silently
        return 141  # as the shell says of a program that SIGPIPE ended
    except (
        SiamMAEError,
        ValueError,
        OSError,
        ImportError,
        FloatingPointError,
    ) as error:  # ImportError: a missing extra
        if os.environ.get(_TRACEBACK):
            raise
        print(f"siammae {args.command}: error:", printable(error, keep="\n"), file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    with interruptible() if args.command in _COMPUTING else nullcontext():
        code = int(args.run(args))
    sys.stdout.flush()  # a closed pipe shows here, not when Python ends
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="siammae",
        description="Self-supervised features for video, and masks and keypoints carried from one frame to all.",
        epilog=f"Each command has its own --help. {_TRACEBACK}=1 shows where an error came from.",
    )
    parser.add_argument("--version", action="version", version=f"siammae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        demo,
        propagate,
        track,
        extract,
        reconstruct,
        attend,
        evaluate,
        sweep,
        shard,
        pretrain,
        convert,
        relabel,
        formats,
        models,
        info,
    ):
        module.add_parser(commands)
    return parser
