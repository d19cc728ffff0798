"""Where a run's numbers and pictures go besides its own files: TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from siammae.config import PretrainConfig

EVENTS_FOLDER = "tensorboard"


class Logger(Protocol):
    """Something that takes numbers and pictures."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers of a step."""
        ...

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Take a picture ``(H, W, 3)`` RGB of a step."""
        ...

    def close(self) -> None:
        """End the run."""
        ...


def open_loggers(config: PretrainConfig) -> list[Logger]:
    """Begin a run in every place that ``config.loggers`` names.

    Raises:
        ImportError: the package of one is not installed; the message says how to install it.
    """
    return [_TensorBoard(config) if name == "tensorboard" else _Tracker(name, config) for name in config.loggers]


class _TensorBoard:
    """Event files in ``output_dir/tensorboard``."""

    def __init__(self, config: PretrainConfig) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                'loggers has "tensorboard", which is not installed: pip install "siammae[tensorboard]".'
            ) from error
        self._writer: Any = SummaryWriter(str(Path(config.output_dir) / EVENTS_FOLDER))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _Tracker:
    """Weights & Biases or Trackio, which has the same functions; the run is named after the output folder."""

    def __init__(self, name: str, config: PretrainConfig) -> None:
        try:
            self._module: Any = importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f'loggers has "{name}", which is not installed: pip install {name}.') from error
        run = Path(config.output_dir).resolve().name
        self._module.init(project="siammae", name=run, config=config.to_dict(), resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._module.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        self._module.log({name: self._module.Image(image)}, step=step)

    def close(self) -> None:
        self._module.finish()
