"""Training states, apart from exported weights: all that an interrupted run needs to go on as if nothing happened."""

from __future__ import annotations

import json
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch

from siammae.config import PretrainConfig
from siammae.errors import CheckpointError, printable
from siammae.frames import PathLike
from siammae.outputs import whole

logger = logging.getLogger(__name__)

STATES_FOLDER, LOG_FILE, CONFIG_FILE, VIDEOS_FILE = "states", "log.jsonl", "pretrain.json", "videos.txt"
# What does not change the weights a run ends with, but for the rounding of sums.
MAY_CHANGE = (
    "videos", "output_dir", "workers", "cache_mb", "max_skipped", "checkpoint_every", "keep_states", "recompute",
    "accumulate", "parallel", "picture_every", "probe", "probe_every", "probe_year", "probe_split", "probe_side",
    "loggers",
)  # fmt: skip

_DAMAGES = (
    OSError, RuntimeError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile
)  # fmt: skip


class Named(Protocol):
    """A clip, as far as a run must know it again."""

    @property
    def name(self) -> str:
        """What tells it apart."""
        ...


def state_files(folder: PathLike) -> list[Path]:
    """Return the saved states of a run, the latest first."""
    found = [path for path in (Path(folder) / STATES_FOLDER).glob("*.pt") if re.fullmatch(r"step-\d+", path.stem)]
    return sorted(found, key=state_step, reverse=True)


def state_step(path: Path) -> int:
    """Return the optimiser step after which a state was saved, by its name."""
    return int(path.stem.partition("-")[2])


def save_state(config: PretrainConfig, parts: Mapping[str, Any], step: int) -> Path:
    """Write ``states/step-N.pt`` and ``pretrain.json``, each under a temporary name first; drop the oldest states.

    Nothing random is stored: masks, pairs, crops and dropout are functions of seed and step.

    Args:
        config: of the run; says how many states stay.
        parts: the states of network, optimiser and whatever else changes from step to step; plain tensors.
        step: optimiser steps made.

    Returns:
        The file.
    """
    folder = Path(config.output_dir)
    path = folder / STATES_FOLDER / f"step-{step:08d}.pt"
    with whole(path) as part, part.open("wb") as file:
        _save({"config": config.to_dict(), "step": step, **parts}, file)
    write_whole(folder / CONFIG_FILE, json.dumps(config.to_dict(), indent=2) + "\n")
    for old in state_files(folder)[config.keep_states :]:
        old.unlink()
    return path


def _save(state: Mapping[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # PyTorch's own, about a file that is shorter than what was written to it
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_state(folder: PathLike, config: PretrainConfig) -> dict[str, Any]:
    """Read the latest whole state of a run; a damaged one is named in the log and the one before is taken.

    Args:
        folder: of the run.
        config: of the run that goes on.

    Returns:
        The parts that :func:`save_state` was given, and ``step``.

    Raises:
        CheckpointError: there is no state, all are damaged, or they belong to another configuration.
    """
    files = state_files(folder)
    if not files:
        raise CheckpointError(f"nothing to resume: no states in {Path(folder) / STATES_FOLDER}. Start without resume.")
    for path in files:
        try:
            state = _read(path)
        except _DAMAGES as error:
            more = "" if path == files[-1] else "; taking the one before"
            logger.warning("%s is damaged (%s)%s", printable(path), printable(error), more)
            continue
        _check_config(path, state.pop("config"), config)
        return state
    raise CheckpointError(f"all {len(files)} states in {files[0].parent} are damaged: the log says how. Start anew.")


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # PyTorch reads on over flipped bits
        if packed := [one.filename for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]:
            raise ValueError(f"{packed[0]} is compressed, which no state of siammae's is")  # it may be of any size
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} has a wrong checksum")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    kinds = {"config": dict, "step": int, "model": dict, "optimizer": dict}
    if not all(isinstance(state[name], kind) for name, kind in kinds.items()):
        raise TypeError("it holds something else")
    return state


def _check_config(path: Path, saved: dict[str, Any], config: PretrainConfig) -> None:
    current = config.to_dict()
    changed = sorted(
        key for key in current if key not in MAY_CHANGE and json.dumps(current[key]) != json.dumps(saved.get(key))
    )
    if changed:
        detail = ", ".join(f"{key} was {saved.get(key)!r}, now {current[key]!r}" for key in changed)
        raise CheckpointError(f"{path} belongs to another configuration: {detail}. Only {MAY_CHANGE} may change.")


def claim_videos(output_dir: PathLike, videos: Sequence[Named], *, resume: PathLike | None) -> None:
    """Write the clips' names to ``videos.txt``; a resumed run must have the same ones, wherever they lie now.

    Raises:
        CheckpointError: they are others, so the samples to come would not be those of the run that began.
    """
    names = "".join(f"{printable(video.name)}\n" for video in videos)
    if resume is not None:
        known = Path(resume) / VIDEOS_FILE
        before = known.read_text(encoding="utf-8") if known.is_file() else None
        if before != names:
            count = "unknown" if before is None else before.count("\n")
            raise CheckpointError(
                f"the {len(videos)} videos are not the {count} that this run began with ({known}). Restore them."
            )
    write_whole(Path(output_dir) / VIDEOS_FILE, names)


def cut_log(folder: PathLike, step: int) -> None:
    """Drop log lines written after ``step``, so that a resumed run's log has no line twice."""
    path = Path(folder) / LOG_FILE
    if not path.is_file():
        return
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _logged_step(line) <= step]
    write_whole(path, "".join(f"{line}\n" for line in lines))


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # half a line from a killed process
        return float("inf")
