"""What an evaluation returns and keeps: scores, a table to read, JSON, a folder of predictions that knows its run."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import nn

from siammae._version import __version__
from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Scores of a whole split and of each video, all in percent.

    Attributes:
        dataset: what was scored, such as ``"DAVIS-2017"``.
        scores: of the whole split, in percent; nan where undefined.
        per_video: of each video by its name, in the split's order, in percent.
        config: of the propagation; None when ready results were scored.
        details: anything else worth keeping, JSON-ready: split, model, number of frames, seconds.
    """

    dataset: str
    scores: Mapping[str, float]
    per_video: Mapping[str, Mapping[str, float]]
    config: PropagationConfig | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """Return one line for each video and a last line with the split's scores, in aligned columns.

        The last line holds :attr:`scores`, which a data set may define otherwise than as the mean of the lines above:
        DAVIS takes the mean over objects.
        """
        columns = list(dict.fromkeys(name for row in self.per_video.values() for name in row)) or list(self.scores)
        rows = [*self.per_video.items(), ("mean", self.scores)]
        cells = [[self.dataset, *columns]]
        cells += [[video, *(_percent(row.get(name)) for name in columns)] for video, row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_aligned(line, widths) for line in cells]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]] if self.per_video else lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; missing folders are made, and the file appears whole or not at all.

        Args:
            path: of the file; a file that is there is replaced.

        Raises:
            TypeError: ``details`` holds something that JSON does not know.
            ValueError: ``details`` holds nan or infinity.
        """
        config = self.config.to_dict() if self.config else None
        write_json(
            Path(path),
            {
                "dataset": self.dataset,
                "scores": _without_nan(self.scores),
                "per_video": {video: _without_nan(row) for video, row in self.per_video.items()},
                "config": config,
                "details": dict(self.details),
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Args:
            path: of the JSON file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a saved result; the message names it.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(
                dataset=values["dataset"],
                scores=_with_nan(values["scores"]),
                per_video={video: _with_nan(row) for video, row in values["per_video"].items()},
                config=None if values["config"] is None else PropagationConfig.from_dict(values["config"]),
                details=values["details"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a saved evaluation result ({error!r}): write one with save().") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file under a temporary name beside its place, then rename it, so that no reader sees a part."""
    text = _json(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def claim_folder(
    folder: Path, model: FeatureExtractor, config: PropagationConfig, source: Mapping[str, str], videos: Sequence[str]
) -> None:
    """Mark a folder of predictions as this run's by a ``config.json``, so that the run can go on where it stopped.

    Args:
        folder: made if missing.
        model: what makes the features.
        config: of the propagation.
        source: what else the predictions depend on, such as the data set.
        videos: folders that the run will write.

    Raises:
        ValueError: the folder holds results of another run or of an unknown one, which would be scored as this run's.
    """
    stamp = folder / "config.json"
    identity = {**source, **_identity(model, config)}
    if stamp.is_file():
        if stamp.read_text(encoding="utf-8") != _json(identity):
            raise ValueError(
                f"{folder} holds results of another model or setting (config.json). Choose another folder."
            )
    elif taken := [video for video in videos if (folder / video).exists()]:
        raise ValueError(f"{folder} holds {taken[0]} but no config.json: its origin is unknown. Choose another folder.")
    else:
        write_json(stamp, identity)


def model_name(model: FeatureExtractor) -> str:
    """Return where the weights came from, or else the class."""
    return str(getattr(model, "name", "") or type(model).__name__)


def _identity(model: FeatureExtractor, config: PropagationConfig) -> dict[str, Any]:
    """Return all that a prediction depends on, besides the video."""
    return {
        "model": model_name(model),
        "patch_size": model.patch_size,
        "weights": _weights_digest(model),
        "version": __version__,
        "config": config.to_dict(),
    }


def _weights_digest(model: FeatureExtractor) -> str:
    """Tell two checkpoints of one architecture apart, for a network or a plain object that holds networks."""
    digest = hashlib.sha256()
    networks = [part for part in (model, *getattr(model, "__dict__", {}).values()) if isinstance(part, nn.Module)]
    for network in networks:
        for name, tensor in network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def _aligned(cells: list[str], widths: list[int]) -> str:
    """Put the name to the left and the numbers to the right of their columns."""
    numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "  ".join([cells[0].ljust(widths[0]), *numbers])


def _without_nan(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Replace nan by None, JSON's null: NaN is not JSON, and other readers refuse it."""
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _with_nan(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in scores.items()}
