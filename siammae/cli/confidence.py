"""How sure masks are: written while they pass, and the frame to annotate next."""

from __future__ import annotations

import csv
from array import array
from contextlib import ExitStack
from typing import TYPE_CHECKING

from siammae.outputs import whole

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from siammae.propagation.labels import FrameMasks

_WORTHWHILE = 0.02  # of mean confidence that a mask more is expected to bring


class Confidence:
    """How sure results are, noted while they pass.

    Args:
        path: of a CSV; None writes none.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self.means = array("f")  # of each frame

    def noted(self, results: Iterator[FrameMasks]) -> Iterator[FrameMasks]:
        """Pass results on; the file appears at their end."""
        with ExitStack() as stack:
            rows = None
            if self._path is not None:
                part = stack.enter_context(whole(self._path))
                rows = csv.writer(stack.enter_context(part.open("w", newline="", encoding="utf-8")))
                rows.writerow(["frame", "object", "confidence"])
            for result in results:
                sure = result.confidence
                self.means.append(sure.mean())
                if rows:
                    pairs = zip(result.object_ids, sure, strict=True)
                    rows.writerows([result.frame_index, object_id, f"{value:.3f}"] for object_id, value in pairs)
                yield result

    def lines(self, annotated: Collection[int]) -> list[str]:
        """Say where the file is, and which frame to annotate next if that promises much."""
        import numpy as np

        from siammae.propagation.suggestion import expected_gain

        lines = [f"confidence: {self._path}"] if self._path is not None else []
        gain = expected_gain(np.array(self.means), annotated)
        frame = int(gain.argmax())
        if gain[frame] >= _WORTHWHILE * len(gain):
            sure = f"confidence {self.means[frame]:.2f}"
            lines.append(f"a mask of frame {frame} would help most ({sure}): --mask {frame}=PNG")
        return lines
