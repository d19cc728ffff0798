"""Weights in and out: bundled with the package, a folder, or the Hugging Face Hub. Strict, and safetensors only."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from siammae.errors import CheckpointError
from siammae.frames import PathLike

DEFAULT_WEIGHTS = "siammae-ti8"
FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
_BUNDLED = Path(__file__).parents[1] / "weights"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def bundled_names() -> tuple[str, ...]:
    """Return the names of the checkpoints inside the package."""
    return tuple(sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_FILE}")))


def find_checkpoint(
    name: PathLike = DEFAULT_WEIGHTS,
    *,
    revision: str | None = None,
    cache_dir: PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Turn a checkpoint's name into a local folder, downloading it if need be.

    Args:
        name: a bundled name, an existing folder (or ``local-dir:folder``), or ``owner/name`` on the Hugging Face Hub
            (or ``hf-hub:owner/name``). A string that is both a folder and a Hub name means the folder.
        revision: branch, tag or commit on the Hub.
        cache_dir: where downloads are kept; None = the Hub client's own cache.
        token: for private repositories.
        local_files_only: use the cache, never the network.

    Returns:
        A folder with ``config.json`` and ``model.safetensors``.

    Raises:
        ValueError: the name is neither of these.
        FileNotFoundError: a folder was named that does not exist.
        CheckpointError: the Hub has no such checkpoint or cannot be reached.
    """
    text = os.fspath(name)
    if text in bundled_names():
        return _BUNDLED / text
    if text.startswith("timm/") and not Path(text).is_dir():
        raise ValueError(
            f"{text!r} is a network of timm, not a siammae checkpoint: use siammae.TimmExtractor.from_pretrained, or "
            "pass the name as model= to the functions and as --model to the commands that take any features."
        )
    if text.startswith("hf-hub:"):
        return _download(text.removeprefix("hf-hub:"), revision, cache_dir, token, local_files_only)
    folder = Path(text.removeprefix("local-dir:"))
    if folder.is_dir():
        return folder
    if isinstance(name, os.PathLike) or text.startswith(("local-dir:", ".", "/", "~")):
        raise FileNotFoundError(f"no folder {folder}: a checkpoint is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}.")
    if _REPO_ID.fullmatch(text):
        return _download(text, revision, cache_dir, token, local_files_only)
    raise ValueError(
        f"no checkpoint {text!r}: it must be a bundled name ({', '.join(bundled_names()) or 'none here'}), "
        f"a folder (local-dir:{text}) or a Hugging Face Hub name (hf-hub:owner/{text})."
    )


def _download(
    repo_id: str, revision: str | None, cache_dir: PathLike | None, token: str | bool | None, local_files_only: bool
) -> Path:
    import huggingface_hub

    cache = None if cache_dir is None else Path(cache_dir)
    try:
        config, _ = (
            huggingface_hub.hf_hub_download(
                repo_id, file, revision=revision, cache_dir=cache, token=token, local_files_only=local_files_only
            )
            for file in (CONFIG_FILE, WEIGHTS_FILE)
        )
    except hub_errors() as error:
        raise CheckpointError(
            f"{repo_id!r} cannot be had from the Hugging Face Hub ({type(error).__name__}: {error}). Check the name, "
            f"revision={revision!r}, the token and the network; local_files_only={local_files_only}."
        ) from error
    return Path(config).parent


def hub_errors() -> tuple[type[Exception], ...]:
    """Return what is raised when the Hub refuses or is out of reach, whichever HTTP client its library uses."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    client_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])  # also the base of failed connections
    return client_error, HfHubHTTPError, HFValidationError, OSError


def read_config(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's ``config.json``.

    Raises:
        CheckpointError: it is missing, no JSON, or written by a newer format.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no {CONFIG_FILE}: it is no siammae checkpoint. Pass a folder that save_pretrained wrote."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if not isinstance(version, int) or not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{path} has no format_version and model: it is no siammae checkpoint.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version}, this siammae reads up to {FORMAT_VERSION}. Upgrade siammae."
        )
    if unknown := sorted(set(config) - {"format_version", "model", "propagation"}):
        raise CheckpointError(f"{path} has unknown fields {unknown}: known are format_version, model, propagation.")
    return config  # type: ignore[no-any-return]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read a checkpoint's ``model.safetensors`` to the CPU.

    Raises:
        CheckpointError: it is missing or damaged; pickled weights are named but never opened.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
        hint = f" {pickles} are pickles, which could run code and are never loaded." if pickles else ""
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}.{hint} Pass a folder that save_pretrained wrote.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}. Get it again.") from error


def load_strictly(module: torch.nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module of the same names and shapes.

    Raises:
        CheckpointError: tensors are missing, unexpected, of another shape or not finite; the message names them.
    """
    wanted = module.state_dict()
    problems = []
    if missing := sorted(set(wanted) - set(tensors)):
        problems.append(f"missing tensors {missing}")
    if unexpected := sorted(set(tensors) - set(wanted)):
        problems.append(f"unexpected tensors {unexpected}")
    for name in sorted(set(wanted) & set(tensors)):
        if wanted[name].shape != tensors[name].shape:
            problems.append(f"{name} is {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}")
        elif not tensors[name].isfinite().all():
            problems.append(f"{name} has NaN or infinite values")
    if problems:
        raise CheckpointError(f"{source} does not fit its config: {'; '.join(problems)}.")
    module.load_state_dict(dict(tensors))


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with the mode of any other file: safetensors makes it its owner's alone."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=dict(metadata))
    path.chmod(mode)


def write_checkpoint(folder: PathLike, config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> Path:
    """Write ``config.json``, ``model.safetensors`` and ``README.md``, each under a temporary name first.

    Returns:
        The folder.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory(dir=target, prefix=".writing-") as temporary:
        parts = Path(temporary)
        save_tensors(contiguous, parts / WEIGHTS_FILE, {"format": "pt"})
        (parts / CARD_FILE).write_text(card, encoding="utf-8")
        stored = {"format_version": FORMAT_VERSION, **config}
        (parts / CONFIG_FILE).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
        for file in (WEIGHTS_FILE, CARD_FILE, CONFIG_FILE):  # the config last: without it the folder is no checkpoint
            (parts / file).replace(target / file)
    return target


def upload(folder: Path, repo_id: str, *, private: bool = False, token: str | bool | None = None) -> str:
    """Send a checkpoint folder to the Hugging Face Hub.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the Hub refuses or cannot be reached.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]
        )
    except hub_errors() as error:
        raise CheckpointError(
            f"{repo_id!r} cannot be written on the Hugging Face Hub ({type(error).__name__}: {error}). "
            "Log in with `hf auth login` or pass token=..., and check that you may write there."
        ) from error
    return str(commit.commit_url)
