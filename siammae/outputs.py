"""How results are written: whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name for a file or folder; what was made there gets its own name once the block has ended well.

    Yields:
        A path in a hidden folder beside ``path``; nothing is there yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        yield part
        part.rename(path)
