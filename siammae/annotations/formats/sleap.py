"""SLEAP's ``.slp``, by sleap-io: skeletons of tracked animals, made by a person or predicted.

Source: talmolab/sleap-io, io/slp.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siammae.annotations.formats.format import Feature, Format, Opening
from siammae.annotations.formats.guards import check_bytes, whole_number
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject, Visibility

_TRACK = re.compile(r"object_(\d{1,9})")  # how we call an object without a name
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _sleap_io() -> Any:  # noqa: ANN401 -- a module
    try:
        import sleap_io
    except ImportError as error:
        raise ImportError("SLEAP's files need sleap-io: pip install siammae[sleap]") from error
    return sleap_io


@dataclass(frozen=True)
class _File:
    place: Path
    labelled: list[Any]  # frames of one video
    ids: dict[int, int]  # by the identity of a track

    def frames(self) -> Iterator[FrameLabels]:
        for frame in sorted(self.labelled, key=lambda one: int(one.frame_idx)):
            keypoints: dict[int, Keypoints] = {}
            people = False
            # What a person made stands for what was predicted of the same track, as in SLEAP.
            for one in sorted(self._tracked(frame), key=_predicted):
                key = self.ids.get(id(one.track), 0)
                if key in keypoints:
                    if _predicted(one):
                        continue
                    raise ValueError(
                        f"{self.place}, frame {frame.frame_idx}: a track, or none, has two instances, and no one can "
                        "tell which is which in the next frame. Choose one frame, or give them tracks."
                    )
                keypoints[key] = _keypoints(one)
                people = people or not _predicted(one)
            for key, one in enumerate(_loose(self.labelled), self.ids.get(id(None), 0)):
                keypoints[key] = _keypoints(one)
                people = people or not _predicted(one)
            index = whole_number(int(frame.frame_idx), "a frame", self.place)
            yield FrameLabels(index, keypoints=keypoints, by_person=people if keypoints else None)

    def _tracked(self, frame: Any) -> list[Any]:  # noqa: ANN401
        """Return the instances of a frame but for those that :func:`_loose` tells apart."""
        return [one for one in frame.instances if one.track is not None or not _loose(self.labelled)]


def _loose(labelled: list[Any]) -> list[Any]:
    """Return the instances on no track of the only frame, each of which is an object of its own.

    What a person made there stands for what was predicted.
    """
    if len(labelled) != 1:
        return []
    loose = [one for one in labelled[0].instances if one.track is None]
    return [one for one in loose if not _predicted(one)] or loose


def _predicted(instance: Any) -> bool:  # noqa: ANN401
    return type(instance).__name__ == "PredictedInstance"


def _keypoints(instance: Any) -> Keypoints:  # noqa: ANN401
    points = instance.points
    scores = points["score"] if _predicted(instance) else np.ones(len(points))
    seen = np.where(points["visible"], np.uint8(Visibility.VISIBLE), np.uint8(Visibility.HIDDEN))
    return Keypoints.of(np.array(points["xy"], np.float64), seen, np.nan_to_num(np.asarray(scores, np.float64)))


def _recognise(path: Path) -> bool:
    if path.suffix.lower() != ".slp" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def _read(path: Path, opening: Opening) -> Annotations:
    check_bytes(path)
    sio = _sleap_io()
    try:
        labels = sio.load_slp(str(path), open_videos=False)
    except Exception as error:  # a damaged file ends in OSError, KeyError, ValueError and others
        raise ValueError(
            f"{path} is no file of SLEAP: {str(error).splitlines()[0] if str(error) else error!r}."
        ) from error
    labelled = [one for one in _of_video(labels, path, opening) if opening.wants(int(one.frame_idx))]
    instances = [one for frame in labelled for one in frame.instances]
    skeletons = {tuple(one.skeleton.node_names): one.skeleton for one in instances}
    if len(skeletons) > 1:
        raise ValueError(f"{path} has {len(skeletons)} skeletons: one set of joints is read. Split the file.")
    joints = next(iter(skeletons), ())
    bones = tuple((int(a), int(b)) for one in skeletons.values() for a, b in one.edge_inds)
    loose = len(_loose(labelled)) or int(any(one.track is None for one in instances))
    ids, objects = _number(labels.tracks, loose)
    # The labels go along: tracks are known by their identity.
    return Annotations(_File(path, labelled, ids).frames, objects, joints, bones, opening.size, opening.frame_count)


def _of_video(labels: Any, path: Path, opening: Opening) -> list[Any]:  # noqa: ANN401
    """Return the frames of the video that is meant."""
    videos = {id(frame.video): frame.video for frame in labels.labeled_frames}
    if len(videos) <= 1 and opening.sequence is None:
        return list(labels.labeled_frames)
    names = {key: Path(str(video.filename).replace("\\", "/")).stem for key, video in videos.items()}
    chosen = [key for key, name in names.items() if name == opening.sequence]
    if len(chosen) != 1:
        raise ValueError(f"{path} has the videos {', '.join(list(names.values())[:5])}. Name one as the sequence.")
    return [frame for frame in labels.labeled_frames if id(frame.video) == chosen[0]]


def _number(tracks: list[Any], loose: int) -> tuple[dict[int, int], tuple[VideoObject, ...]]:
    """Number the tracks, as we wrote them, else in order, and after them what is on none."""
    ours = {id(track): int(found[1]) for track in tracks if (found := _TRACK.fullmatch(track.name or ""))}
    ids = {key: number for key, number in ours.items() if number}
    for track in [*tracks, *([None] if loose else [])]:
        ids.setdefault(id(track), max(ids.values(), default=0) + 1)
    names = {ids[id(track)]: "" if id(track) in ours else track.name or "" for track in tracks}
    others = range(ids.get(id(None), 0) + 1, ids.get(id(None), 0) + loose)
    return ids, tuple(VideoObject(key, name=names.get(key, "")) for key in [*sorted(ids.values()), *others])


def _write(path: Path, annotations: Annotations) -> dict[Feature, int]:
    sio = _sleap_io()
    edges = [(annotations.joints[a], annotations.joints[b]) for a, b in annotations.skeleton]
    skeleton = sio.Skeleton(list(annotations.joints), edges=edges)
    video = sio.Video(filename="video.mp4", open_backend=False)
    tracks: dict[int, Any] = {}
    frames, unsure = [], 0
    for frame in annotations:
        instances, sure = [], True
        for key, some in sorted(frame.keypoints.items()):
            track = tracks.setdefault(key, sio.Track(annotations.object(key).name or f"object_{key}"))
            instances.append(_instance(sio, some, skeleton, track, bool(frame.by_person)))
            sure = sure and bool((some.confidence[some.visibility > 0] == 1).all())
        unsure += bool(frame.by_person) and not sure
        frames.append(sio.LabeledFrame(video, frame.index, instances))
    labels = sio.Labels(frames, videos=[video], skeletons=[skeleton], tracks=list(tracks.values()))
    sio.save_slp(labels, str(path), verbose=False)
    return {Feature.POINT_CONFIDENCE: unsure}


def _instance(sio: Any, some: Keypoints, skeleton: Any, track: Any, by_person: bool) -> Any:  # noqa: ANN401
    if by_person:
        instance = sio.Instance.from_numpy(some.points, skeleton=skeleton, track=track)
    else:
        scores = np.asarray(some.confidence, np.float64)
        instance = sio.PredictedInstance.from_numpy(
            some.points, skeleton=skeleton, track=track, point_scores=scores, score=float(scores.mean())
        )
    instance.points["visible"] = some.visibility == Visibility.VISIBLE
    return instance


SLEAP = Format(
    name="sleap",
    title="SLEAP .slp, by sleap-io",
    pixels=(
        "pixel (0, 0) has its centre at 0, as here (talmolab/sleap #296); sleap-io shifts files of versions before 1.1 "
        "by half a pixel itself (talmolab/sleap-io #231)."
    ),
    recognise=_recognise,
    read=_read,
    write=_write,
    suffix=".slp",
    holds=frozenset(
        {
            Feature.POINTS,
            Feature.SEVERAL,
            Feature.HIDDEN,
            Feature.POINT_CONFIDENCE,
            Feature.NAMES,
            Feature.SKELETON,
            Feature.AUTHORS,
            Feature.EMPTY,
        }
    ),
    limits=(
        "the file is held in memory; what a person made has no confidence; frames that no person made, or of which it "
        "is not known, become predictions."
    ),
)
