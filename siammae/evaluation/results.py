"""What an evaluation returns and keeps: scores, a table to read, JSON, a folder of predictions that knows its run."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import nn

from siammae._version import __version__
from siammae.config import PropagationConfig
from siammae.errors import printable
from siammae.features import FeatureExtractor
from siammae.outputs import WAY_OUT, whole

# Our scores and their columns in the CSVs of the official tool.
_OFFICIAL = {
    "J&F": "J&F-Mean",
    "J": "J-Mean",
    "J-Recall": "J-Recall",
    "J-Decay": "J-Decay",
    "F": "F-Mean",
    "F-Recall": "F-Recall",
    "F-Decay": "F-Decay",
}
# All that a run keeps in its folder: its stamp, scores, and predictions below folders.
_RESULTS = re.compile(r"config\.json|scores\.(json|md)|(global|per-sequence)_results-[^/]+\.csv|.+/[^/]+\.(png|csv)")


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
        cells += [[video, *(percent(row.get(name)) for name in columns)] for video, row in rows]
        lines = aligned(cells)
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]] if self.per_video else lines)

    @property
    def scored_at(self) -> str:
        """The size of the scored masks where it is not the annotations' own, such as ``"480x880"``; else empty."""
        return self.dataset.partition(" at ")[2]

    def markdown(self) -> str:
        """Return what :meth:`table` shows as Markdown, and below it the table of objects, classes or joints."""
        parts = [markdown_table(self.dataset, {**self.per_video, "mean": self.scores})]
        for name in ("per_object", "per_class", "per_joint"):
            if rows := self.details.get(name):
                what = name.removeprefix("per_")
                parts.append(
                    markdown_table(what, {k: v if isinstance(v, Mapping) else {"IoU": v} for k, v in rows.items()})
                )
        return "\n\n".join(parts) + "\n"

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write everything that others may want to read into a folder; each file appears whole.

        Args:
            folder: made if missing; files of the same names are replaced.

        Returns:
            ``scores.json`` (:meth:`save`), ``scores.md`` (:meth:`markdown`) and, for DAVIS, the two files of its
            official tool: ``global_results-<split>.csv`` and ``per-sequence_results-<split>.csv``, values from 0 to 1
            with three decimals.

        Source:
            davis2017-evaluation, evaluation_method.py.
        """
        target = Path(folder)
        self.save(target / "scores.json")
        texts = {"scores.md": self.markdown()}
        if "per_object" in self.details:
            split, objects = self.details["split"], self.details["per_object"]
            texts[f"global_results-{split}.csv"] = _csv(_OFFICIAL.values(), [[self.scores[name] for name in _OFFICIAL]])
            rows = [[name, row["J"], row["F"]] for name, row in objects.items()]
            texts[f"per-sequence_results-{split}.csv"] = _csv(("Sequence", "J-Mean", "F-Mean"), rows)
        for name, text in texts.items():
            write_text(target / name, text)
        return [target / name for name in ("scores.json", *texts)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; missing folders are made, and the file appears whole or not at all.

        Args:
            path: of the file; a file that is there is replaced.

        Raises:
            TypeError: ``details`` holds something that JSON does not know.
            ValueError: ``details`` holds nan or infinity.
        """
        write_json(Path(path), self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON-ready values."""
        return {
            "dataset": self.dataset,
            "scores": _without_nan(self.scores),
            "per_video": {video: _without_nan(row) for video, row in self.per_video.items()},
            "config": self.config.to_dict() if self.config else None,
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s result; what is missing or has another type raises what Python raises."""
        return cls(
            dataset=values["dataset"],
            scores=_with_nan(values["scores"]),
            per_video={video: _with_nan(row) for video, row in values["per_video"].items()},
            config=None if values["config"] is None else PropagationConfig.from_dict(values["config"]),
            details=values["details"],
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
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a saved evaluation result ({error!r}): write one with save().") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file that appears whole or not at all."""
    write_text(path, _json(values))


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def claim_folder(
    folder: Path,
    model: FeatureExtractor,
    config: PropagationConfig,
    source: Mapping[str, str],
    videos: Sequence[str],
    *,
    overwrite: bool = False,
) -> None:
    """Mark a folder of predictions as this run's by a ``config.json``, so that the run can go on where it stopped.

    Args:
        folder: made if missing.
        model: what makes the features.
        config: of the propagation.
        source: what else the predictions depend on, such as the data set.
        videos: folders that the run will write.
        overwrite: whether results of another run are deleted, and the folder becomes this one's.

    Raises:
        ValueError: the folder holds results of another run or of an unknown one, which would be scored as this run's.
    """
    stamp = folder / "config.json"
    identity = {**source, **_identity(model, config)}
    if stamp.is_file():
        if stamp.read_text(encoding="utf-8") == _json(identity):
            return
        if not overwrite:
            raise ValueError(f"{folder} holds results of another model or setting (config.json): {WAY_OUT}")
        _delete_results(folder)
        write_json(stamp, identity)
    elif taken := [video for video in videos if (folder / video).exists()]:
        raise ValueError(f"{folder} holds {taken[0]} but no config.json: its origin is unknown. Choose another folder.")
    else:
        write_json(stamp, identity)


def _delete_results(folder: Path) -> None:
    """Delete what a run left in its folder, or nothing where there is anything else."""
    entries = [path for path in folder.rglob("*") if not path.name.startswith(".")]  # hidden ones: locks, and not ours
    files = [path for path in entries if path.is_symlink() or not path.is_dir()]
    strange = [path for path in files if not _RESULTS.fullmatch(path.relative_to(folder).as_posix())]
    if strange or not _is_stamp(folder / "config.json"):
        raise ValueError(
            f"{folder} holds {strange[0] if strange else 'a config.json'} that no evaluation wrote: choose another "
            "folder."
        )
    for path in files:
        path.unlink()
    for path in sorted(set(entries) - set(files), reverse=True):  # the inner ones first
        with suppress(OSError):  # there is a hidden file in it
            path.rmdir()


def _is_stamp(path: Path) -> bool:
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
        return bool({"weights", "patch_size", "config"} <= stamp.keys())
    except (ValueError, AttributeError):
        return False


def markdown_table(corner: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return rows of scores in percent as a Markdown table whose upper left cell is ``corner``."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [[corner, *columns], ["-"] + ["-:"] * len(columns)]
    lines += [[name, *(percent(row.get(column)) for column in columns)] for name, row in rows.items()]
    return markdown_lines(lines)


def markdown_lines(lines: Iterable[Sequence[str]]) -> str:
    """Return lines of cells as those of a Markdown table; names that come from files cannot break it."""
    return "\n".join(f"| {' | '.join(map(printable, line))} |" for line in lines)


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


def percent(value: float | None) -> str:
    """Write a score; a missing one and nan as a dash."""
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def _csv(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write rows as pandas does for the official tool; percent become parts of 1."""
    cells = [[x if isinstance(x, str) else f"{x / 100:.3f}" for x in row] for row in rows]
    return "".join(",".join(line) + "\n" for line in [list(columns), *cells])


def aligned(lines: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Put columns of text under each other, the first ``left`` of them to the left, numbers to the right."""
    lines = [[printable(cell) for cell in line] for line in lines]  # names come from files
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _without_nan(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Replace nan by None, JSON's null: NaN is not JSON, and other readers refuse it."""
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _with_nan(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in scores.items()}
