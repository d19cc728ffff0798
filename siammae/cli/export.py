"""``siammae export``: the labels of an annotation project in any format."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from siammae.cli.annotate import describe_video, find_video
from siammae.cli.options import Commands, add_command, add_overwrite_option, add_reader_option, say

_NOTES = """examples:
  siammae export mice --format coco -o mice.json
  siammae export mice --format davis -o masks --annotated   # only what a person drew or approved
  siammae export mice --overlay -o mice.mp4

`siammae formats` lists the formats. What one has no place for is left out and said."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "export", run, "write the labels of an annotation project", epilog=_NOTES)
    parser.add_argument("project", metavar="PROJECT", help="folder that `siammae annotate` made")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--format", metavar="NAME", help="of the labels")
    what.add_argument("--overlay", action="store_true", help="a video with masks and keypoints over it: mp4, avi, webm")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="file or folder to write")
    parser.add_argument("--annotated", action="store_true", help="only frames that a person drew or approved")
    parser.add_argument("--video", metavar="VIDEO", help="the project's video, where it has moved")
    add_reader_option(parser)
    add_overwrite_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.annotate.exporting import export_labels, export_overlay
    from siammae.annotate.opening import hold_project, read_index
    from siammae.annotate.project import Project
    from siammae.annotations.files import find_writable
    from siammae.frames.random_access import FrameAccess
    from siammae.outputs import claim_files, hold_folder

    folder, output = Path(args.project), Path(args.output)
    target = None if args.overlay else find_writable(args.format)
    # Before the project is looked at: an output that cannot be written is refused before any work.
    with (
        claim_files(output, inputs=[folder], overwrite=True)
        if target is None or target.suffix
        else hold_folder(output, inputs=[folder])
    ):
        pass
    index = read_index(folder)
    if not index:
        raise FileNotFoundError(f"no project in {folder}: it must be a folder that siammae annotate made.")
    video = Path(args.video) if args.video else find_video(folder, index)
    with hold_project(folder, video), closing(FrameAccess(video, reader=args.reader)) as frames:
        project = Project(folder, describe_video(video, frames))
        if target is None:
            count = export_overlay(project, frames, output, overwrite=args.overwrite)
            say(f"{count} frames: {output}")
            return 0
        written = export_labels(
            project,
            output,
            format=target.name,
            which="annotated" if args.annotated else "all",
            names=frames.names,
            overwrite=args.overwrite,
        )
    say(f"{written.frames} frames as {written.format} in {written.path}")
    return 0
