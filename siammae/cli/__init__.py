"""The command ``siammae``: one module a command, each with ``add_parser``; heavy imports wait until a command runs."""

from __future__ import annotations

try:
    import argparse
    import sys
    import warnings
    from collections.abc import Sequence
    from contextlib import nullcontext

    from siammae.cli.endings import TRACEBACK, Stops, end, open_closed_streams
    from siammae.cli.own_process import keep_freed_memory, without_compiler
except KeyboardInterrupt:  # whoever stops the command so early wants no traceback
    raise SystemExit(130) from None

# Commands of one process, in which a frame may be one long computation; others save what they have on Ctrl-C.
_COMPUTING = ("demo", "propagate", "track", "extract", "reconstruct", "attend")
_MEASURING = ("evaluate", "sweep")  # as long, in several processes where asked for


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None = those of the process.

    Returns:
        0 = done, 1 = a mistake in the input or a want of the machine, said in one line on stderr, 70 = a mistake in
        siammae, 128 + the number of the signal that stopped it (130 = Ctrl-C), 141 = whoever read the output, such as
        ``head``, wants no more of it. Wrong options exit with 2.
    """
    with Stops(last=argv is None) as stops:
        command = ""
        try:
            open_closed_streams()
            args = _parser().parse_args(argv)
            command = args.command
            # PyTorch warns about missing drivers and the like; a user of the command can do nothing about them.
            warnings.filterwarnings("ignore")
            return _run(args, own=argv is None)
        except BaseException as error:
            return end(error, command, stops.received)


def _run(args: argparse.Namespace, *, own: bool) -> int:
    """Run a command; ``own`` tells whether the process is its own."""
    from siammae.cli.interrupting import interruptible

    uncompiled = args.command in (*_COMPUTING, *_MEASURING)  # pretrain may compile its network
    if own and (uncompiled or args.command == "pretrain"):
        keep_freed_memory()
    with (
        interruptible() if args.command in _COMPUTING else nullcontext(),
        without_compiler() if own and uncompiled else nullcontext(),
    ):
        code = int(args.run(args))
    sys.stdout.flush()  # a closed pipe or a full disk shows here, not when Python ends
    return code


def _parser() -> argparse.ArgumentParser:
    # Not above: whoever stops the command while they are loaded gets a line, too.
    from siammae._version import __version__
    from siammae.cli import (
        annotate,
        attend,
        convert,
        demo,
        evaluate,
        export,
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
        upload,
    )

    parser = argparse.ArgumentParser(
        prog="siammae",
        description="Self-supervised features for video, and masks and keypoints carried from one frame to all.",
        epilog=f"Each command has its own --help. {TRACEBACK}=1 shows where an error came from.",
    )
    parser.add_argument("--version", action="version", version=f"siammae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        demo,
        annotate,
        export,
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
        upload,
        models,
        info,
    ):
        module.add_parser(commands)
    return parser
