"""Small data sets on disk, and a network that worker processes can be sent."""

import numpy as np
from PIL import Image

from siammae.features import PixelExtractor
from tests.helpers import moving_square


class CountingExtractor(PixelExtractor):
    """RGB patches that count the frames they were asked for."""

    frames = 0

    def extract(self, frames, **options):
        self.frames += len(frames)
        return super().extract(frames, **options)


class FailingExtractor(PixelExtractor):
    """Fails at a frame whose mean colour is the video's that it does not like."""

    def __init__(self, patch_size, bad):
        super().__init__(patch_size)
        self.bad = bad

    def extract(self, frames, **options):
        if np.asarray(frames).tobytes() == self.bad:
            raise ValueError("cannot stand this frame")
        return super().extract(frames, **options)


class Unpicklable(PixelExtractor):
    """Holds what pickle refuses."""

    def __init__(self):
        super().__init__(8)
        self.hook = lambda: None


def write_davis(root, videos=(("a", 5), ("b", 4), ("c", 6)), split="val", size=(32, 48)):
    """Squares that move, in the layout of DAVIS-2017; returns the root."""
    for seed, (name, frames) in enumerate(videos):
        video, masks = moving_square(frames, size, 12, (4, 4), (1, 2), seed)
        for kind, ending, images in (("JPEGImages", "jpg", video), ("Annotations", "png", masks)):
            folder = root / kind / "480p" / name
            folder.mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{index:05d}.{ending}", quality=95)
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("\n".join(name for name, _ in videos) + "\n")
    return root
