"""Training state, apart from exported weights: all that an interrupted run needs to go on as if nothing happened."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from siammae.config import PretrainConfig
from siammae.errors import CheckpointError
from siammae.frames import PathLike
from siammae.model import SiamMAE

STATE_FILE, LOG_FILE, CONFIG_FILE, VIDEOS_FILE = "state.pt", "log.jsonl", "pretrain.json", "videos.txt"
_NEWER = {"compile": False}  # settings that the first states do not name, and what those runs did
_MAY_CHANGE = ("videos", "output_dir", "workers", "cache_mb", "checkpoint_every", "recompute")


def save_state(config: PretrainConfig, model: SiamMAE, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write ``state.pt`` and ``pretrain.json``, each under a temporary name first.

    Nothing random is stored: masks, pairs and crops are functions of seed and step.
    """
    folder = Path(config.output_dir)
    state = {"config": config.to_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, folder / f"{STATE_FILE}.part")
    (folder / f"{STATE_FILE}.part").replace(folder / STATE_FILE)
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    (folder / f"{CONFIG_FILE}.part").write_text(text, encoding="utf-8")
    (folder / f"{CONFIG_FILE}.part").replace(folder / CONFIG_FILE)


def load_state(folder: PathLike, config: PretrainConfig, model: SiamMAE, optimizer: torch.optim.Optimizer) -> int:
    """Put a saved state back.

    Returns:
        The step to go on with.

    Raises:
        CheckpointError: there is no state, it is damaged, or belongs to another configuration.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"nothing to resume: no {path}. Start without resume.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved, weights, moments, step = state["config"], state["model"], state["optimizer"], int(state["step"])
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    current = config.to_dict()
    before = {**_NEWER, **saved}
    changed = sorted(
        key for key in current if key not in _MAY_CHANGE and json.dumps(current[key]) != json.dumps(before.get(key))
    )
    if changed:
        detail = ", ".join(f"{key} was {before.get(key)!r}, now {current[key]!r}" for key in changed)
        raise CheckpointError(f"{path} belongs to another configuration: {detail}. Only {_MAY_CHANGE} may change.")
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    return step


def claim_videos(output_dir: PathLike, videos: Sequence[Path], *, resume: PathLike | None) -> None:
    """Write the videos' names to ``videos.txt``; a resumed run must have the same ones, wherever they lie now.

    Raises:
        CheckpointError: they are others, so the samples to come would not be those of the run that began.
    """
    names = "".join(f"{video.name}\n" for video in videos)
    if resume is not None:
        known = Path(resume) / VIDEOS_FILE
        before = known.read_text(encoding="utf-8") if known.is_file() else None
        if before != names:
            count = "unknown" if before is None else before.count("\n")
            raise CheckpointError(
                f"the {len(videos)} videos are not the {count} that this run began with ({known}). Restore them."
            )
    part = Path(output_dir) / f"{VIDEOS_FILE}.part"
    part.write_text(names, encoding="utf-8")
    part.replace(Path(output_dir) / VIDEOS_FILE)


def cut_log(folder: PathLike, step: int) -> None:
    """Drop log lines written after ``step``, so that a resumed run's log has no line twice."""
    path = Path(folder) / LOG_FILE
    if not path.is_file():
        return
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _logged_step(line) <= step]
    part = path.with_suffix(".part")
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    part.replace(path)


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # half a line from a killed process
        return float("inf")
