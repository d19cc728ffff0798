"""Weights in and out: bundled with the package, a folder, or the Hugging Face Hub. Strict, and safetensors only."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

from safetensors import SafetensorError
from torch import Tensor

from siammae.checkpoints.tensors import check_tensors, get_again, read_header, read_tensors, save_tensors
from siammae.config.bounds import bound
from siammae.errors import CheckpointError, name_some, one_line
from siammae.frames import PathLike
from siammae.outputs import whole

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
    force_download: bool = False,
) -> Path:
    """Turn a checkpoint's name into a local folder, downloading it if need be.

    Args:
        name: a bundled name, an existing folder (or ``local-dir:folder``), or ``owner/name`` on the Hugging Face Hub
            (or ``hf-hub:owner/name``). A string that is both a folder and a Hub name means the folder.
        revision: branch, tag or commit on the Hub.
        cache_dir: where downloads are kept; None = the Hub client's own cache.
        token: for private repositories.
        local_files_only: use the cache, never the network.
        force_download: download again what lies in the cache: a file there may be damaged.

    Returns:
        A folder with ``config.json`` and ``model.safetensors``.

    Raises:
        ValueError: the name is neither of these, or ``force_download`` meets ``local_files_only``.
        FileNotFoundError: a folder was named that does not exist.
        CheckpointError: the Hub has no such checkpoint or cannot be reached.
    """
    if force_download and local_files_only:
        raise ValueError("force_download and local_files_only are both set: a download needs the network. Pass one.")
    text = os.fspath(name)
    hub_options = (revision, cache_dir, token, local_files_only, force_download)
    if text in bundled_names():
        return _BUNDLED / text
    if text.startswith("timm/") and not Path(text).is_dir():
        raise ValueError(
            f"{text!r} is a network of timm, not a siammae checkpoint: use siammae.TimmExtractor.from_pretrained, or "
            "pass the name as model= to the functions and as --model to the commands that take any features."
        )
    if text.startswith("hf-hub:"):
        return _download(text.removeprefix("hf-hub:"), *hub_options)
    folder = Path(text.removeprefix("local-dir:"))
    if folder.is_dir():
        return folder
    if isinstance(name, os.PathLike) or text.startswith(("local-dir:", ".", "/", "~")):
        raise FileNotFoundError(f"no folder {folder}: a checkpoint is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}.")
    if _REPO_ID.fullmatch(text):
        return _download(text, *hub_options)
    raise ValueError(
        f"no checkpoint {text!r}: it must be a bundled name ({', '.join(bundled_names()) or 'none here'}), "
        f"a folder (local-dir:{text}) or a Hugging Face Hub name (hf-hub:owner/{text})."
    )


def _download(
    repo_id: str,
    revision: str | None,
    cache_dir: PathLike | None,
    token: str | bool | None,
    local_files_only: bool,
    force_download: bool,
) -> Path:
    """Download both files of one commit: the second is asked for by the commit that the first came from."""
    import huggingface_hub

    get = partial(
        huggingface_hub.hf_hub_download,
        repo_id,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        token=token,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    try:
        config = Path(get(CONFIG_FILE, revision=revision))
        commit = config.parent.name  # the cache has a folder for each
        weights = Path(get(WEIGHTS_FILE, revision=commit))
    except Exception as error:  # an unusable proxy alone brings ImportError, ValueError and the client's InvalidURL
        raise CheckpointError(
            f"{repo_id!r} cannot be had from the Hugging Face Hub ({type(error).__name__}: {one_line(error)}). Check "
            f"the name, revision={revision!r}, the token, the network and its proxy; {local_files_only=}."
        ) from error
    if weights.parent != config.parent:
        raise CheckpointError(
            f"{repo_id!r} came in parts of two commits, {commit} and {weights.parent.name}: they may not fit. Load it "
            "again with the commit as the revision."
        )
    return config.parent


def loading_errors() -> tuple[type[Exception], ...]:
    """Return what others raise when the Hub refuses, is out of reach, or gave a damaged file, by any HTTP client."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    client_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])  # also the base of failed connections
    client = sys.modules[client_error.__module__.partition(".")[0]]
    bad_address = getattr(client, "InvalidURL", client_error)  # of a proxy; a SOCKS proxy brings ImportError
    unreachable = (client_error, bad_address, HfHubHTTPError, HFValidationError, OSError, ImportError)
    return (*unreachable, SafetensorError, UnpicklingError, EOFError)


def read_config(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's ``config.json``, of at most ``SIAMMAE_MAX_CONFIG_BYTES``.

    Raises:
        CheckpointError: it is missing, too large, no JSON, or written by a newer format.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {CONFIG_FILE}: it is no siammae checkpoint. Pass a folder that save_pretrained wrote."
        )
    if (size := path.stat().st_size) > (most := bound("SIAMMAE_MAX_CONFIG_BYTES")):
        raise CheckpointError(
            f"{path} has {size:,} bytes: a config has at most {most:,}. {get_again(path)} Or set "
            "SIAMMAE_MAX_CONFIG_BYTES."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also what is no UTF-8, endless numbers, deep nesting
        raise CheckpointError(f"{path} is not valid JSON: {one_line(error)}. {get_again(path)}") from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if not isinstance(version, int) or not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{path} has no format_version and model: it is no siammae checkpoint.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version}, this siammae reads up to {FORMAT_VERSION}. Upgrade siammae."
        )
    if unknown := sorted(set(config) - {"format_version", "model", "propagation"}):
        raise CheckpointError(
            f"{path} has unknown fields {name_some(unknown)}: known are format_version, model, propagation."
        )
    return config  # type: ignore[no-any-return]


def read_weights(folder: Path, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read a checkpoint's ``model.safetensors`` to the CPU, once its header has the network's names and shapes.

    Args:
        folder: of the checkpoint.
        wanted: the network's names and shapes, so that memory is taken for no other.

    Raises:
        CheckpointError: it is missing, damaged or of another network; pickled weights are named but never opened.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
        hint = f" {name_some(pickles)} are pickles, which could run code and are never loaded." if pickles else ""
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}.{hint} Pass a folder that save_pretrained wrote.")
    check_tensors(read_header(path), wanted, source=str(path))
    return read_tensors(path)


def write_checkpoint(folder: PathLike, config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> Path:
    """Write ``config.json``, ``model.safetensors`` and ``README.md``, each under a temporary name first.

    Returns:
        The folder.
    """
    target = Path(folder)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    stored = {"format_version": FORMAT_VERSION, **config}
    # The last one gets its name first, and the config its own last: without it the folder is no checkpoint.
    with ExitStack() as parts:
        for_config, for_card, for_weights = (
            parts.enter_context(whole(target / file)) for file in (CONFIG_FILE, CARD_FILE, WEIGHTS_FILE)
        )
        save_tensors(contiguous, for_weights, {"format": "pt"})
        for_card.write_text(card, encoding="utf-8")
        for_config.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    return target


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no ``owner/name``.

    Raises:
        ValueError: it is none.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is no name of a repository: it must be owner/name.")


def card_for_upload(folder: Path, license: str | None = None) -> str:
    """Return a checkpoint's model card with the licence that others need to use it.

    Args:
        folder: of the checkpoint.
        license: its name on the Hub, such as ``"apache-2.0"``; None = the one that the card has.

    Raises:
        CheckpointError: there is no card, its head is no YAML, or neither says the licence, or both say different ones.
    """
    from huggingface_hub import ModelCard

    path = folder / CARD_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CARD_FILE}: write a model card, or save the model again.")
    try:
        card = ModelCard(path.read_text(encoding="utf-8"))
    except Exception as error:  # of the YAML parser, or the client's own
        raise CheckpointError(
            f"{path} has a head that is no YAML between two lines '---': {one_line(error)}."
        ) from error
    said = card.data.get("license")
    if said is None and license is None:
        raise CheckpointError(f"{path} says no licence: add `license: ...` to its head, or name one (--license).")
    if said is not None and license is not None and said != license:
        raise CheckpointError(f"{path} says {said!r} and you {license!r}: change one of them.")
    if said is None:
        card.data["license"] = license
    return str(card)


def upload(
    folder: Path, repo_id: str, *, private: bool = False, token: str | bool | None = None, card: str | None = None
) -> str:
    """Send a checkpoint folder to the Hugging Face Hub.

    Args:
        folder: of the checkpoint.
        repo_id: ``owner/name``; made if missing.
        private: for a new repository.
        token: None = the one you logged in with.
        card: instead of the folder's own.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the name is none of a repository.
        CheckpointError: the Hub refuses or cannot be reached.
    """
    import huggingface_hub

    check_repo_id(repo_id)
    api = huggingface_hub.HfApi(token=token)
    content = {CARD_FILE: (folder / CARD_FILE).read_bytes() if card is None else card.encode()}
    sources: dict[str, Any] = {**{name: folder / name for name in (CONFIG_FILE, WEIGHTS_FILE)}, **content}
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            [huggingface_hub.CommitOperationAdd(name, source) for name, source in sources.items()],
            commit_message="Upload a siammae checkpoint",
        )
    except Exception as error:  # see _download
        raise CheckpointError(
            f"{repo_id!r} cannot be written on the Hugging Face Hub ({type(error).__name__}: {one_line(error)}). "
            "Log in with `hf auth login` or pass token=..., and check that you may write there."
        ) from error
    return str(commit.commit_url)
