"""Frames in: a path, folder, array, tensor, list or iterator becomes RGB uint8 ``(H, W, 3)``, one frame at a time.

The container decides the layout, sizes never do: NumPy is channels-last, torch is channels-first. OpenCV's BGR never
leaves this package. In the order of the data: ``files`` (paths), ``images`` (image files and folders of them), ``rgb``
(one frame), ``reading`` (a whole video), ``ahead`` (in a thread), ``readers`` (chosen frames of a file, by OpenCV, PyAV
or torchcodec), ``containers`` (what a video file's own bytes say), ``flow`` (how two frames differ), ``pasting``
(pieces of one in another), ``writing`` (pictures and videos out).
"""

from siammae.frames.ahead import read_ahead
from siammae.frames.files import PathLike, VideoEndError
from siammae.frames.flow import find_flow, residual_motion
from siammae.frames.images import IMAGE_SUFFIXES, PICTURE_SUFFIXES, decode_image, open_image, open_page
from siammae.frames.pasting import cut_piece, paste_piece
from siammae.frames.readers import Backend, FrameReader, open_reader, require_reader
from siammae.frames.reading import VideoSource, count_frames, frame_rate, read_frames
from siammae.frames.rgb import FrameSource, resize_frame, shrink_frame, to_rgb, turned_crop
from siammae.frames.writing import VideoWriter, encode_image, write_animation, write_bytes, write_image

__all__ = [
    "IMAGE_SUFFIXES",
    "PICTURE_SUFFIXES",
    "Backend",
    "FrameReader",
    "FrameSource",
    "PathLike",
    "VideoEndError",
    "VideoSource",
    "VideoWriter",
    "count_frames",
    "cut_piece",
    "decode_image",
    "encode_image",
    "find_flow",
    "frame_rate",
    "open_image",
    "open_page",
    "open_reader",
    "paste_piece",
    "read_ahead",
    "read_frames",
    "require_reader",
    "residual_motion",
    "resize_frame",
    "shrink_frame",
    "to_rgb",
    "turned_crop",
    "write_animation",
    "write_bytes",
    "write_image",
]
