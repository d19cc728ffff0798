"""Features of a whole corpus: what is listed becomes one result a video and a manifest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from siammae.clips.listing import find_clips
from siammae.config import ExtractionConfig
from siammae.corpus.batches import ClipFrames
from siammae.corpus.engines import open_engine
from siammae.corpus.extraction import Say, in_words, require_room
from siammae.corpus.features_work import FOLDER, FeaturesWork
from siammae.corpus.folders import ALL, Share, clear_corpus, hold_settings, hold_share
from siammae.corpus.manifest import load_pyarrow
from siammae.corpus.models import Model, ModelName
from siammae.corpus.packing import bytes_per_frame
from siammae.corpus.principal import PCA_FILE, Components, fit_components
from siammae.corpus.running import CorpusReport, run_corpus
from siammae.corpus.work import BrokenVideoError, Part
from siammae.corpus.writing import load_zarr
from siammae.frames import PathLike, require_reader
from siammae.outputs import claim_files, whole

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
    settings, folder, share = (config or ExtractionConfig()).replace(**changes), Path(output), _share(shard, overwrite)
    if not 0 <= max_failed < 1:
        raise ValueError(f"max_failed is {max_failed}: it must be in [0, 1).")
    name = model if isinstance(model, ModelName) else None
    runner = open_engine(engine, workers=workers, device=name.device if name else "cpu", address=address)
    _require(settings)
    with hold_share(folder, share, (source, name.name if name else model)):
        parts = [Part.of(clip) for clip in find_clips(source, folders=True)]
        if overwrite:
            clear_corpus(folder, (FOLDER, PCA_FILE))
        work = FeaturesWork(folder, model, settings)
        if settings.pca:
            work = FeaturesWork(folder, model, settings, components=_components(work, parts))
        hold_settings(folder, work.settings)
        _announce(work, parts[share.number - 1 :: share.count], say)
        return run_corpus(work, parts, runner, share=share, max_failed=max_failed, progress=progress)


def _share(text: str | None, overwrite: bool) -> Share:
    if text is None:
        return ALL
    if overwrite:
        raise ValueError(
            "a shard and overwriting are both asked for: that would remove what other shards made. Remove the folder "
            "once, before the first of them."
        )
    return Share.parse(text)


def _require(config: ExtractionConfig) -> None:
    """Import what the settings need before anything is done."""
    load_pyarrow()
    require_reader(config.reader)  # type: ignore[arg-type]
    if config.format == "zarr":
        load_zarr()


def _components(work: FeaturesWork, parts: Sequence[Part]) -> Components:
    """Return the principal components of the folder, fitted once, whichever of several jobs comes first."""
    path = work.folder / PCA_FILE
    while not path.exists():
        try:
            with claim_files(path, overwrite=True):
                if not path.exists():
                    fitted = _fit(work, parts)
                    with whole(path) as part:
                        fitted.save(part)
        except BlockingIOError:  # another job fits them
            time.sleep(1)
    return Components.load(path)


def _fit(work: FeaturesWork, parts: Sequence[Part]) -> Components:
    def sample() -> Any:  # noqa: ANN401 -- an iterator of tensors
        for part in _evenly(parts, _VIDEOS):
            with suppress(BrokenVideoError):  # the run will name it
                yield from work.sample(part, _FRAMES)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit_components(sample(), work.config.pca or 0)
    finally:
        torch.set_num_threads(before)


def _evenly(parts: Sequence[Part], count: int) -> Sequence[Part]:
    return [parts[place * len(parts) // min(count, len(parts))] for place in range(min(count, len(parts)))]


def _announce(work: FeaturesWork, parts: Sequence[Part], say: Say | None) -> None:
    """Say how large the results will be, by some of the videos, and refuse a disk that is too small."""
    sizes, shape = [], None
    for part in _evenly(parts, _LOOKED_AT):
        with suppress(BrokenVideoError, OSError, ValueError):
            count = ClipFrames(part.clip, work.config).count()
            batch = next(work.sample(part, 1), None)
            if count and batch is not None:
                shape = (work.config.pca or batch.shape[1], *batch.shape[2:])
                sizes.append(count * bytes_per_frame(shape, work.config))
    if not sizes:
        return
    need = sum(sizes) / len(sizes) * len(parts)
    if say:
        say(
            f"{work.folder} will have about {in_words(need)}: {len(parts)} videos, such as {sizes[0]:,} bytes for the "
            "first one"
        )
    require_room(work.folder, int(need) - _there(work.folder))


def _there(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / FOLDER).rglob("*") if file.is_file())
