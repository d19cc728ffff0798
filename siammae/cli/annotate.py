"""``siammae annotate``: a page to annotate a video in the browser."""

from __future__ import annotations

import argparse
import webbrowser
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siammae.cli.demo import demo_data
from siammae.cli.inputs import load_model, propagation_config
from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_propagation_options,
    add_reader_option,
    say,
)
from siammae.cli.own_process import without_compiler
from siammae.errors import printable

if TYPE_CHECKING:
    from siammae.frames.random_access import FrameAccess

_NOTES = """examples:
  siammae annotate clip.mp4                       # the project is clip-annotations/ in this folder
  siammae annotate clip.mp4 -o mice --no-browser  # over ssh -L 8765:localhost:8765
  siammae annotate mice                           # goes on; name the video too if it has moved
  siammae annotate --demo

Everything is saved at once. Ctrl-C ends the server; `siammae export` writes the labels of a project without it."""
_MISSING = 'the page needs starlette and uvicorn: pip install "siammae[annotate]".'


def add_parser(commands: Commands) -> None:
    """Add the command."""
    text = "draw on frames in the browser, follow, correct and export"
    parser = add_command(commands, "annotate", run, text, epilog=_NOTES)
    parser.add_argument("video", nargs="?", metavar="VIDEO", help="video, folder of images, or a project to go on with")
    parser.add_argument("-o", "--output", metavar="PROJECT", help="folder of the project (VIDEO-annotations)")
    parser.add_argument("--demo", action="store_true", help="annotate a short clip that comes with siammae")
    add_reader_option(parser)
    server = parser.add_argument_group("server")
    server.add_argument("--no-browser", action="store_true", help="only print the address")
    server.add_argument("--port", type=int, metavar="N", help="0: any free one (8765, or the next free one)")
    server.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="listen here (%(default)s, which no other machine reaches); others need the token in the address",
    )
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    try:
        from siammae.annotate.serving import bind, serving
    except ImportError as error:
        raise ImportError(_MISSING) from error
    from siammae.annotate.memory import give_memory_back, trim
    from siammae.annotate.opening import hold_project
    from siammae.annotate.pictures import BEHIND
    from siammae.annotate.project import Project
    from siammae.annotate.security import is_loopback, new_token
    from siammae.annotate.server import make_app
    from siammae.annotate.session import Session
    from siammae.frames.random_access import FrameAccess

    if args.port is not None and not 0 <= args.port <= 65535:
        raise ValueError(f"--port is {args.port}: it must be from 0 to 65535.")
    give_memory_back()
    video, folder = _find(args)
    with ExitStack() as stack:
        stack.enter_context(hold_project(folder, video))
        shown = stack.enter_context(closing(FrameAccess(video, reader=args.reader, behind=BEHIND)))
        project = Project(folder, describe_video(video, shown))
        with without_compiler():
            model = load_model(args)
        config = propagation_config(args, model)
        followed = stack.enter_context(closing(FrameAccess(video, reader=args.reader, threads=1, behind=BEHIND)))
        session = stack.enter_context(closing(Session(project, shown, followed, model, config)))
        token = None if is_loopback(args.host) else new_token()
        listener = bind(args.host, args.port)
        trim()
        ended = stack.enter_context(serving(make_app(session, host=args.host, token=token), listener))
        address = _address(args.host, listener.getsockname()[1], token)
        if shown.broken:
            say(f"warning: {shown.broken} The frames before can be annotated.")
        say(f"{video.name}: {shown.count} frames; project {folder}")
        say(f"open {address} (Ctrl-C ends the server)")
        if not args.no_browser:
            webbrowser.open(address)
        while not ended.wait(0.5):
            pass
    raise RuntimeError("the server has ended by itself")


def describe_video(video: Path, frames: FrameAccess) -> dict[str, Any]:
    """Return what a project keeps of its video."""
    from siammae.annotate.identity import fingerprint

    height, width = frames.size
    size = {"frames": frames.count, "height": height, "width": width}
    return {"path": str(video.absolute()), "name": video.name, **fingerprint(video), **size}


def find_video(folder: Path, index: dict[str, Any]) -> Path:
    """Return the video of a project, by where it was last.

    Raises:
        FileNotFoundError: it is not there any more.
    """
    path = Path(str(index["video"].get("path", "")))
    if not path.exists():
        raise FileNotFoundError(
            f"the video of {folder} was {printable(path)}, where there is none now: name it, as "
            f"siammae annotate VIDEO -o {folder}."
        )
    return path


def _find(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return the video and the project's folder."""
    from siammae.annotate.opening import read_index

    if args.demo == bool(args.video):
        raise ValueError("give a video, a folder of images or a project, or --demo and none of these.")
    if args.demo:
        return demo_data() / "walkers.mp4", Path(args.output or "siammae-demo-annotations")
    given = Path(args.video)
    if (given / "project.json").is_file():
        if args.output:
            raise ValueError(f"{given} is a project itself: leave out -o {args.output}, or name the video.")
        return find_video(given, read_index(given)), given
    if not given.exists():
        raise FileNotFoundError(f"no video at {given}: it must be a video file, a folder of images or a project.")
    return given, Path(args.output or f"{given.resolve().stem}-annotations")


def _address(host: str, port: int, token: str | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
