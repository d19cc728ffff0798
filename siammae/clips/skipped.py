"""Clips that could not be read: named once, counted, and too many of them stop the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from siammae.clips.clip import Skipped
from siammae.errors import DatasetError, printable
from siammae.frames import PathLike
from siammae.outputs import whole

logger = logging.getLogger(__name__)

SKIPPED_FILE = "skipped.txt"
_NAMED = 5


class SkippedClips:
    """What a process has seen of skipped clips; a clip counts once, however often it is met.

    Args:
        total: number of all clips.
        max_skipped: part of them that may be skipped, in [0, 1).
        report: file that gets a line ``name <tab> reason`` for each, anew in each sitting; control characters in either
            are escaped. None writes none.
    """

    def __init__(self, total: int, max_skipped: float, report: PathLike | None = None) -> None:
        self._total, self._max_skipped = total, max_skipped
        self._report = None if report is None else Path(report)
        self._reasons: dict[str, str] = {}
        if self._report is not None:
            self._report.unlink(missing_ok=True)

    @property
    def reasons(self) -> dict[str, str]:
        """Why each clip could not be read, by its name, in the order they were met."""
        return dict(self._reasons)

    def add(self, skipped: Iterable[Skipped]) -> None:
        """Take the clips that a batch had to do without: log and report the new ones.

        Raises:
            DatasetError: more than ``max_skipped`` of all clips are skipped by now.
        """
        for name, reason in self.learn(skipped).items():
            logger.warning("skipping %s: %s", printable(name), reason)
        check_share(self._reasons, self._total, self._max_skipped)

    def learn(self, skipped: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Take skipped clips that other processes have named already; return the new ones among them."""
        new = {name: printable(" ".join(reason.split())) for name, reason in skipped if name not in self._reasons}
        self._reasons |= new
        if new and self._report is not None:
            with whole(self._report) as part:
                lines = (f"{printable(name)}\t{why}\n" for name, why in self._reasons.items())
                part.write_text("".join(lines), encoding="utf-8")
        return new


def check_share(
    reasons: dict[str, str], total: int, max_skipped: float, *, what: str = "clips", name: str = "max_skipped"
) -> None:
    """Refuse to go on with too many skipped clips.

    Args:
        reasons: why each clip could not be read, by its name.
        total: number of all clips.
        max_skipped: part of them that may be skipped; above 0 it allows one at least, of a few clips, but never all.
        what: they are, for the message.
        name: of the setting, likewise.

    Raises:
        DatasetError: there are more; the message names some of them.
    """
    allowed = min(max(1.0, max_skipped * total), total - 1) if max_skipped else 0
    if len(reasons) <= allowed:
        return
    some = "".join(f"\n  {printable(name)}: {reason}" for name, reason in list(reasons.items())[:_NAMED])
    more = f"\n  and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    raise DatasetError(
        f"{len(reasons)} of {total} {what} cannot be read, more than the share {name}={max_skipped:g} allows. "
        f"Repair or remove them, or raise {name}:{some}{more}"
    )
