"""Label propagation through a whole video: one-shot functions over the propagators."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from siammae.annotations.files import write_annotations
from siammae.annotations.followed import followed_masks, followed_points
from siammae.annotations.masks import MaskSource, mask_name, write_mask
from siammae.annotations.model import Annotations, VideoObject
from siammae.checkpoints.hub import DEFAULT_WEIGHTS
from siammae.config import PropagationConfig
from siammae.features import FeatureExtractor
from siammae.frames import PathLike, VideoSource, count_frames, read_ahead, read_frames
from siammae.network.loading import load_extractor
from siammae.outputs import Beside, claim_folder
from siammae.propagation.affinity import Kernels
from siammae.propagation.keyframes import follow_keyframes, follow_keypoint_frames
from siammae.propagation.keypoint_propagator import FrameKeypoints
from siammae.propagation.labels import FrameMasks

_MASK_NAME = r"[0-9]{5,}\.png"


@dataclass(frozen=True, slots=True)
class VideoMasks:
    """Masks of a whole video.

    Attributes:
        labels: ``(T, H, W)`` uint8 object ids; 0 is background.
        object_ids: the followed objects.
        confidence: ``(T, objects)`` float32 in [0, 1], how sure each frame is of each object; NaN before it was known.
    """

    labels: NDArray[np.uint8]
    object_ids: tuple[int, ...]
    confidence: NDArray[np.float32]

    def save(self, path: PathLike, *, format: str = "davis", overwrite: bool = False) -> Path:
        """Write ``00000.png`` and so on as palette PNGs that the DAVIS tools read, or another format.

        Args:
            path: of the folder, which is made where it is missing, or of the file that the format wants.
            format: a name that ``siammae formats`` lists. What it has no place for is logged as a warning.
            overwrite: replace the file, or all masks that siammae wrote into the folder: those of a longer video would
                stay behind.

        Returns:
            The path.

        Raises:
            ValueError: something is there, and ``overwrite`` is False or siammae did not write it; it is a file where a
                folder must be, or a folder where a file must be; or the format is unknown, only read, or has no place
                for masks.
            BlockingIOError: another run is writing there.
            ImportError: the format needs a package that is not installed.
            OSError: it cannot be written.
        """
        if format != "davis":
            sure = [dict(zip(self.object_ids, row, strict=True)) for row in self.confidence.tolist()]
            objects = [VideoObject(key) for key in self.object_ids]
            described = followed_masks(self.labels, sure, objects=objects)
            return write_annotations(path, described, format=format, overwrite=overwrite).path
        with claim_folder(path, "(?!)", numbered=_MASK_NAME, overwrite=overwrite) as results:
            results.clear()
            for index, labels in enumerate(self.labels):
                write_mask(results.path(mask_name(index, len(self.labels))), labels)
        return Path(path)


@dataclass(frozen=True, slots=True)
class VideoKeypoints:
    """Keypoints of a whole video.

    Attributes:
        points: ``(T, N, 2)`` float32 x, y in pixels; -1, -1 where a keypoint is not there or not known yet.
        confidence: ``(T, N)`` float32 in [0, 1].
    """

    points: NDArray[np.float32]
    confidence: NDArray[np.float32]

    def save(
        self,
        path: PathLike,
        *,
        names: Sequence[str] | None = None,
        format: str = "tracks",
        size: tuple[int, int] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the keypoints as one object.

        Args:
            path: of the file.
            names: of the keypoints; None = ``point_1`` and so on.
            format: a name that ``siammae formats`` lists; ``"tracks"`` is the CSV of ``siammae track``. What it has no
                place for is logged as a warning.
            size: ``(H, W)`` of the frames, which COCO needs.
            overwrite: replace the file.

        Returns:
            The path.

        Raises:
            ValueError: the names are not as many as the keypoints, or not all different; the file is there, and
                ``overwrite`` is False; or the format is unknown, only read, or has no place for keypoints.
            BlockingIOError: another run is writing it.
            ImportError: the format needs a package that is not installed.
            OSError: it cannot be written.
        """
        count = self.points.shape[1]
        joints = tuple(names) if names is not None else tuple(f"point_{place}" for place in range(1, count + 1))
        if len(joints) != count or len(set(joints)) != count:
            raise ValueError(f"the names are {list(joints)}: there must be {count}, all different.")
        rows = [(1, joint) for joint in range(count)]
        known = Annotations(lambda: iter(()), (VideoObject(1),), joints)
        frames = list(zip(self.points, self.confidence, strict=True))
        described = followed_points(frames, rows, known, size=size)
        return write_annotations(path, described, format=format, overwrite=overwrite).path


def follow_masks(
    video: VideoSource,
    masks: MaskSource | Mapping[int, MaskSource],
    *,
    object_ids: Sequence[int] | None = None,
    model: FeatureExtractor | PathLike = DEFAULT_WEIGHTS,
    config: PropagationConfig | None = None,
    kernels: Kernels = "auto",
    progress: bool = False,
) -> Iterator[FrameMasks]:
    """Follow the objects of one or several annotated frames, yielding each frame's masks as soon as they are there.

    Arguments and errors are those of :func:`propagate_masks`; memory does not grow with the video. What lies between
    two annotated frames comes once the second one was reached, and waits on disk until then.

    Yields:
        One :class:`FrameMasks` a frame, the annotated ones included.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((4, 48, 64, 3), np.uint8)
        >>> video[:, 16:32, 16:32] = 255  # a white square on black
        >>> mask = np.zeros((48, 64), np.uint8)
        >>> mask[16:32, 16:32] = 1
        >>> for frame in siammae.follow_masks(video, mask, model=siammae.PixelExtractor()):
        ...     print(frame.frame_index, frame.label_map()[24, 24])
        0 1
        1 1
        2 1
        3 1
    """
    given = masks if isinstance(masks, Mapping) else {0: masks}
    frames = _shown(video, progress, [mask for mask in given.values() if isinstance(mask, str | os.PathLike)])
    yield from follow_keyframes(
        frames, given, load_extractor(model, config), config, object_ids=object_ids, kernels=kernels
    )


def propagate_masks(
    video: VideoSource,
    masks: MaskSource | Mapping[int, MaskSource],
    *,
    object_ids: Sequence[int] | None = None,
    model: FeatureExtractor | PathLike = DEFAULT_WEIGHTS,
    config: PropagationConfig | None = None,
    kernels: Kernels = "auto",
    progress: bool = False,
) -> VideoMasks:
    """Follow the objects of one or several annotated frames through a video. Part labels are masks too.

    Frames before the first annotated one are followed backwards; those between two are followed from both, and each
    object is taken from where it is nearer and surer.

    Args:
        video: a path, folder of images, array, tensor or iterable of RGB frames; see :func:`read_frames`.
        masks: of the first frame, or frame number to mask, ``{0: first, 40: later}``; of the frames' size; see
            :func:`read_mask`. A mask speaks for the ids it holds; others are followed on. A file in the video's folder
            is no frame.
        object_ids: the ids that every mask speaks for: those it does not hold are not in its frame.
        model: a checkpoint's name, or any extractor.
        config: the rules; None = what the model recommends, else the defaults.
        kernels: backend of the affinity; see :func:`available_kernels`.
        progress: show a bar.

    Returns:
        Masks of every frame at the video's size, and how sure they are. Use :func:`follow_masks` for videos too long
        to hold.

    Raises:
        ValueError: video, masks or options are refused.
        VideoReadError: the video cannot be decoded.
        FileNotFoundError: a path does not exist.
        KernelUnavailableError: the backend asked for cannot run here.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((4, 48, 64, 3), np.uint8)
        >>> video[:, 16:32, 16:32] = 255  # a white square on black
        >>> mask = np.zeros((48, 64), np.uint8)
        >>> mask[16:32, 16:32] = 1
        >>> tracks = siammae.propagate_masks(video, mask, model=siammae.PixelExtractor())
        >>> tracks.labels.shape, tracks.object_ids
        ((4, 48, 64), (1,))
        >>> tracks.labels[:, 24, 24].tolist()  # the square's middle in each frame
        [1, 1, 1, 1]
        >>> tracks.save("masks").name  # palette PNGs
        'masks'
    """
    results = follow_masks(
        video, masks, object_ids=object_ids, model=model, config=config, kernels=kernels, progress=progress
    )
    labels: list[NDArray[np.uint8]] = []
    sure: list[dict[int, float]] = []
    ids: tuple[int, ...] = ()

    def take(result: FrameMasks) -> None:
        labels.append(result.label_map())
        sure.append(dict(zip(result.object_ids, result.confidence.tolist(), strict=True)))

    with Beside() as beside:
        for result in results:
            beside.do(partial(take, result))
            ids = result.object_ids
    # An object that came later was not known in the frames before: nothing is sure of it there.
    confidence = np.array([[frame.get(i, np.nan) for i in ids] for frame in sure], np.float32)
    return VideoMasks(np.stack(labels), ids, confidence)


def follow_keypoints(
    video: VideoSource,
    keypoints: NDArray[np.floating] | Mapping[int, NDArray[np.floating]],
    *,
    model: FeatureExtractor | PathLike = DEFAULT_WEIGHTS,
    config: PropagationConfig | None = None,
    kernels: Kernels = "auto",
    progress: bool = False,
) -> Iterator[FrameKeypoints]:
    """Follow the keypoints of one or several annotated frames, yielding each frame's as soon as they are there.

    Arguments and errors are those of :func:`propagate_keypoints`; memory does not grow with the video. What lies
    between two annotated frames comes once the second one was reached, and waits on disk until then.

    Yields:
        Points ``(N, 2)`` and confidence ``(N,)``, the annotated frames included.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((4, 48, 64, 3), np.uint8)
        >>> video[:, 16:32, 16:32] = 255  # a white square on black
        >>> points = np.array([[16.0, 16.0], [31.0, 31.0]])  # x, y of two corners
        >>> for frame in siammae.follow_keypoints(video, points, model=siammae.PixelExtractor(4)):
        ...     print(frame.points.shape)
        (2, 2)
        (2, 2)
        (2, 2)
        (2, 2)
    """
    given = keypoints if isinstance(keypoints, Mapping) else {0: keypoints}
    yield from follow_keypoint_frames(
        _shown(video, progress), given, load_extractor(model, config), config, kernels=kernels
    )


def propagate_keypoints(
    video: VideoSource,
    keypoints: NDArray[np.floating] | Mapping[int, NDArray[np.floating]],
    *,
    model: FeatureExtractor | PathLike = DEFAULT_WEIGHTS,
    config: PropagationConfig | None = None,
    kernels: Kernels = "auto",
    progress: bool = False,
) -> VideoKeypoints:
    """Follow the keypoints of one or several annotated frames through a video.

    Frames before the first annotated one are followed backwards; those between two are followed from both, and each
    keypoint is taken from where it is nearer and surer.

    Args:
        video: a path, folder of images, array, tensor or iterable of RGB frames; see :func:`read_frames`.
        keypoints: of the first frame, ``(N, 2)`` x, y in pixels with the centre of pixel (0, 0) at 0.0; or frame number
            to keypoints, ``{0: first, 40: later}``, the same N in all. A row of NaN says nothing: that keypoint is
            followed on. A row of -1, -1 says that it is not there, until a later frame gives it again.
        model: a checkpoint's name, or any extractor.
        config: the rules; None = what the model recommends, else the defaults.
        kernels: backend of the affinity; see :func:`available_kernels`.
        progress: show a bar.

    Returns:
        Points and confidence of every frame.

    Raises:
        ValueError: video, keypoints or options are refused.
        VideoReadError: the video cannot be decoded.
        FileNotFoundError: a path does not exist.
        KernelUnavailableError: the backend asked for cannot run here.

    Example:
        >>> import numpy as np
        >>> import siammae
        >>> video = np.zeros((4, 48, 64, 3), np.uint8)
        >>> video[:, 16:32, 16:32] = 255  # a white square on black
        >>> points = np.array([[16.0, 16.0], [31.0, 31.0]])  # x, y of two corners
        >>> tracks = siammae.propagate_keypoints(video, points, model=siammae.PixelExtractor(4))
        >>> tracks.points.shape, tracks.confidence.shape
        ((4, 2, 2), (4, 2))
    """
    results = follow_keypoints(video, keypoints, model=model, config=config, kernels=kernels, progress=progress)
    points, confidence = zip(*results, strict=True)
    return VideoKeypoints(np.stack(points), np.stack(confidence))


def _shown(video: VideoSource, progress: bool, leave_out: Collection[PathLike] = ()) -> Iterable[NDArray[np.uint8]]:
    """Read a video under a bar; files of its folder that are masks are no frames."""
    count = count_frames(video, leave_out=leave_out) if progress else None
    frames = read_frames(video, leave_out=leave_out)
    if isinstance(video, str | os.PathLike):
        frames = read_ahead(frames)
    return cast(Iterable[NDArray[np.uint8]], tqdm(frames, total=count, unit="frame", disable=not progress))
