"""``siammae formats``: the label formats, with what each can hold."""

from __future__ import annotations

import argparse

from siammae.cli.options import Commands, add_command, say


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "formats", run, "list the label formats that are read and written")
    parser.add_argument("name", nargs="?", metavar="NAME", help="all that is known of one format")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.annotations.formats.format import Feature
    from siammae.annotations.formats.registry import FORMATS, find_format

    if args.name is None:
        width = max(len(one.name) for one in FORMATS)
        for one in FORMATS:
            say(f"{one.name:{width}}  {'in' if one.read else '--'} {'out' if one.write else '---'}  {one.title}")
        return 0
    one = find_format(args.name)
    say(f"{one.name}: {one.title}")
    say(f"read: {'yes' if one.read else 'no'}; written: {'yes' if one.write else 'no'}")
    say(f"pixels: {one.pixels}")
    if one.write:
        held = [feature.partition(" (")[0] for feature in Feature if feature in one.holds]  # without what else happens
        say(f"holds: {', '.join(held)}")
        say(f"has no place for: {', '.join(feature for feature in Feature if feature not in one.holds) or 'nothing'}")
    if one.limits:
        say(f"limits: {one.limits}")
    return 0
