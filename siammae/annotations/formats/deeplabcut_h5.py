"""DeepLabCut H5: the table of its CSV as pandas writes it.

Source: DeepLabCut/DeepLabCut, ``DataFrame.to_hdf(..., key="df_with_missing")`` where it saves labels and predictions.
pandas reads such files by unpickling what is in them, and pickles run code, so what could do that is refused before.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from siammae.annotations.formats.deeplabcut import DEEPLABCUT, Layout, read_layout, write_layout
from siammae.annotations.formats.format import Opening
from siammae.annotations.formats.guards import check_bytes, whole_number
from siammae.annotations.model import Annotations, FrameLabels, Visibility
from siammae.config.bounds import bound

_KEY = "df_with_missing"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CALLS = frozenset(
    {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", "EXT1", "EXT2", "EXT4"}
    | {"PERSID", "BINPERSID"}
)


def _packages() -> tuple[Any, Any]:
    """Return h5py and pandas."""
    try:
        import h5py
        import pandas as pd
        import tables  # noqa: F401 -- pandas needs it and says so at length
    except ImportError as error:
        raise ImportError("DeepLabCut's H5 needs pandas, tables and h5py: pip install siammae[deeplabcut]") from error
    return h5py, pd


def _recognise(path: Path) -> bool:
    if path.suffix.lower() not in (".h5", ".hdf5") or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def _check(path: Path, h5py: Any) -> None:  # noqa: ANN401 -- a module
    """Refuse a file that could run code, lead into other files, or fill the memory.

    Raises:
        ValueError: it could, or is no HDF5.
    """
    unpacked = 0

    def look(name: str, node: Any) -> None:  # noqa: ANN401
        nonlocal unpacked
        if isinstance(node, h5py.Dataset):
            unpacked += node.size * node.dtype.itemsize
            if node.dtype.hasobject and node.attrs.get("PSEUDOATOM", b"object") in (b"object", "object"):
                raise ValueError(f"{path} holds Python objects ({name}), which could run code: it is not read.")
        elif any(not isinstance(node.get(child, getlink=True), h5py.HardLink) for child in node):
            raise ValueError(f"{path} links to other files: it is not read.")
        for attribute, value in node.attrs.items():
            for text in np.atleast_1d(np.asarray(value)).ravel():
                # Such texts, and no others, are pickles to PyTables.
                if isinstance(text, bytes) and text.endswith(b".") and _runs_code(text):
                    raise ValueError(f"{path} has an attribute {attribute} that would run code: it is not read.")

    try:
        with h5py.File(path, "r") as file:
            look("/", file)
            file.visititems(look)
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no HDF5: {str(error).splitlines()[0]}.") from None
    if unpacked > (most := 4 * bound("SIAMMAE_MAX_LABEL_BYTES")):
        raise ValueError(
            f"{path} unpacks to {unpacked:,} bytes: at most {most:,} are read. SIAMMAE_MAX_LABEL_BYTES allows more."
        )


def _runs_code(text: bytes) -> bool:
    """Say whether a text is a pickle that does more than hold numbers, texts and lists, up to where it breaks off."""
    try:
        for opcode, _, _ in pickletools.genops(text):
            if opcode.name in _CALLS:
                return True
    except Exception:  # no pickle, and unpickling would come no further
        return False
    return False


def _read(path: Path, opening: Opening) -> Annotations:
    h5py, pd = _packages()
    check_bytes(path)
    _check(path, h5py)
    try:
        table = pd.read_hdf(path, key=_KEY)
    except Exception as error:  # PyTables and pandas have many
        raise ValueError(f"{path} is no table of DeepLabCut's: {str(error).splitlines()[0][:200]}.") from None
    names = [str(name) for name in getattr(table, "columns", pd.Index([])).names]
    header = {name: [str(cell) for cell in table.columns.get_level_values(name)] for name in names if name != "None"}
    layout = read_layout(header, path)
    values = table.to_numpy(dtype=np.float64, na_value=math.nan)
    if np.isinf(values).any():
        raise ValueError(f"{path} has places that are not finite.")
    rows: dict[int, tuple[str, Any]] = {}
    for place, (label, row) in enumerate(zip(table.index, values, strict=True)):
        index, name = _frame(label, opening, f"{path}, row {place}")
        if index in rows:
            raise ValueError(f"{path} has frame {index} twice.")
        rows[index] = name, row
    return layout.annotations(lambda: _frames(rows, layout), opening)


def _frame(label: object, opening: Opening, place: str) -> tuple[int, str]:
    """Return the index and the image's name of a row: a number, or a path in one piece or in three."""
    if isinstance(label, int | np.integer):
        return whole_number(int(label), "the frame", place), ""
    image = str(label[-1] if isinstance(label, tuple) else label)
    return opening.frame_index(image, place), Path(image.replace("\\", "/")).stem


def _frames(rows: dict[int, tuple[str, Any]], layout: Layout) -> Iterator[FrameLabels]:
    for index, (name, values) in sorted(rows.items()):
        keypoints = layout.keypoints(values.tolist())
        yield FrameLabels(index, keypoints=keypoints, by_person=layout.by_hand or None, name=name)


def _write(path: Path, annotations: Annotations) -> None:
    _, pd = _packages()
    keys, levels = write_layout(annotations)
    missing = np.full((len(annotations.joints), 3), np.nan)
    index, rows = list[int](), list[Any]()
    for frame in annotations:
        tables = []
        for key in keys:
            table = missing.copy()
            if (some := frame.keypoints.get(key)) is not None:
                seen = some.visibility != Visibility.MISSING
                table[seen] = np.column_stack([some.points, some.confidence])[seen]
            tables.append(table.ravel())
        index.append(frame.index)
        rows.append(np.concatenate(tables) if tables else np.zeros(0))
    columns = pd.MultiIndex.from_arrays([*levels.values()], names=[*levels])
    pd.DataFrame(np.array(rows), columns=columns, index=index).to_hdf(path, key=_KEY, mode="w")


DEEPLABCUT_H5 = replace(
    DEEPLABCUT,
    name="deeplabcut-h5",
    title="DeepLabCut H5, of labelling and of analysis",
    recognise=_recognise,
    read=_read,
    write=_write,
    suffix=".h5",
    limits="the file is held in memory; one that holds pickled Python objects is refused.",
)
