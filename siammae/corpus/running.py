"""All videos of a corpus: what is missing is done, what is broken is named, and the manifest says what is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from siammae.clips.skipped import check_share
from siammae.corpus.engines import Engine
from siammae.corpus.folders import ALL, Share
from siammae.corpus.manifest import (
    DONE,
    MANIFEST,
    Progress,
    Record,
    read_manifest,
    write_manifest,
)
from siammae.corpus.work import Outcome, Part, Work
from siammae.errors import printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusReport:
    """What a run did.

    Attributes:
        made: results that are new.
        found: results that were there already.
        failed: why a video has none, by its path.
        frames: of the results that are new.
        seconds: that the run took.
        manifest: where the rows are.
    """

    made: int
    found: int
    failed: Mapping[str, str]
    frames: int
    seconds: float
    manifest: Path


def run_corpus(
    work: Work,
    parts: Sequence[Part],
    engine: Engine,
    *,
    share: Share = ALL,
    max_failed: float = 0.1,
    progress: bool = False,
) -> CorpusReport:
    """Do what is missing of a share, which this process holds, and write its manifest.

    Args:
        work: what is done to each video.
        parts: all videos; the share takes every so manieth of them.
        engine: where.
        share: which of several jobs this is.
        max_failed: part of the videos that may fail, in [0, 1); more stop the run. Above 0 one may always.
        progress: show a bar with videos, frames a second and the time left.

    Raises:
        DatasetError: too many videos failed; names some.
        OSError: results cannot be written.
        WorkerError: a process failed for another reason than its video.
    """
    began = time.perf_counter()
    mine = parts[share.number - 1 :: share.count]
    manifest, journal = share.files(work.folder)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    notes = Progress(journal)
    known = _known(work.folder, notes, share)
    records: dict[str, Record] = {}
    missing = []
    for part in mine:
        record = _still_there(work, part, known.get(part.path))
        if record:
            records[part.path] = record
        else:
            missing.append(_with_content(work, part, known.get(part.path)))
    found, made, frames = len(records), 0, 0
    failed: dict[str, str] = {}
    with _bar(len(mine), found, progress) as bar, closing(_outcomes(engine, work, missing)) as outcomes:
        for record, new in outcomes:
            notes.add(record)
            records[record.path] = record
            if record.status == DONE:
                made, found, frames = made + new, found + (not new), frames + (record.frames or 0) * new
            else:
                failed[record.path] = record.error or ""
                bar.clear()
                logger.warning("%s: %s", printable(record.path), printable(record.error or ""))
                check_share(failed, len(mine), max_failed, what="videos", name="max_failed")
            bar.update()
            bar.set_postfix_str(f"{frames / max(time.perf_counter() - began, 1e-9):.0f} frames/s", refresh=False)
    write_manifest(manifest, [*records.values(), *others(known, records, share)])
    notes.drop()
    return CorpusReport(made, found, failed, frames, time.perf_counter() - began, manifest)


def _outcomes(engine: Engine, work: Work, missing: Sequence[Part]) -> Generator[Outcome, None, None]:
    if missing:
        yield from engine(work, missing)


@contextmanager
def _bar(videos: int, done: int, shown: bool) -> Iterator[Any]:
    with tqdm(total=videos, initial=done, unit="video", disable=not shown) as bar:
        yield bar


def _known(folder: Path, notes: Progress, share: Share) -> dict[str, Record]:
    """Return what earlier runs found out, by path; of a share, what it and runs of all found out."""
    known: dict[str, Record] = {}
    for path in dict.fromkeys((folder / MANIFEST, share.files(folder)[0])):
        if path.is_file():
            known |= {record.path: record for record in read_manifest(path)}
    return known | {record.path: record for record in notes.read()}


def _still_there(work: Work, part: Part, record: Record | None) -> Record | None:
    """Return a video's record if it has a result and has not changed."""
    if record is None or record.status != DONE or record.file is None or not _unchanged(work, part, record):
        return None
    same = record.id == work.id(part, record.checksum or "") and record.file == work.file(record.id or "")
    return record if same and (work.folder / record.file).exists() else None


def _unchanged(work: Work, part: Part, record: Record) -> bool:
    try:
        return record.checksum is not None and work.look(part) == (record.bytes, record.modified)
    except (OSError, ValueError):
        return False  # the work will say what is wrong


def _with_content(work: Work, part: Part, record: Record | None) -> Part:
    """Give a part the checksum that is known of it."""
    return replace(part, content=record.checksum) if record and _unchanged(work, part, record) else part


def others(known: Mapping[str, Record], records: Mapping[str, Record], share: Share) -> Iterable[Record]:
    """Return rows of videos that this run was not given; a video that has moved has a new row instead of its old."""
    if share.count > 1:
        return []
    ids = {record.id for record in records.values()}
    others = (record for path, record in known.items() if path not in records)
    return [record for record in others if record.id not in ids or _exists(record.path)]


def _exists(path: str) -> bool:
    return any(Path(one).exists() for one in (path, path.rpartition("@")[0], path.partition("#")[0]) if one)
