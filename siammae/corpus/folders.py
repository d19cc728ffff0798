"""A folder of results: whose settings it holds, and which of several jobs writes what in it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siammae.corpus.manifest import MANIFEST, PROGRESS, differences
from siammae.outputs import WAY_OUT, hold_folder, whole

SETTINGS = "settings.json"
PARTS = "parts"
_LAYOUT = "siammae corpus 1"


@dataclass(frozen=True, slots=True)
class Share:
    """Which of several jobs this is.

    Attributes:
        number: from 1.
        count: of all.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``3/8``.

        Raises:
            ValueError: it is something else.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"the shard is {text!r}: it must be I/N, part I of N, from 1/N to N/N.")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def chosen(cls, text: str | None, *, overwrite: bool) -> Share:
        """Read an option; None is all.

        Raises:
            ValueError: it is something else, or what other shares made would be removed.
        """
        if text is None:
            return ALL
        if overwrite:
            raise ValueError(
                "a shard and overwriting are both asked for: that would remove what other shards made. Remove the "
                "folder once, before the first of them."
            )
        return cls.parse(text)

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Return where the manifest and the progress of this share are."""
        if self.count == 1:
            return folder / MANIFEST, folder / PROGRESS
        name = f"{self.number}-of-{self.count}"
        return folder / PARTS / f"{name}.parquet", folder / PARTS / f"{name}.jsonl"


ALL = Share()


def hold_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """See to it that a folder holds results of these settings only.

    Raises:
        ValueError: it holds those of others, or of another program.
    """
    path = folder / SETTINGS
    wanted = {"layout": _LAYOUT, **settings}
    if path.is_file():
        if (there := _read_settings(path)) is None:
            raise ValueError(f"{path} is not of siammae's features: choose another output.")
        if changed := differences(there, wanted):
            raise ValueError(
                f"{folder} holds results of other settings ({', '.join(changed)}), and settings do not mix: {WAY_OUT}"
            )
        return
    with whole(path) as part:
        part.write_text(json.dumps(wanted, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def hold_share(folder: Path, share: Share, inputs: Sequence[object]) -> Iterator[None]:
    """Hold what this run writes alone: the folder, or its share's place in it, so that jobs can work side by side.

    Raises:
        ValueError: the folder is a file or an input.
        BlockingIOError: another run holds it.
    """
    if share.count == 1:
        with hold_folder(folder, inputs=inputs):
            yield
        return
    if any(isinstance(one, str | os.PathLike) and os.path.realpath(one) == os.path.realpath(folder) for one in inputs):
        raise ValueError(f"{folder} is an input, and inputs are never overwritten. Choose another output.")
    with hold_folder(folder / PARTS / f"{share.number}-of-{share.count}", inputs=inputs):
        yield


def clear_corpus(folder: Path, names: Sequence[str]) -> None:
    """Remove what earlier runs left in a folder that this one holds: their settings, manifests and results.

    Args:
        folder: of the corpus.
        names: of files and folders that hold results; settings and manifests go in any case.

    Raises:
        ValueError: the folder's settings are another program's.
    """
    if not (folder / SETTINGS).exists():
        return
    if _read_settings(folder / SETTINGS) is None:
        raise ValueError(f"{folder / SETTINGS} is not of siammae's features: choose another output.")
    for name in (*names, MANIFEST, PROGRESS, PARTS, SETTINGS):  # the settings last: until then they say whose all is
        place = folder / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _read_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings of a corpus, None where they are another program's."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return there if isinstance(there, dict) and there.get("layout") == _LAYOUT else None
