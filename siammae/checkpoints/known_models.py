"""Public checkpoints that siammae can use, from one data file."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "known_models.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """What is known of a public checkpoint; nothing was measured by us.

    Attributes:
        name: for ``model=`` and ``--model`` where it is bundled or begins with ``timm/``; else what it is.
        family: who made it, or how.
        patch_size: pixels on a side of a patch.
        parameters: of the encoder, in millions; None where we have not seen.
        license: of the weights, lower case; ``"unknown"`` where we have not seen it.
        gate: whether a download needs a form or an account: ``"no"``, ``"yes"`` or ``"unknown"``.
        load: how to get and use it.
        davis_2017_val: published J&F in percent; None where we know of none that we could check.
        vip_val: published mIoU of human parts in percent, or None.
        jhmdb_test: published PCK@0.1 in percent, or None.
        source: of these scores. Rules and input sizes differ between sources.
    """

    name: str
    family: str
    patch_size: int
    license: str
    gate: str
    load: str
    parameters: float | None = None
    davis_2017_val: float | None = None
    vip_val: float | None = None
    jhmdb_test: float | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON-ready values."""
        return asdict(self)


def known_models() -> tuple[KnownModel, ...]:
    """Return the public checkpoints that ``siammae models`` lists, in its order.

    Example:
        >>> import siammae
        >>> [model.name for model in siammae.known_models() if model.family == "RSP"]
        ['RSP ViT-S/16, K400, 400 epochs', 'RSP ViT-B/16, K400, 400 epochs']
    """
    with _FILE.open("rb") as file:
        return tuple(KnownModel(**values) for values in tomllib.load(file)["model"])
