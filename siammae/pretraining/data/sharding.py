"""Videos into shards: each is decoded once, shrunk, and kept as encoded frames in tar files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from tqdm import tqdm

from siammae.clips.clip import Clip, Skipped, said
from siammae.clips.listing import find_clips
from siammae.clips.open_clip import OpenClip
from siammae.clips.shards import INDEX_FILE, LAYOUT, PROGRESS_FILE, describe, load_index
from siammae.errors import DatasetError, printable
from siammae.frames import Backend, PathLike, encode_image, require_reader
from siammae.outputs import WAY_OUT, whole

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """How videos become shards.

    Attributes:
        short_side: frames are shrunk to this short side in pixels; None keeps them.
        quality: of JPEGs, 1 to 95.
        format: ``"jpg"``, or ``"png"``, which keeps every pixel.
        step: every step-th frame is kept, from the first.
        shard_mb: a tar is finished by the clip with which it exceeds this size, in MiB.
        reader: decodes the videos.

    Raises:
        ValueError: a field is out of range.
    """

    short_side: int | None = 256
    quality: int = 90
    format: Literal["jpg", "png"] = "jpg"
    step: int = 1
    shard_mb: float = 500
    reader: Backend = "auto"

    def __post_init__(self) -> None:
        rules = (
            ("short_side", self.short_side is None or self.short_side >= 1, "at least 1, or None"),
            ("quality", 1 <= self.quality <= 95, "1 to 95"),
            ("format", self.format in ("jpg", "png"), "'jpg' or 'png'"),
            ("step", self.step >= 1, "at least 1"),
            ("shard_mb", self.shard_mb > 0, "above 0"),
        )
        for name, good, allowed in rules:
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be {allowed}.")


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What was written.

    Attributes:
        clips: clips in the shards.
        shards: tar files.
        skipped: clips that could not be read, with the reasons.
    """

    clips: int
    shards: int
    skipped: tuple[Skipped, ...]


def write_shards(
    source: PathLike,
    output: PathLike,
    settings: ShardSettings | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> ShardReport:
    """Write the clips of a source as shards, from which training reads any frame by itself.

    A tar appears whole or not at all, and ``index.json`` when all are there; run again, an interrupted call goes on
    after the last whole tar. Same source and settings give the same bytes, however often it was interrupted. The
    encoded frames of some clips are held in memory, so cut very long videos by a ``.csv``.

    Args:
        source: as for :func:`siammae.clips.listing.find_clips`, but no shards.
        output: folder for the shards.
        settings: None = the defaults.
        workers: clips that are decoded at once, in threads; None = as many as there are CPUs.
        overwrite: begin anew where there are shards already; those of siammae's are deleted.
        progress: show a bar.

    Returns:
        What was written, by this call and by those it goes on with.

    Raises:
        FileNotFoundError, ValueError: as for ``find_clips``; or ``output`` holds shards of other clips or settings.
        DatasetError: not one clip can be read.
        ImportError: the reader is not installed.
    """
    settings = settings or ShardSettings()
    clips = find_clips(source)
    if any(clip.kind == "shard" for clip in clips):
        raise ValueError(f"{source} holds shards already: pass videos or images.")
    require_reader(settings.reader)
    threads = workers or os.cpu_count() or 1
    with _Writer(Path(output), clips, settings, overwrite=overwrite) as writer:
        if writer.finished:
            return writer.report()
        todo = clips[writer.handled :]
        bar = tqdm(total=len(clips), initial=writer.handled, desc="shard", unit="clip", disable=not progress)
        with bar, ThreadPoolExecutor(threads) as pool:
            for result in _ahead(pool, lambda clip: _encode(clip, settings), todo, 2 * threads):
                writer.add(result)
                bar.update()
                bar.set_postfix(skipped=len(writer.skipped))
        writer.finish()
        return writer.report()


def _ahead(pool: ThreadPoolExecutor, work: Callable[[_T], _R], items: Iterable[_T], ahead: int) -> Iterator[_R]:
    """Yield results in order, while the next ones are made."""
    waiting: deque[Future[_R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Encoded:
    numbers: Sequence[int]  # of the kept frames
    data: Sequence[bytes]
    description: Mapping[str, Any]


def _encode(clip: Clip, settings: ShardSettings) -> _Encoded | Skipped:
    """Decode a clip to its end and encode every step-th frame."""
    numbers: list[int] = []
    data: list[bytes] = []
    sizes: list[tuple[int, ...]] = []
    length = 0
    try:
        with OpenClip(clip, settings.reader, settings.short_side) as opened:
            count, rate = opened.count, opened.frame_rate
            for number, frame in opened.every_frame():
                length = number + 1
                if number % settings.step == 0:
                    sizes.append(frame.shape[:2])
                    numbers.append(number)
                    data.append(encode_image(frame, settings.format, quality=settings.quality))
    except (OSError, ValueError) as error:  # VideoReadError is an OSError
        return Skipped(clip.name, said(error))
    if len(set(sizes)) != 1:
        reason = f"the frame size changes: {sorted(set(sizes))}." if sizes else "it holds no frames."
        return Skipped(clip.name, reason)
    details = describe(
        clip.name, frame_rate=rate, count=count, length=length, step=settings.step, size=sizes[0], data=data
    )
    return _Encoded(numbers, data, details)


class _Writer:
    """The tars of a folder, one after the other, and what is in them."""

    def __init__(self, folder: Path, clips: Sequence[Clip], settings: ShardSettings, *, overwrite: bool) -> None:
        self._folder, self._settings, self._total = folder, settings, len(clips)
        names = "\n".join(clip.name for clip in clips)
        self._origin = {
            "layout": LAYOUT,
            "settings": dataclasses.asdict(settings),
            "sources": len(clips),
            "names": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
        }
        self._shards: list[dict[str, Any]] = []
        self.handled, self.skipped, self.finished = 0, list[Skipped](), False
        self._tar: tarfile.TarFile | None = None
        self._open = ExitStack()  # of that tar
        self._clips: list[tuple[str, int]] = []  # of the open tar
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            self._clear()
        self._go_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop a tar that was not finished."""
        self._open.__exit__(kind, error, trace)

    def _clear(self) -> None:
        """Delete shards of siammae's, which an index of its own names."""
        for path in (self._folder / name for name in (INDEX_FILE, PROGRESS_FILE)):
            if not path.is_file():
                continue
            if (before := load_index(path)).get("layout") != LAYOUT:
                raise ValueError(f"{path} is not of siammae's shards: choose another output, or move it away.")
            for shard in before.get("shards", ()):
                if re.fullmatch(r"clips-\d{6}\.tar", shard["file"]):
                    (self._folder / shard["file"]).unlink(missing_ok=True)
            path.unlink()

    def _go_on(self) -> None:
        for name in (INDEX_FILE, PROGRESS_FILE):
            path = self._folder / name
            if not path.is_file():
                continue
            before = load_index(path)
            changed = sorted(key for key, value in self._origin.items() if before.get(key) != value)
            if changed:
                raise ValueError(
                    f"{self._folder} holds shards of other {' and '.join(changed)} ({path}) already: {WAY_OUT}"
                )
            try:
                self._shards, self.handled = list(before["shards"]), int(before["handled"])
                self.skipped = [Skipped(*one) for one in before["skipped"]]
            except (ValueError, LookupError, TypeError) as error:
                raise DatasetError(f"{path} is damaged ({error!r}): delete it and shard again.") from error
            self.finished = name == INDEX_FILE
            return
        if strangers := sorted(self._folder.glob("*.tar")):
            raise ValueError(f"{self._folder} holds {strangers[0].name}, which is no shard of siammae's. Pass another.")

    def add(self, result: _Encoded | Skipped) -> None:
        """Take the next clip."""
        self.handled += 1
        if isinstance(result, Skipped):
            self.skipped.append(result)
            return
        if (tar := self._tar) is None:
            part = self._open.enter_context(whole(self._folder / self._name))
            tar = tarfile.open(part, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 -- closed with the stack
            self._tar = self._open.enter_context(tar)
        key = f"{self.handled - 1:08d}"
        self._clips.append((str(result.description["name"]), int(tar.offset)))
        _put(tar, f"{key}.json", json.dumps(result.description).encode())
        for number, data in zip(result.numbers, result.data, strict=True):
            _put(tar, f"{key}.{number:06d}.{self._settings.format}", data)
        if tar.offset > self._settings.shard_mb * 2**20:
            self._close_tar()
            self._write(PROGRESS_FILE)

    def finish(self) -> None:
        """Close the last tar and write the index."""
        if self._tar is not None:
            self._close_tar()
        if not self._shards:
            some = "".join(f"\n  {printable(name)}: {reason}" for name, reason in self.skipped[:5])
            raise DatasetError(f"none of the {self._total} clips can be read:{some}")
        self._write(INDEX_FILE)
        (self._folder / PROGRESS_FILE).unlink(missing_ok=True)

    def report(self) -> ShardReport:
        """Say what is there."""
        return ShardReport(sum(len(s["clips"]) for s in self._shards), len(self._shards), tuple(self.skipped))

    @property
    def _name(self) -> str:
        return f"clips-{len(self._shards):06d}.tar"

    def _close_tar(self) -> None:
        if self._tar is not None:
            if not self._shards:  # killed from here on, the next run must know whose the first tar is
                self._write(PROGRESS_FILE, begun=False)
            self._open.close()
            self._shards.append({"file": self._name, "clips": self._clips})
            self._tar, self._clips = None, []

    def _write(self, name: str, *, begun: bool = True) -> None:
        handled, skipped = (self.handled, self.skipped) if begun else (0, [])
        content = {**self._origin, "handled": handled, "skipped": skipped, "shards": self._shards}
        with whole(self._folder / name) as part:
            part.write_text(json.dumps(content), encoding="utf-8")


def _put(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, BytesIO(data))
