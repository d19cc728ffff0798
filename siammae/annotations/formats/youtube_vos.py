"""YouTube-VOS: DAVIS's PNGs of some of the frames, and ``meta.json`` with each object's category and frames."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from siammae.annotations.formats.davis import read_folder, walk, write_folder
from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import entry, inside, read_json, whole_number
from siammae.annotations.masks import MAX_OBJECTS
from siammae.annotations.model import Annotations, VideoObject

_VIDEO = "video"


def _recognise(path: Path) -> bool:
    return path.is_dir() and (path / "meta.json").is_file() and (path / "Annotations").is_dir()


def _read(path: Path, opening: Opening) -> Annotations:
    place = path / "meta.json"
    videos = entry(read_json(place), "videos", place, dict)
    name = opening.sequence or (next(iter(videos)) if len(videos) == 1 else None)
    if name is None:
        raise ValueError(f"{place} has {len(videos)} videos, such as {', '.join(list(videos)[:3])}. Name a sequence.")
    if name not in videos:
        raise ValueError(f"{place} has no video {name!r}: it has {', '.join(list(videos)[:5])}.")
    described = entry(videos[name], "objects", place, dict)
    size, files = read_folder(inside(path / "Annotations", name), opening)
    objects = tuple(
        VideoObject(
            whole_number(key, "an object's id", place, least=1, most=MAX_OBJECTS),
            category=str(one.get("category", "")) if isinstance(one, dict) else "",
        )
        for key, one in described.items()
    )
    return Annotations(partial(walk, files, size), objects, size=size, frame_count=opening.frame_count)


def _write(path: Path, annotations: Annotations) -> None:
    seen = write_folder(path / "Annotations" / _VIDEO, annotations)
    objects = {
        str(key): {"category": annotations.object(key).category, "frames": frames}
        for key, frames in sorted(seen.items())
    }
    meta = {"videos": {_VIDEO: {"objects": objects}}}
    (path / "meta.json").write_text(json.dumps(meta, indent=1), "utf-8")


YOUTUBE_VOS = Format(
    name="youtube-vos",
    title="YouTube-VOS: Annotations/VIDEO/*.png and meta.json",
    pixels="none: pixel values are ids (youtube-vos.org, challenge's meta.json).",
    recognise=_recognise,
    read=_read,
    write=_write,
    holds=frozenset({Feature.MASKS, Feature.HOLES, Feature.ALIKE, Feature.VOID, Feature.EMPTY, Feature.CATEGORIES}),
    limits=f"ids 1 to 254; what is written calls its video {_VIDEO!r}.",
)
