import builtins
import re
import struct

import numpy as np
import pytest
from PIL import Image

from siammae.errors import VideoReadError
from siammae.frames import (
    VideoEndError,
    decode_image,
    encode_image,
    open_reader,
    pyav_reader,
    read_frames,
    require_reader,
    shrink_frame,
    torchcodec_reader,
)
from tests.helpers import write_video
from tests.videos import encode, numbered, sound

COUNT = 60


def usable(backend):
    try:
        require_reader(backend)
    except ImportError as error:
        return pytest.mark.skip(reason=str(error))
    return ()


# torchcodec looks for FFmpeg libraries on the machine, which CI need not have.
BACKENDS = ["opencv", "pyav", pytest.param("torchcodec", marks=usable("torchcodec"))]
KINDS = {
    "b-frames.mp4": {"options": {"g": "12", "bf": "3"}},
    "open-group.mp4": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "b-frames.mkv": {"options": {"g": "12", "bf": "3"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8", "deadline": "realtime"}},
    "intra-refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "b-frames.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "b-frames.ts": {"options": {"g": "12", "bf": "3"}},
    "odd-times.mkv": {"options": {"g": "12"}, "stamps": [i + 3 * (i // 4) for i in range(COUNT)]},
    "10-bit.mp4": {"options": {"g": "12"}, "pixels": "yuv420p10le"},
}
UNPROVEN = ("intra-refresh.mp4", "b-frames.avi", "b-frames.ts")  # seeking there is not exact


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {name: encode(folder / name, numbered(COUNT), **how) for name, how in KINDS.items()}


def close_to(frame, rgb):
    """Whether it is this picture, whose colours were quartered in resolution and turned to YUV and back."""
    return np.abs(frame.astype(int) - rgb).mean() < 12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_reader_gives_the_frames_asked_for_in_every_order_of_calls(videos, kind, backend):
    if backend == "torchcodec" and kind in UNPROVEN:
        pytest.skip("torchcodec trusts the container's key frames, as its docstring says")
    reader, frames = open_reader(videos[kind], backend), numbered(COUNT)
    for numbers in ([0], [59], [13], [5, 6, 47, 58], [30, 31], list(range(60)), [24], [25, 35]):
        got = list(reader.frames(numbers))
        assert [number for number, _ in got] == numbers
        assert all(frame.dtype == np.uint8 and close_to(frame, frames[number]) for number, frame in got)
    assert list(reader.frames([])) == []
    reader.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_reader_tells_count_and_rate_and_where_a_whole_video_ends(videos, backend):
    for name in ("b-frames.mp4", "b-frames.mkv"):
        reader = open_reader(videos[name], backend)
        assert (reader.frame_count, reader.frame_rate) == (COUNT, 25)
        for numbers in ([60], [3, 75], range(10**6)):
            with pytest.raises(VideoEndError, match=r"the video ends after 60 frames\.") as caught:
                list(reader.frames(numbers))
            assert caught.value.frame_count == 60
        reader.close()


def test_pyav_seeks_where_timestamps_prove_the_place_and_counts_elsewhere(videos, monkeypatch):
    counted = []
    by_counting = pyav_reader.PyAVReader._counted
    monkeypatch.setattr(
        pyav_reader.PyAVReader, "_counted", lambda self, numbers: counted.append(numbers) or by_counting(self, numbers)
    )
    for kind, path in videos.items():
        reader = open_reader(path, "pyav")
        assert [number for number, _ in reader.frames([40, 50])] == [40, 50]
        reader.close()
        assert counted == ([[40, 50]] if kind in UNPROVEN else []), kind
        counted.clear()


def test_pyav_counts_where_two_packets_have_one_timestamp(videos, monkeypatch):
    path = videos["b-frames.mp4"]
    timeline = pyav_reader.timeline_of(path)
    assert timeline.keys.tolist() == [0, 12, 24, 36, 48]
    shifted = timeline._replace(stamps=timeline.stamps + 1)  # no frame has such a time
    for answer in (None, shifted):
        monkeypatch.setattr(pyav_reader, "timeline_of", lambda _, answer=answer: answer)
        reader = open_reader(path, "pyav")
        assert all(close_to(frame, numbered(COUNT)[number]) for number, frame in reader.frames([20, 50]))
        reader.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_reader_gives_a_rotated_video_upright(tmp_path, backend):
    path = encode(tmp_path / "turned.mp4", numbered(14))
    whole = dict(open_reader(path).frames([0, 13]))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    reader = open_reader(path, backend)
    for number, frame in reader.frames([0, 13]):
        assert np.abs(frame.astype(int) - np.rot90(whole[number], -1)).mean() < 3
    reader.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("content", "name"), [(b"", "a.mp4"), (b"hello\n" * 500, "a.mp4"), (b"hello\n" * 500, "a.txt")]
)
def test_reader_of_no_video_is_refused(tmp_path, content, name, backend):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoReadError, match=rf"{name} cannot be read as a video"):
        open_reader(tmp_path / name, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reader_of_sound_alone_is_refused(tmp_path, backend):
    with pytest.raises(VideoReadError, match=r"a\.mp4 cannot be read as a video"):
        open_reader(sound(tmp_path / "a.mp4"), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reader_of_a_video_that_breaks_off_gives_the_frames_before(tmp_path, backend):
    path = encode(tmp_path / "cut.mp4", numbered(60), options={"g": "12"}, index_first=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = open_reader(path, backend)
    assert [number for number, _ in reader.frames([0, 5])] == [0, 5]
    with pytest.raises(VideoReadError, match=r"cut\.mp4 breaks off at frame \d+ of 60: the file is cut off, \d+ bytes"):
        list(reader.frames([5, 59]))
    reader.close()


def test_pyav_ends_at_a_hole_for_the_numbers_after_it_would_be_wrong(tmp_path):
    path = encode(tmp_path / "damaged.mp4", numbered(60), options={"g": "60"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = start + len(data) * 7 // 10
    data[start + len(data) // 4 : end] = bytes(end - start - len(data) // 4)
    path.write_bytes(data)
    reader = open_reader(path, "pyav")
    with pytest.raises(VideoReadError, match=r"breaks off at frame \d+ of 60: .* damaged, \d+ packets do not decode"):
        list(reader.frames(range(60)))
    reader.close()


def test_reader_of_an_image_is_a_video_of_one_frame(tmp_path):
    Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "a.png")
    reader = open_reader(tmp_path / "a.png")
    assert (reader.frame_count, reader.frame_rate) == (1, 0)
    ((number, frame),) = reader.frames([0])
    assert (number, frame.shape, frame[0, 0].tolist()) == (0, (4, 5, 3), [1, 2, 3])
    with pytest.raises(VideoEndError, match="ends after 1 frames"):
        list(reader.frames([0, 1]))
    reader.close()


def test_open_reader_of_nothing_or_by_nobody_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.mp4: it must be a video or an image"):
        open_reader(tmp_path / "gone.mp4")
    path = write_video(tmp_path / "a.avi", numbered(2))
    with pytest.raises(ValueError, match="reader is 'vlc': it must be 'auto', 'opencv', 'pyav' or 'torchcodec'"):
        open_reader(path, "vlc")


@pytest.mark.parametrize(
    ("backend", "package", "install"),
    [("auto", "av", "av"), ("pyav", "av", "av"), ("torchcodec", "torchcodec", '"siammae[torchcodec]"')],
)
def test_reader_whose_package_is_missing_names_it(tmp_path, monkeypatch, backend, package, install):
    path, real = write_video(tmp_path / "a.avi", numbered(2)), builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for use in (require_reader, lambda backend: open_reader(path, backend)):
        with pytest.raises(ImportError, match=rf"needs .*: pip install {re.escape(install)}\."):
            use(backend)
    require_reader("opencv")


def test_torchcodec_without_ffmpeg_says_what_it_needs():
    error = torchcodec_reader._unloadable(RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg"))
    assert isinstance(error, ImportError)
    assert "does not load (Could not load libtorchcodec.) It needs FFmpeg's shared libraries" in str(error)


def test_encode_image_as_png_keeps_every_pixel_and_decode_image_names_what_fails(tmp_path):
    frame = numbered(1)[0]
    for kind, worst in (("png", 0), ("jpg", 8)):
        (tmp_path / "a").write_bytes(encode_image(frame, kind, quality=95))
        assert np.abs(decode_image(tmp_path / "a", "a", 3).astype(int) - frame).mean() <= worst
    (tmp_path / "a").write_bytes(b"no image")
    with pytest.raises(VideoReadError, match="frame 3 of b cannot be read as an image") as caught:
        decode_image(tmp_path / "a", "frame 3 of b", 3)
    assert caught.value.frame_index == 3


def test_shrink_frame_leaves_what_is_small_enough():
    frame = numbered(1)[0]
    assert shrink_frame(frame, None) is frame
    assert shrink_frame(frame, 96) is frame
    assert shrink_frame(frame, 48).shape == (48, 64, 3)
    assert shrink_frame(frame.transpose(1, 0, 2).copy(), 50).shape == (67, 50, 3)


def test_title_in_another_encoding_than_utf_8_does_no_harm(tmp_path):
    path = encode(tmp_path / "a.mkv", numbered(3))
    named = path.read_bytes().replace(b"Lavf", b"L\xff\xfef")  # the name of the program that wrote the file
    assert named != path.read_bytes()
    path.write_bytes(named)
    assert len(list(read_frames(path, reader="pyav"))) == 3
