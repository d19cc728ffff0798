"""``siammae propagate``: masks of every frame from those of one or several annotated ones."""

from __future__ import annotations

import argparse
import csv
import re
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from siammae.cli.inputs import load_model, overlay_writer, propagation_config, shown_frames
from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_propagation_options,
    add_video_argument,
    say,
)
from siammae.outputs import claim_files, claim_folder, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from siammae.frames import Backend
    from siammae.outputs import ResultFolder
    from siammae.propagation.labels import FrameMasks

_WORTHWHILE = 0.02  # of mean confidence that a mask more is expected to bring
MASKS, OVERLAY = r"\d+\.png", "overlay.mp4"
_EXAMPLES = """examples:
  siammae propagate clip.mp4 --mask first.png -o masks --overlay
  siammae propagate clip.mp4 --mask first.png --mask 40=fix.png -o masks   # between them, both are followed
  siammae propagate frames/ --mask first.png -o masks --short-side 480 --device cuda"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "propagate", run, "carry masks of annotated frames through a video", epilog=_EXAMPLES
    )
    add_video_argument(parser)
    parser.add_argument(
        "--mask",
        action="append",
        default=[],
        metavar="[N=]PNG",
        help="mask of frame N, counted from 0 (without N the first frame's): pixel value = object id; may be repeated",
    )
    parser.add_argument(
        "--masks", metavar="DIR", help="folder of masks whose names are the numbers of their frames, as 00040.png"
    )
    parser.add_argument(
        "--threshold",
        type=int,
        metavar="LEVEL",
        help="grey level of the mask from which a pixel is the object, for masks with soft edges",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="gets 00000.png, 00001.png, ...")
    parser.add_argument("--overlay", action="store_true", help="also write DIR/overlay.mp4")
    parser.add_argument(
        "--confidence",
        metavar="CSV",
        help="also write how sure each frame is of each object, 0 to 1: frame,object,confidence",
    )
    add_overwrite_option(parser)
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.annotations.masks import mask_image, read_mask
    from siammae.propagation.keyframes import follow_keyframes

    files = _mask_files(args.mask, args.masks)
    inputs = (args.video, args.masks, args.model, *files.values())
    sure = Confidence(args.confidence)
    with (
        claim_folder(
            args.output, re.escape(OVERLAY), numbered=MASKS, inputs=inputs, overwrite=args.overwrite
        ) as results,
        claim_files(args.confidence, inputs=inputs, overwrite=args.overwrite),
    ):
        # Read once, then nothing but ids.
        given = {frame: mask_image(read_mask(file, threshold=args.threshold)) for frame, file in files.items()}
        model = load_model(args)
        config = propagation_config(args, model.propagation)
        overlay = results if args.overlay else None
        count, ids = write_masks(
            lambda frames: sure.noted(follow_keyframes(frames, given, model, config, kernels=args.kernels)),
            args.video,
            results,
            overlay=overlay,
            reader=args.reader,
            progress=not args.quiet,
            leave_out=list(files.values()),
        )
    say(f"{count} masks of objects {', '.join(map(str, ids))} in {results.folder}/")
    if overlay:
        say(f"overlay video: {results.folder / OVERLAY}")
    if args.confidence:
        say(f"confidence: {args.confidence}")
    if next_frame := sure.advice(files):
        say(next_frame)
    return 0


class Confidence:
    """How sure results are, noted while they pass.

    Args:
        path: of a CSV; None writes none.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self.means = array("f")  # of each frame

    def noted(self, results: Iterator[FrameMasks]) -> Iterator[FrameMasks]:
        """Pass results on; the file appears at their end."""
        with ExitStack() as stack:
            rows = None
            if self._path is not None:
                part = stack.enter_context(whole(self._path))
                rows = csv.writer(stack.enter_context(part.open("w", newline="", encoding="utf-8")))
                rows.writerow(["frame", "object", "confidence"])
            for result in results:
                sure = result.confidence
                self.means.append(sure.mean())
                if rows:
                    pairs = zip(result.object_ids, sure, strict=True)
                    rows.writerows([result.frame_index, object_id, f"{value:.3f}"] for object_id, value in pairs)
                yield result

    def advice(self, annotated: Collection[int]) -> str | None:
        """Say which frame to annotate next; None where that promises little."""
        import numpy as np

        from siammae.propagation.suggestion import expected_gain

        gain = expected_gain(np.array(self.means), annotated)
        frame = int(gain.argmax())
        if gain[frame] < _WORTHWHILE * len(gain):
            return None
        return f"a mask of frame {frame} would help most (confidence {self.means[frame]:.2f}): --mask {frame}=PNG"


def _mask_files(named: list[str], folder: str | None) -> dict[int, str]:
    """Return the masks' files by the numbers of their frames.

    Raises:
        ValueError: there is none, or two of a frame, or a file in the folder is not named by a number.
        FileNotFoundError: there is no such folder.
    """
    pairs = []
    for text in named:
        numbered = None if Path(text).is_file() else re.fullmatch(r"(\d+)=(.+)", text, re.DOTALL)
        pairs.append((int(numbered[1]), numbered[2]) if numbered else (0, text))
    if folder is not None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"no folder {folder}: --masks needs one that holds 00000.png and the like.")
        for file in sorted(file for file in Path(folder).iterdir() if file.name[0] != "."):
            if file.suffix.lower() != ".png" or not file.stem.isdecimal():
                raise ValueError(f"{folder} holds {file.name}: masks are named by their frames, as 00040.png. Move it.")
            pairs.append((int(file.stem), str(file)))
    if not pairs:
        raise ValueError("there is no mask: pass --mask PNG for the first frame, --mask N=PNG, or --masks DIR.")
    files = dict(pairs)
    if len(files) < len(pairs):
        frames = [frame for frame, _ in pairs]
        twice = next(frame for frame in frames if frames.count(frame) > 1)
        raise ValueError(f"frame {twice} has two masks: give each frame one, as --mask {twice}=PNG.")
    return files


def write_masks(
    follow: Callable[[Iterable[NDArray[np.uint8]]], Iterator[FrameMasks]],
    video: str,
    masks: ResultFolder,
    *,
    overlay: ResultFolder | None,
    reader: Backend = "auto",
    progress: bool,
    leave_out: Collection[str] = (),
) -> tuple[int, tuple[int, ...]]:
    """Follow a video and write each mask as soon as it is there; returns the number of frames, and the objects.

    Results of an earlier run are removed once the first frame has gone well: a shorter video would leave old masks
    among the new. Masks written before an error stay and are whole; the overlay video appears at the end only.

    Args:
        follow: turns frames into their masks.
        video: see :func:`siammae.read_frames`; read a second time for an overlay, as masks may come later than frames.
        masks: gets 00000.png and so on.
        overlay: gets a video, too; None makes none.
        reader: decodes the video.
        progress: show a bar.
        leave_out: files in a folder of frames that are none.
    """
    from siammae.annotations.masks import mask_name, write_mask
    from siammae.frames import count_frames, read_frames
    from siammae.visualize import overlay_masks

    ids: tuple[int, ...] = ()
    count, writer = 0, None
    expected = count_frames(video, reader=reader, leave_out=leave_out)
    pictures = read_frames(video, reader=reader, leave_out=leave_out) if overlay else iter(())
    with shown_frames(video, reader, progress=progress, leave_out=leave_out) as frames, ExitStack() as stack:
        for result in follow(frames):
            labels, ids = result.label_map(), result.object_ids
            if count == 0:
                masks.clear()
                film = overlay.path(OVERLAY) if overlay else None
                writer = stack.enter_context(overlay_writer(film, video, reader))
            write_mask(masks.path(mask_name(count, expected)), labels)
            if writer:
                writer.write(overlay_masks(next(pictures), labels))
            count += 1
    return count, ids
