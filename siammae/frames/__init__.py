"""Frames in: a path, folder, array, tensor, list or iterator becomes RGB uint8 ``(H, W, 3)``, one frame at a time.

The container decides the layout, sizes never do: NumPy is channels-last, torch is channels-first. OpenCV's BGR never
leaves this package. In the order of the data: ``files`` (video and image files), ``rgb`` (one frame), ``reading``
(a whole video), ``writing`` (pictures and videos out).
"""

from siammae.frames.files import PathLike
from siammae.frames.reading import VideoSource, count_frames, frame_rate, read_frames
from siammae.frames.rgb import FrameSource, resize_frame, to_rgb, turned_crop
from siammae.frames.writing import VideoWriter, write_animation, write_image

__all__ = [
    "FrameSource",
    "PathLike",
    "VideoSource",
    "VideoWriter",
    "count_frames",
    "frame_rate",
    "read_frames",
    "resize_frame",
    "to_rgb",
    "turned_crop",
    "write_animation",
    "write_image",
]
