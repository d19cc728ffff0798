"""One video's features into one file, written while the video is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from siammae.config import ExtractionConfig
from siammae.corpus.batches import chosen, encode, options_of
from siammae.corpus.models import Model, describe_model, load_model
from siammae.corpus.packing import bytes_per_frame, pack
from siammae.corpus.principal import Components, Moments, fit_components
from siammae.corpus.writing import load_zarr, open_writer
from siammae.features import FeatureExtractor
from siammae.frames import Backend, PathLike, VideoSource, count_frames, frame_rate, read_frames
from siammae.outputs import claim_files, claim_folder, whole
from siammae.outputs.temporary import scratch_folder

_SAMPLE = 64  # frames of one video to which principal components are fitted
_ZARR_FILES = r"zarr\.json|(features|scale)/.*"
Say = Callable[[str], object]


class Extracted(NamedTuple):
    """What was written.

    Attributes:
        path: of the file, or zarr folder.
        frames: how many.
        shape: of a frame's stored features, ``(C, h, w)`` or ``(C,)``.
        size: of the video's frames, ``(H, W)``.
        rate: frames per second of the video, None where it is not told.
    """

    path: Path
    frames: int
    shape: tuple[int, ...]
    size: tuple[int, int]
    rate: float | None


def extract_to(
    video: VideoSource,
    output: PathLike,
    *,
    model: Model = "siammae-ti8",
    config: ExtractionConfig | None = None,
    overwrite: bool = False,
    progress: bool = False,
    say: Say | None = None,
    **changes: Any,  # noqa: ANN401 -- fields of the settings
) -> Extracted:
    """Write a video's features to a file while it is read: memory does not grow with the video.

    Args:
        video: any source of :func:`siammae.read_frames`.
        output: ends in ``.safetensors`` or ``.zarr``. It holds ``features`` ``(T, C, h, w)``, pooled ``(T, C)``, and
            for int8 ``scale``, with which they are multiplied. :func:`siammae.open_features` reads both. With ``pca``
            the components go beside it, into ``NAME.pca.safetensors``.
        model: an extractor, or the name of one.
        config: which frames, what of them, how it is stored; ``format`` is that of ``output``.
        overwrite: whether results that are there may be replaced.
        progress: show a bar.
        say: called with the size that the result will have, before it is written.
        **changes: fields of :class:`siammae.ExtractionConfig`, instead of ``config`` or on top of it.

    Raises:
        ValueError: a setting is out of range or unknown to the model; the output is refused.
        VideoReadError: the video cannot be decoded.
        OSError: the disk is too small for what is expected, said before the work, or it is full.
        ImportError: zarr is not installed.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((4, 48, 64, 3), np.uint8)
        >>> written = siammae.extract_to(video, "features.safetensors", model=siammae.PixelExtractor(), every=2)
        >>> siammae.open_features("features.safetensors").shape
        (2, 192, 6, 8)
    """
    target = Path(output)
    if target.suffix not in (".safetensors", ".zarr"):
        raise ValueError(f"the output is {target}: it must end in .safetensors or .zarr.")
    settings = (config or ExtractionConfig()).replace(**changes, format=target.suffix[1:])
    beside = target.with_suffix(".pca.safetensors") if settings.pca else None
    inputs = (video, getattr(model, "name", model))
    with ExitStack() as stack:
        if settings.format == "zarr":
            load_zarr()
            place = stack.enter_context(_zarr_place(target, inputs, overwrite))
            stack.enter_context(claim_files(beside, inputs=inputs, overwrite=overwrite))
        else:
            stack.enter_context(claim_files(target, beside, inputs=inputs, overwrite=overwrite))
            place = stack.enter_context(whole(target))
        extractor = load_model(model)
        count = _count(video, settings)
        components = _fit(video, extractor, settings, count) if beside else None
        frames = read_frames(
            video, start=settings.start, stop=settings.stop, step=settings.every, reader=cast(Backend, settings.reader)
        )
        with tqdm(frames, total=count, unit="frame", disable=not progress) as bar:
            done = write_features(
                place,
                bar,
                extractor,
                settings,
                metadata(describe_model(extractor), settings, components),
                rate=_rate(video, settings),
                components=components,
                before=lambda shape: _announce(target, shape, settings, count, say),
            )
        if beside and components:
            with whole(beside) as part:
                components.save(part)
    return done._replace(path=target)


def _count(video: VideoSource, config: ExtractionConfig) -> int | None:
    total = count_frames(video, reader=cast(Backend, config.reader))
    return None if total is None else chosen(total, config)


def _rate(video: VideoSource, config: ExtractionConfig) -> float | None:
    return frame_rate(video, reader=cast(Backend, config.reader))


def _fit(video: VideoSource, model: FeatureExtractor, config: ExtractionConfig, count: int | None) -> Components:
    """Fit principal components to frames from all over the video."""
    if count is None or (isinstance(video, Iterable) and iter(video) is video):
        raise ValueError(f"pca is {config.pca}, which needs a look at the video first: pass a file, folder or array.")
    step = config.every * max(1, count // _SAMPLE)
    frames = read_frames(video, start=config.start, stop=config.stop, step=step, reader=cast(Backend, config.reader))
    return fit_components(Moments.of(encode(frames, model, config)), cast(int, config.pca))


def metadata(model: Mapping[str, Any], config: ExtractionConfig, components: Components | None) -> dict[str, str]:
    """Return what a file says of itself: nothing that differs from run to run."""
    said = {
        "layout": "siammae features 1",
        "model": str(model["model"]),
        "revision": str(model["revision"] or ""),
        "weights": str(model["weights"] or ""),
        "dtype": str(model["dtype"]),
        "layer": str(config.layer),
        "rules": json.dumps(config.rules(), sort_keys=True),
    }
    return said | ({"pca": components.digest()} if components else {})


def write_features(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    model: FeatureExtractor,
    config: ExtractionConfig,
    said: Mapping[str, str],
    *,
    rate: float | None,
    components: Components | None = None,
    before: Callable[[tuple[int, ...]], object] | None = None,
) -> Extracted:
    """Encode frames and write them batch by batch.

    Args:
        path: of a file, or zarr folder, that is not there.
        frames: which the settings have chosen already.
        model: makes the features.
        config: what of them, and how it is stored.
        said: goes into the file, with size, rate and number.
        rate: of the video.
        components: of ``config.pca``.
        before: called with the shape of a frame's stored features before the first is written.

    Raises:
        ValueError: there are no frames, they change their size, or numbers do not fit the type.
        OSError: the file cannot be written, or a frame not read.
    """
    options_of(model, config)
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise ValueError("there are no frames.")
    size = (first.shape[0], first.shape[1])
    whole_text = {**said, "height": str(size[0]), "width": str(size[1]), "rate": repr(rate) if rate else ""}
    count, shape = 0, tuple[int, ...]()
    batches = encode(chain([first], stream), model, config)
    with closing(cast("Any", batches)), open_writer(path, config.format, whole_text) as writer:
        for batch in _projected(batches, components):
            if not count:
                shape = tuple(batch.shape[1:])
                if before:
                    before(shape)
            writer.write(pack(batch, config))
            count += len(batch)
        writer.finish()
    return Extracted(path, count, shape, size, rate or None)


def _projected(batches: Iterator[Tensor], components: Components | None) -> Iterator[Tensor]:
    for batch in batches:
        yield batch if components is None else components.apply(batch)


def _announce(
    target: Path, shape: tuple[int, ...], config: ExtractionConfig, count: int | None, say: Say | None
) -> None:
    if count is None:
        return
    need = count * bytes_per_frame(shape, config)
    if say:
        say(
            f"{target} will have about {in_words(need)}: {count} frames of {' x '.join(map(str, shape))} {config.store}"
        )
    require_room(target, need)


def require_room(target: Path, need: int) -> None:
    """Refuse what the disk has no room for.

    Raises:
        OSError: it has less than that.
    """
    above = next(folder for folder in (target, *target.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(above).free
    if need > free:
        raise OSError(
            f"{target} would need about {in_words(need)}, but {above} has {in_words(free)} left. Store less "
            "(float16, int8, pca, pool, every), or choose another disk."
        )


def in_words(size: float) -> str:
    """Write a number of bytes as people say it."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if size >= 100 or units[0] == "bytes" else f"{size:.3g} {units[0]}"


@contextmanager
def _zarr_place(target: Path, inputs: tuple[object, ...], overwrite: bool) -> Iterator[Path]:
    """Give a hidden folder for a zarr group; its root file, without which it is none, gets its place last."""
    with (
        claim_folder(target, _ZARR_FILES, inputs=inputs, overwrite=overwrite) as results,
        scratch_folder(results.folder / "zarr.json") as scratch,
    ):
        group = scratch / "group"
        yield group
        results.clear()
        for part in sorted(group.iterdir(), key=lambda path: path.is_file()):
            place = results.path(part.name)
            if place.exists():
                raise ValueError(f"{target} holds {part.name}, which siammae did not write. Choose another output.")
            part.replace(place)
