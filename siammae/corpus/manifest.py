"""What is there: one row a video, as Parquet; and the rows of a run that goes on, line by line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from siammae.outputs import whole
from siammae.outputs.temporary import naming

logger = logging.getLogger(__name__)

MANIFEST, PROGRESS = "manifest.parquet", "progress.jsonl"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the manifest; what does not apply or is not known is None.

    Attributes:
        id: of content and settings.
        path: absolute, ``PATH@START-STOP`` for a cut in seconds, ``TAR#NAME`` for a clip in a shard.
        status: ``"done"`` or ``"failed"``.
        error: why it failed.
        file: the result, relative to the manifest.
        bytes: of the video's file.
        modified: when it was changed last, in nanoseconds since 1970; with size and path it tells that it need not be
            read again.
        checksum: SHA-256 of the content.
        frames: stored.
        rate: of the video, frames per second.
        height: of its frames, in pixels.
        width: likewise.
        channels: of the stored features.
        rows: of patches; 0 for pooled features.
        columns: likewise.
        model: its name.
        revision: of the Hub.
        weights: SHA-256 of its tensors.
        dtype: of the weights.
        rules: the settings, as JSON.
        seconds: that it took; None where the result was there already.
    """

    id: str | None
    path: str
    status: str
    error: str | None = None
    file: str | None = None
    bytes: int | None = None
    modified: int | None = None
    checksum: str | None = None
    frames: int | None = None
    rate: float | None = None
    height: int | None = None
    width: int | None = None
    channels: int | None = None
    rows: int | None = None
    columns: int | None = None
    model: str | None = None
    revision: str | None = None
    weights: str | None = None
    dtype: str | None = None
    rules: str | None = None
    seconds: float | None = None


_COLUMNS = {field.name: str(field.type).split(" |")[0] for field in fields(Record)}


def load_pyarrow() -> Any:  # noqa: ANN401 -- a module
    """Import pyarrow.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('manifests of many videos need pyarrow: pip install "siammae[corpus]".') from error
    return pyarrow


def write_manifest(path: Path, records: Iterable[Record]) -> None:
    """Write a manifest, its rows in the order of their paths.

    Raises:
        ImportError: pyarrow is not installed.
        OSError: it cannot be written.
    """
    pa = load_pyarrow()
    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in _COLUMNS.items()])
    rows = [_printed(asdict(record)) for record in sorted(records, key=lambda record: record.path)]
    with whole(path) as part, naming(path):
        pa.parquet.write_table(pa.Table.from_pylist(rows, schema), part)


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    """Write bytes of file names that are no UTF-8 as escapes: Parquet has no others."""
    return {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def read_manifest(path: Path) -> list[Record]:
    """Read a manifest.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or another program's.
    """
    pa = load_pyarrow()
    if not path.is_file():
        raise FileNotFoundError(f"no manifest at {path}: a folder of features has one once siammae extract has ended.")
    try:
        rows = pa.parquet.read_table(path, columns=list(_COLUMNS), memory_map=False).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"{path} is no manifest of siammae's, or damaged ({error}): extract again.") from error
    return [Record(**row) for row in rows]


class Progress:
    """Records of a run, each written as soon as it is there, so that a run that is killed goes on.

    Args:
        path: of the file, one JSON object a line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Iterator[Record]:
        """Yield what is there; a line that a kill cut off is left out."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            try:
                yield Record(**json.loads(line))
            except (ValueError, TypeError):
                logger.warning("%s: a line that was cut off is left out", self._path)

    def add(self, record: Record) -> None:
        """Append a record."""
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def drop(self) -> None:
        """Remove the file: its records are in the manifest."""
        self._path.unlink(missing_ok=True)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name what differs between two settings, as ``rules.layer``."""
    names = []
    for name in sorted({*one, *other}):
        a, b = one.get(name), other.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += [f"{name}.{deeper}" for deeper in differences(a, b)]
        elif a != b:
            names.append(name)
    return names
