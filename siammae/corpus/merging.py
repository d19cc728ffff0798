"""One manifest of those that several jobs wrote."""

from __future__ import annotations

import re
import time
from pathlib import Path

from siammae.corpus.folders import PARTS, Share
from siammae.corpus.manifest import DONE, MANIFEST, read_manifest, write_manifest
from siammae.corpus.running import CorpusReport, others
from siammae.errors import name_some
from siammae.outputs import hold_folder

_PART_NAME = re.compile(r"(\d+)-of-(\d+)\.(parquet|jsonl)")


def merge_shares(folder: Path) -> CorpusReport:
    """Make one manifest of those of all shares.

    Raises:
        ValueError: shares are missing, unfinished, or of different numbers.
        FileNotFoundError: there are none.
    """
    began = time.perf_counter()
    with hold_folder(folder):
        shares = _finished_shares(folder)
        known = {record.path: record for record in read_manifest(folder / MANIFEST)} if _has_manifest(folder) else {}
        records = {record.path: record for share in shares for record in read_manifest(share.files(folder)[0])}
        write_manifest(folder / MANIFEST, [*records.values(), *others(known, records, Share())])
        for share in shares:
            share.files(folder)[0].unlink()
        (folder / PARTS).rmdir()
    failed = {record.path: record.error or "" for record in records.values() if record.status != DONE}
    found = len(records) - len(failed)
    return CorpusReport(0, found, failed, 0, time.perf_counter() - began, folder / MANIFEST)


def _has_manifest(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _finished_shares(folder: Path) -> list[Share]:
    names = [entry.name for entry in (folder / PARTS).iterdir()] if (folder / PARTS).is_dir() else []
    found = [match for match in map(_PART_NAME.fullmatch, names) if match]
    if not found:
        raise FileNotFoundError(f"no manifests of shares in {folder / PARTS}: run siammae extract --shard I/N first.")
    if len(counts := {int(one[2]) for one in found}) > 1:
        raise ValueError(f"{folder / PARTS} has shares of {sorted(counts)}: finish those of one number, remove others.")
    shares = [Share(number, counts.copy().pop()) for number in range(1, counts.copy().pop() + 1)]
    unfinished = [f"{one.number}/{one.count}" for one in shares if not one.files(folder)[0].is_file()]
    unfinished += [f"{one.number}/{one.count}" for one in shares if all(file.is_file() for file in one.files(folder))]
    if unfinished:
        raise ValueError(f"{folder} lacks the shares {name_some(unfinished)}: run --shard with them, they go on.")
    return shares
