"""What was stored, read back: any frame of any video without the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from siammae.checkpoints.tensors import read_header
from siammae.corpus.manifest import DONE, MANIFEST, Record, read_manifest
from siammae.corpus.packing import FEATURES, SCALE, Stored, unpack
from siammae.corpus.principal import PCA_FILE, Components
from siammae.corpus.writing import load_zarr
from siammae.errors import CheckpointError, name_some
from siammae.frames import PathLike

_LAYOUT = "siammae features 1"


class StoredVideo:
    """Features of one video; frames are read when they are asked for.

    ``video[3]`` is the fourth stored frame, ``video[2:5]`` three of them, ``video[[0, 7]]`` two: float32 NumPy arrays.

    Attributes:
        path: of the file.
        metadata: what the file says of itself: model, weights, rules and more, all texts.
        shape: of all, ``(T, C, h, w)``, pooled ``(T, C)``.
        numbers: of the stored frames in the video, counted from 0, ``(T,)`` int64.
        size: of the video's frames, ``(H, W)``.
        rate: frames per second of the video, None where it is not known.

    Args:
        path: of a ``.safetensors`` file or ``.zarr`` folder that siammae wrote.
        components: where the principal components lie; None looks beside it.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or another program's.
        ImportError: zarr is not installed.
    """

    def __init__(self, path: PathLike, *, components: PathLike | None = None) -> None:
        self.path = Path(path)
        self._components = Path(components) if components else self.path.with_suffix(".pca.safetensors")
        if not self.path.exists():
            raise FileNotFoundError(f"no features at {self.path}: pass what siammae extract wrote.")
        try:
            self._arrays, self.metadata = _open_zarr(self.path) if self.path.is_dir() else _open_safetensors(self.path)
            self.shape = tuple(int(side) for side in self._arrays[FEATURES].shape)
            rules = json.loads(self.metadata["rules"])
            self.numbers = rules["start"] + rules["every"] * np.arange(self.shape[0], dtype=np.int64)
            self.size = int(self.metadata["height"]), int(self.metadata["width"])
            self.rate = float(self.metadata["rate"]) if self.metadata["rate"] else None
        except (LookupError, TypeError, ValueError, OSError, RecursionError, SafetensorError, CheckpointError) as error:
            raise ValueError(
                f"{self.path} holds no features of siammae's, or is damaged ({error}): extract it again."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._arrays = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, which: int | slice | Sequence[int]) -> NDArray[np.float32]:
        """Read frames by their places among the stored ones.

        Raises:
            IndexError: there is no such frame.
        """
        return self.read(which)

    def frame(self, number: int) -> NDArray[np.float32]:
        """Read one frame by its number in the video.

        Raises:
            IndexError: it was not stored.
        """
        place = int(np.searchsorted(self.numbers, number))
        if place == len(self) or self.numbers[place] != number:
            raise IndexError(
                f"frame {number} of {self.path} is not stored: there are {len(self)}, from {self.numbers[0]} to "
                f"{self.numbers[-1]}, every {self.numbers[1] - self.numbers[0] if len(self) > 1 else 1}."
            )
        return self[place]

    def read(self, which: int | slice | Sequence[int] = slice(None), *, restore: bool = False) -> NDArray[np.float32]:
        """Read frames.

        Args:
            which: places among the stored frames: one, a slice, or several.
            restore: bring principal components back to the model's channels, as far as they tell.

        Returns:
            ``(C, h, w)`` for one, else ``(n, C, h, w)``, float32; pooled without ``h, w``.

        Raises:
            IndexError: there is no such frame.
            FileNotFoundError: ``restore``, but the components are not beside the file.
        """
        if isinstance(which, int | np.integer):
            one: NDArray[np.float32] = self.read([int(which)], restore=restore)[0]
            return one
        if isinstance(which, slice):
            places: Sequence[int] = range(len(self))[which]
        else:
            places = [self._place(int(place)) for place in which]
        parts = {name: self._take(name, places) for name in (FEATURES, SCALE) if name in self._arrays}
        values = unpack(parts)
        if restore and "pca" in self.metadata:
            components = Components.load(self._components)
            if components.digest() != self.metadata["pca"]:
                raise ValueError(f"{self._components} is not of {self.path}: its components are others.")
            return components.restore(values)
        return values

    def torch(self, which: int | slice | Sequence[int] = slice(None), *, restore: bool = False) -> Tensor:
        """Read frames as :meth:`read`, as a float32 tensor."""
        return torch.from_numpy(self.read(which, restore=restore))

    def _place(self, place: int) -> int:
        if not -len(self) <= place < len(self):
            raise IndexError(f"frame {place} of {self.path}: there are {len(self)}, from 0 to {len(self) - 1}.")
        return place % len(self)

    def _take(self, name: str, places: Sequence[int]) -> Stored:
        array = self._arrays[name]
        if isinstance(places, range) and places.step == 1:
            return np.asarray(array[places.start : places.stop])
        shape = tuple(int(side) for side in array.shape)[1:]
        rows = [np.asarray(array[place : place + 1]) for place in places]
        return np.concatenate(rows) if rows else np.empty((0, *shape), np.float32)


def _open_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    read_header(path)  # bounded
    opened: Any = safe_open(path, framework="np")
    names = set(opened.keys())
    metadata = dict(opened.metadata() or {})
    if metadata.get("layout") != _LAYOUT:
        raise ValueError("it does not say that it is")
    return {name: _Slice(opened.get_slice(name)) for name in (FEATURES, SCALE) if name in names}, metadata


class _Slice:
    """A tensor of a safetensors file as an array of which parts are read."""

    def __init__(self, tensor: Any) -> None:  # noqa: ANN401 -- safetensors' own
        self._tensor, self.shape = tensor, tuple(tensor.get_shape())

    def __getitem__(self, which: slice) -> Stored:
        if which.start >= which.stop:
            return np.empty((0, *self.shape[1:]), np.float32)
        values: Stored = self._tensor[which]
        return values


def _open_zarr(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    group = load_zarr().open_group(str(path), mode="r")
    metadata = {str(name): str(value) for name, value in group.attrs.items()}
    if metadata.get("layout") != _LAYOUT:
        raise ValueError("it does not say that it is")
    return {name: group[name] for name in (FEATURES, SCALE) if name in group}, metadata


class FeatureDataset(Sequence[StoredVideo]):
    """Features of many videos, by id, path or position; only what is asked for is read.

    Attributes:
        folder: where they are.
        records: of the manifest, of the videos that have features, in the order of their paths.
        failed: of those that have none.

    Args:
        folder: that ``siammae extract`` wrote.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: it is damaged.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        records = read_manifest(self.folder / MANIFEST)
        self.records = [record for record in records if record.status == DONE]
        self.failed = [record for record in records if record.status != DONE]
        self._places: dict[str, int] = {}
        for place, record in enumerate(self.records):
            for key in (record.path, str(record.id)):
                self._places.setdefault(key, place)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, which: int | str | Path) -> StoredVideo:  # type: ignore[override]
        """Open a video.

        Args:
            which: its position, its id, its path, or the end of its path where only one has it.

        Raises:
            IndexError: there is no such position.
            KeyError: no video, or several, are so called.
        """
        record = self.records[which] if isinstance(which, int) else self.records[self._find(str(which))]
        return self._open(record)

    def _open(self, record: Record) -> StoredVideo:
        file = self.folder / str(record.file)
        if not file.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"the manifest of {self.folder} names {record.file!r}, which leaves the folder.")
        return StoredVideo(file, components=self.folder / PCA_FILE)

    def _find(self, name: str) -> int:
        if (place := self._places.get(name)) is not None:
            return place
        if (place := self._places.get(str(Path(name).absolute()))) is not None:
            return place
        found = [place for place, record in enumerate(self.records) if record.path.endswith("/" + name)]
        if len(found) == 1:
            return found[0]
        if found:
            named = name_some([self.records[place].path for place in found])
            raise KeyError(f"{name!r} are {len(found)} videos: {named}")
        failed = {record.path: record.error for record in self.failed}
        why = next((error for path, error in failed.items() if path == name or path.endswith("/" + name)), None)
        if why:
            raise KeyError(f"{name!r} has no features: {why}")
        raise KeyError(f"{name!r} is none of the {len(self)} videos in {self.folder}")

    def vectors(self) -> NDArray[np.float32]:
        """Return one vector a video, ``(N, C)`` float32: the mean over its frames and patches, read one by one."""
        means = []
        for record in self.records:
            with self._open(record) as video:
                sums = sum(np.float64(frame).reshape(frame.shape[0], -1).mean(axis=1) for frame in video)
                means.append(np.float32(sums / len(video)))
        return np.stack(means)

    def frames(self) -> StoredFrames:
        """Return all frames of all videos as one dataset, such as PyTorch's ``DataLoader`` takes."""
        return StoredFrames(self)


class StoredFrames(torch.utils.data.Dataset[tuple[Tensor, int, int]]):
    """All frames of all videos: ``(features, video, number)``, by a single position.

    ``features`` is ``(C, h, w)``, pooled ``(C,)``, float32; ``video`` the position in the dataset; ``number`` that of
    the frame in the video. The last video that was read stays open, in each process one.
    """

    def __init__(self, dataset: FeatureDataset) -> None:
        self._dataset = dataset
        self._ends = np.cumsum([record.frames or 0 for record in dataset.records])
        self._open: tuple[int, StoredVideo] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, place: int) -> tuple[Tensor, int, int]:
        if not 0 <= place < len(self):
            raise IndexError(f"frame {place}: there are {len(self)}.")
        video = int(np.searchsorted(self._ends, place, "right"))
        if self._open is None or self._open[0] != video:
            self._open = video, self._dataset[video]
        inside = place - (int(self._ends[video - 1]) if video else 0)
        stored = self._open[1]
        return stored.torch(inside), video, int(stored.numbers[inside])


def open_features(path: PathLike) -> FeatureDataset | StoredVideo:
    """Open what ``siammae extract`` or :func:`siammae.extract_to` wrote.

    Args:
        path: a folder with a manifest, or the file or zarr folder of one video.

    Returns:
        A dataset of videos, by id, path or position; or one video, whose frames are read by number.

    Raises:
        FileNotFoundError: it is not there, or a folder has no manifest.
        ValueError: it is damaged, or another program's.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((4, 48, 64, 3), np.uint8)
        >>> written = siammae.extract_to(video, "features.safetensors", model=siammae.PixelExtractor())
        >>> with siammae.open_features("features.safetensors") as stored:
        ...     print(stored.shape, stored[1:3].shape)
        (4, 192, 6, 8) (2, 192, 6, 8)
    """
    place = Path(path)
    one = place.suffix in (".safetensors", ".zarr") and not (place / MANIFEST).exists()
    return StoredVideo(place) if one else FeatureDataset(place)
