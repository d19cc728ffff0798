"""Features of a whole corpus: what is listed becomes one result a video and a manifest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from siammae.clips.listing import find_clips
from siammae.config import ExtractionConfig
from siammae.corpus.batches import ClipFrames, encode
from siammae.corpus.engines import open_engine, usual_workers
from siammae.corpus.engines.choosing import one_thread
from siammae.corpus.extraction import Say, in_words, require_room
from siammae.corpus.features_work import FOLDER, FeaturesWork, Sampler
from siammae.corpus.folders import Share, clear_corpus, hold_settings, hold_share
from siammae.corpus.manifest import load_pyarrow
from siammae.corpus.models import Model, ModelName
from siammae.corpus.packing import bytes_per_frame
from siammae.corpus.principal import PCA_FILE, Components, Moments, fit_components
from siammae.corpus.running import CorpusReport, run_corpus
from siammae.corpus.work import Part
from siammae.corpus.writing import load_zarr
from siammae.frames import PathLike, require_reader
from siammae.outputs import claim_files, whole
from siammae.parallel.processes import each_in_processes

_VIDEOS, _FRAMES = 64, 4  # of the sample to which principal components are fitted
_LOOKED_AT = 32  # videos from which the size of the result is told


def extract_corpus(
    source: PathLike,
    output: PathLike,
    *,
    model: Model = "siammae-ti8",
    config: ExtractionConfig | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    shard: str | None = None,
    max_failed: float = 0.1,
    overwrite: bool = False,
    progress: bool = False,
    say: Say | None = None,
    **changes: Any,  # noqa: ANN401 -- fields of the settings
) -> CorpusReport:
    """Extract features of many videos: one file each, and ``manifest.parquet`` with a row each.

    A second run does what is missing: results are named after the content of their video and the settings, so that
    moved videos are recognised. A folder holds results of one model and one set of rules.

    Args:
        source: a folder of videos, or where it holds none, of folders of images, each a video; a ``.txt`` list; a
            ``.csv`` table of cuts with the header ``path,start,stop``; shards of ``siammae shard``; or one video.
        output: folder of the results.
        model: an extractor, or the name of one.
        config: which frames, what of them, how it is stored.
        engine: ``"local"`` or ``"ray"``.
        workers: see :func:`siammae.corpus.engines.open_engine`; 1 = this process.
        address: of a running Ray cluster.
        shard: ``"I/N"`` does part I of N; :func:`siammae.corpus.merging.merge_shares` makes one manifest of all.
        max_failed: part of the videos that may be unreadable, in [0, 1); more stop the run. Above 0 one may always.
        overwrite: whether results of other settings may be removed first.
        progress: show a bar.
        say: called with the size that the results will have, before the work.
        **changes: fields of :class:`siammae.ExtractionConfig`, instead of ``config`` or on top of it.

    Returns:
        How many were made, found and failed, with reasons.

    Raises:
        FileNotFoundError, ValueError: the source, a setting or the output is refused.
        DatasetError: too many videos failed.
        OSError: the disk is too small for what is expected, said before the work, or it is full.
        ImportError: pyarrow, zarr or Ray is not installed.
    """
    settings, folder = (config or ExtractionConfig()).replace(**changes), Path(output)
    share = Share.chosen(shard, overwrite=overwrite)
    if not 0 <= max_failed < 1:
        raise ValueError(f"max_failed is {max_failed}: it must be in [0, 1).")
    name = model if isinstance(model, ModelName) else None
    device = name.device if name else str(getattr(model, "device", "cpu"))
    runner = open_engine(engine, workers=workers, device=device, address=address)
    _require(settings)
    with hold_share(folder, share, (source, name.name if name else model)):
        parts = [Part.of(clip) for clip in find_clips(source, folders=True)]
        if overwrite:
            clear_corpus(folder, (FOLDER, PCA_FILE))
        work = FeaturesWork(folder, model, settings)
        if settings.pca:
            work = FeaturesWork(
                folder, model, settings, components=_components(work, parts, workers or usual_workers(device))
            )
        hold_settings(folder, work.settings)
        _announce(work, parts[share.number - 1 :: share.count], say)
        return run_corpus(work, parts, runner, share=share, max_failed=max_failed, progress=progress)


def _require(config: ExtractionConfig) -> None:
    """Import what the settings need before anything is done."""
    load_pyarrow()
    require_reader(config.reader)  # type: ignore[arg-type]
    if config.format == "zarr":
        load_zarr()


def _components(work: FeaturesWork, parts: Sequence[Part], workers: int) -> Components:
    """Return the principal components of the folder, fitted once, whichever of several jobs comes first."""
    path = work.folder / PCA_FILE
    while not path.exists():
        try:
            with claim_files(path, overwrite=True):
                if not path.exists():
                    fitted = _fit(work, parts, workers)
                    with whole(path) as part:
                        fitted.save(part)
        except BlockingIOError:  # another job fits them
            time.sleep(1)
    return Components.load(path)


def _fit(work: FeaturesWork, parts: Sequence[Part], workers: int) -> Components:
    """Fit to some videos: in processes, as the work is, so that a decoder's crash is that of one of them."""
    sampler, some = Sampler(work, _FRAMES), _evenly(parts, _VIDEOS)
    if workers == 1:
        with one_thread():
            sums = {place: sampler(part, lambda: None) for place, part in enumerate(some)}
    else:
        sums = dict(each_in_processes(sampler, some, workers=min(workers, len(some)), lost=_nothing))
    total: Moments | None = None
    for place in sorted(sums):  # in one order, or the last bits would depend on it
        if (one := sums[place]) is not None:
            total = one.plus(total)
    return fit_components(total, work.config.pca or 0)


def _nothing(part: Part) -> Moments | None:
    return None


def _evenly(parts: Sequence[Part], count: int) -> Sequence[Part]:
    return [parts[place * len(parts) // min(count, len(parts))] for place in range(min(count, len(parts)))]


def _announce(work: FeaturesWork, parts: Sequence[Part], say: Say | None) -> None:
    """Say how large the results will be, by some of the videos, and refuse a disk that is too small."""
    sizes: list[int] = []
    shapes: dict[tuple[int, int], tuple[int, ...]] = {}
    for part in _evenly(parts, _LOOKED_AT):
        with suppress(OSError, ValueError):
            source = ClipFrames(part.clip, work.config)
            count, size = source.count(), source.size()
            if size not in shapes:
                shapes[size] = _shape(work, size)
            sizes.append((count or 0) * bytes_per_frame(shapes[size], work.config))
    if not sizes:
        return
    need = sum(sizes) / len(sizes) * len(parts)
    if say:
        each = f"{len(parts)} videos of {in_words(need / len(parts))}, by {len(sizes)} of them"
        say(f"{work.folder} will have about {in_words(need)}: {each}")
    require_room(work.folder, int(need) - _there(work.folder))


def _shape(work: FeaturesWork, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of a stored frame's features, by those of a black one."""
    black = np.zeros((1, *size, 3), np.uint8)
    shape = tuple(next(encode(black, work.model, work.config)).shape[1:])
    return shape if work.config.pca is None else (work.config.pca, *shape[1:])


def _there(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / FOLDER).rglob("*") if file.is_file())
