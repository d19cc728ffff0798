"""Tables and lists that people write: what is wrong in one is said with the file and, where it has one, the line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

Row = Mapping[str, str | None]  # the cells of a line by their columns, None where it ends before


def list_lines(path: Path, *, errors: str = "strict") -> list[str]:
    """Return the lines of a text file, without their ends.

    Args:
        path: of the file.
        errors: as of :func:`open`; ``"surrogateescape"`` for names of files, which may be of any bytes.

    Raises:
        ValueError: it is no UTF-8.
        OSError: it cannot be read.
    """
    try:
        return [line.rstrip("\r") for line in path.read_text(encoding="utf-8-sig", errors=errors).split("\n")]
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error


def table_rows(
    path: Path, required: Sequence[str], header: str, *, known: Sequence[str] = (), errors: str = "strict"
) -> Iterator[tuple[str, Row]]:
    """Yield every row of a table by its columns, with its place for messages; blank lines are left out.

    Args:
        path: of the file.
        required: columns that must be there; these and the ``known`` ones may be there only once.
        header: what the first line should be, for messages.
        known: further columns that are read where they are there.
        errors: see :func:`list_lines`.

    Raises:
        ValueError: a column is missing or there twice, a line has more values than there are columns, or the file is
            no CSV in UTF-8; the message names the line.
        OSError: the file cannot be read.
    """
    lines = _lines(path, errors)
    columns = [cell.strip().lower() for cell in next(lines, ("", []))[1]]
    if missing := [name for name in required if name not in columns]:
        found = ",".join(columns) or "nothing"
        raise ValueError(f"{path} has no column {missing[0]}: the first line must be {header}, but is {found}.")
    if repeated := [name for name in (*required, *known) if columns.count(name) > 1]:
        raise ValueError(f"{path} has the column {repeated[0]} twice: the first line must be {header}.")
    for place, cells in lines:
        if len(cells) > len(columns):
            raise ValueError(
                f"{place} has {len(cells)} values for the {len(columns)} columns {','.join(columns)}: write numbers "
                "with a point, as 1.5, and put quotes around a text with a comma."
            )
        yield place, dict(zip_longest(columns, cells))


def _lines(path: Path, errors: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the cells of every line that is not blank, with its place; an error in the text names the place too."""
    with path.open(newline="", encoding="utf-8-sig", errors=errors) as file:
        reader = csv.reader(
            file, strict=True, skipinitialspace=True
        )  # else an open quote swallows all lines that follow
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield f"{path}, line {reader.line_num}", cells
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num} cannot be read as a table: {error}.") from error
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from error


def _not_utf8(path: Path, error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"{path} is no UTF-8 text ({error.reason}): save it as UTF-8.")
