"""Projects of small made-up videos, and sessions that need no weights."""

import time
from contextlib import closing, contextmanager

import numpy as np

from siammae.annotate.opening import hold_project
from siammae.annotate.pictures import BEHIND
from siammae.annotate.project import Project
from siammae.annotate.session import Session
from siammae.annotate.values import Values
from siammae.cli.annotate import describe_video
from siammae.config import PropagationConfig
from siammae.features import PixelExtractor
from siammae.frames import write_image
from siammae.frames.random_access import FrameAccess
from tests.helpers import moving_square

EXTRACTOR, RULES = PixelExtractor(4), PropagationConfig(radius=3, queue_length=2, top_k=3)


class SlowExtractor(PixelExtractor):
    """Takes its time over every frame, and can be told what to do before one."""

    def __init__(self, seconds, before=lambda count: None):
        super().__init__(4)
        self.seconds, self.before, self.count = seconds, before, 0

    def extract(self, frames, **options):
        self.count += 1
        self.before(self.count - 1)
        time.sleep(self.seconds)
        return super().extract(frames, **options)


def write_clip(folder, frames=12, **options):
    """Write a moving square as a folder of PNGs; returns its masks."""
    video, masks = moving_square(frames, **{"size": (48, 64), "step": (1, 2), **options})
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(video):
        write_image(folder / f"{index:03d}.png", frame)
    return masks


@contextmanager
def session(folder, video, extractor=EXTRACTOR, rules=RULES):
    """Open a project as the command does."""
    with (
        hold_project(folder, video),
        closing(FrameAccess(video, behind=BEHIND)) as shown,
        closing(FrameAccess(video, behind=BEHIND)) as followed,
        closing(Session(Project(folder, describe_video(video, shown)), shown, followed, extractor, rules)) as opened,
    ):
        yield opened


def draw(opened, frame, mask):
    """Draw a whole mask, whose objects are there."""
    ids = {thing["id"] for thing in opened.things()["objects"]}
    for number in range(1, int(mask.max()) + 1):
        if number not in ids:
            opened.add_object(Values({}))
    opened.editor.paint(frame, 0, 0, np.ascontiguousarray(mask))


def follow(opened, frame=0, direction="forward", **more):
    """Follow, and wait for the end; returns the message."""
    opened.follow(Values({"frame": frame, "direction": direction, **more}))
    return wait(opened)


def wait(opened, seconds=60):
    """Wait until nothing is followed any more."""
    end = time.monotonic() + seconds
    while opened.follower.state["state"] != "idle":
        assert time.monotonic() < end, "following does not end"
        time.sleep(0.01)
    return opened.follower.state["message"]


def spans(opened, name):
    """The frames that have a mark."""
    return [f for first, last in opened.project.spans()[name] for f in range(first, last + 1)]
