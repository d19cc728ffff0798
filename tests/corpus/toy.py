"""Small corpora, and extractors that do what models must not."""

import os
import time
from pathlib import Path

import numpy as np

from siammae.features import PixelExtractor
from tests.helpers import moving_square, write_video

SIZE = (32, 48)


def make_videos(folder, count=4, frames=6):
    """Squares that move differently; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        video, _ = moving_square(frames + seed % 5, SIZE, 12, (4, 4), (1, 2), seed)
        write_video(folder / f"v{seed}.mp4", video)
    return folder


def make_fatal(folder, name="v9.mp4"):
    """Write a white video, which :class:`Dies` does not survive."""
    write_video(folder / name, np.full((4, *SIZE, 3), 255, np.uint8))
    return folder


def results(folder):
    """The bytes of all results by their names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "features").rglob("*"))
        if path.is_file()
    }


class Dies(PixelExtractor):
    """Takes its process along on white frames, as a decoder that crashes does."""

    def extract(self, frames, **options):
        if np.mean(frames) > 250:
            os._exit(9)
        return super().extract(frames, **options)


class DiesOnce(PixelExtractor):
    """Takes its process along on white frames, but leaves a note and survives when it finds one."""

    def __init__(self, note):
        super().__init__(8)
        self.note = note

    def extract(self, frames, **options):
        if np.mean(frames) > 250 and not Path(self.note).exists():
            Path(self.note).touch()
            os._exit(9)
        return super().extract(frames, **options)


class Slow(PixelExtractor):
    """Takes its time, so that something can happen meanwhile; counts its calls in a file."""

    def __init__(self, log, seconds=0.2):
        super().__init__(8)
        self.log, self.seconds = log, seconds

    def extract(self, frames, **options):
        time.sleep(self.seconds)
        with Path(self.log).open("a") as file:
            file.write(".")
        return super().extract(frames, **options)
