"""Videos that OpenCV cannot write: B-frames, open groups, 10 bits, sound alone, frames of different length."""

from fractions import Fraction

import av
import numpy as np


def numbered(count, size=(96, 128), seed=0):
    """Frames of large blocks, each frame with its own; no two are alike, and compression leaves them so."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
    return np.repeat(np.repeat(blocks, 16, axis=1), 16, axis=2)


def encode(path, frames, codec="libx264", options=None, pixels="yuv420p", stamps=None, rate=25, index_first=False):
    """Write RGB frames with PyAV; ``stamps`` are their times in 1/``rate`` s; ``index_first`` is for MP4."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if index_first else {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        for index, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = (index if stamps is None else stamps[index]), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sound(path):
    """Write a file with a second of silence and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cover(path, rgb):
    """Write a file with a second of silence and a cover picture."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        picture = container.add_stream("mjpeg", rate=1)
        picture.height, picture.width, picture.pix_fmt = *rgb.shape[:2], "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic.value
        container.mux(picture.encode(av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="yuvj420p")))
        container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
