"""Features as the work that is done to each video of a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siammae.config import ExtractionConfig
from siammae.corpus.batches import ClipFrames, encode, options_of
from siammae.corpus.extraction import Extracted, metadata, write_features
from siammae.corpus.models import Model, ModelName, describe_model, load_model
from siammae.corpus.principal import Components, Moments
from siammae.corpus.reading import StoredVideo
from siammae.corpus.work import BrokenVideoError, Part, Work, blaming
from siammae.errors import CheckpointError
from siammae.features import FeatureExtractor
from siammae.outputs import whole

FOLDER = "features"
_OF_THE_VIDEO = (ValueError, IndexError, MemoryError, torch.OutOfMemoryError)  # an OSError may come from writing


class FeaturesWork(Work):
    """Extracts; the model is loaded where the work is done, once a process.

    Args:
        folder: of the results.
        model: an extractor, which travels to other processes whole, or its name, which is loaded there.
        config: which frames, what of them, how it is stored.
        components: of ``config.pca``.
    """

    def __init__(
        self, folder: Path, model: Model, config: ExtractionConfig, components: Components | None = None
    ) -> None:
        self._model, self.config, self.components = model, config, components
        self._loaded: FeatureExtractor | None = load_model(model)
        options_of(self._loaded, config)  # what it does not have is no fault of the videos
        self._described = describe_model(self._loaded)
        if isinstance(model, ModelName):
            self._model = model.settled(self._described)
        changing = {name: value for name, value in self._described.items() if name not in ("model", "revision")}
        pca = {"pca": components.digest()} if components else {}
        super().__init__(folder, {"rules": config.rules(), "model": changing, **pca})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    @property
    def model(self) -> FeatureExtractor:
        """The extractor of this process.

        Raises:
            CheckpointError: it has other weights than where the work was given out.
        """
        if self._loaded is None:
            loaded = load_model(self._model)
            if (got := describe_model(loaded)["weights"]) != (wanted := self._described["weights"]):
                raise CheckpointError(
                    f"the model {self._described['model']!r} has other weights here ({got}) than where the work was "
                    f"given out ({wanted}): bring the same files to all machines."
                )
            self._loaded = loaded
        return self._loaded

    def file(self, key: str) -> str:
        """Return where a result lies: in 256 folders, as file systems like it."""
        return f"{FOLDER}/{key[:2]}/{key}.{self.config.format}"

    def make(self, part: Part, target: Path, tick: Callable[[], object]) -> Mapping[str, Any]:
        """Extract one video."""
        source = ClipFrames(part.clip, self.config)
        with blaming():
            rate = source.rate()
        with whole(target) as place, blaming(_OF_THE_VIDEO):
            done = write_features(
                place,
                _read(source, tick),
                self.model,
                self.config,
                metadata(self._described, self.config, self.components),
                rate=rate,
                components=self.components,
            )
        return self._said(done)

    def facts(self, target: Path) -> Mapping[str, Any]:
        """Read what a result says of itself."""
        with StoredVideo(target) as stored:
            return self._said(Extracted(target, len(stored), stored.shape[1:], stored.size, stored.rate))

    def _said(self, done: Extracted) -> dict[str, Any]:
        channels, rows, columns = (*done.shape, 0, 0)[:3]
        model = self._described
        return {
            "frames": done.frames,
            "rate": done.rate,
            "height": done.size[0],
            "width": done.size[1],
            "channels": channels,
            "rows": rows,
            "columns": columns,
            "model": model["model"],
            "revision": model["revision"],
            "weights": model["weights"],
            "dtype": model["dtype"],
            "rules": json.dumps(self.config.rules(), sort_keys=True),
        }


def _read(source: ClipFrames, tick: Callable[[], object]) -> Iterator[NDArray[np.uint8]]:
    """Read frames; whatever stops that is the video's fault."""
    with blaming():
        for frame in source.frames():
            yield frame
            tick()


class Sampler:
    """Looks at some frames from all over a video, for principal components.

    Args:
        work: whose settings count.
        frames: how many.
    """

    def __init__(self, work: FeaturesWork, frames: int) -> None:
        self._work, self._frames = work, frames

    def __call__(self, part: Part, tick: Callable[[], object]) -> Moments | None:
        """Return the sums over a video's features; None where it cannot be read, which the run will say."""
        config = self._work.config
        try:
            with blaming():
                count = ClipFrames(part.clip, config).count() or self._frames
                config = config.replace(every=config.every * max(1, count // self._frames))
                frames = islice(ClipFrames(part.clip, config).frames(), self._frames)
                return Moments.of(encode(frames, self._work.model, config))
        except BrokenVideoError:
            return None
