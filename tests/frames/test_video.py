import itertools
import struct

import cv2
import numpy as np
import pytest

from siammae.errors import VideoReadError
from siammae.frames import VideoWriter, count_frames, frame_rate, open_reader, read_frames, readers, write_image


def bars(count, size=(48, 64)):
    """Frame i shows the bits of i as black and white bars, which survive every codec."""
    rows = 255 * (np.arange(count)[:, None] >> np.arange(size[1]) // 8 & 1)
    return list(np.broadcast_to(rows[:, None, :, None], (count, *size, 3)).astype(np.uint8))


def numbers(frames):
    return [sum(1 << bit for bit in range(8) if frame[:, 8 * bit : 8 * bit + 8].mean() > 128) for frame in frames]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(params=["opencv", "pyav"], autouse=True)
def reader(request, monkeypatch):
    """Every test by both readers that are always there."""
    monkeypatch.setattr(readers, "DEFAULT_READER", request.param)


@pytest.fixture
def write_video(tmp_path):
    def write(name="clip.mp4", frames=None):
        with VideoWriter(tmp_path / name) as writer:
            for frame in bars(60) if frames is None else frames:
                writer.write(frame)
        return tmp_path / name

    return write


def boxes(data):
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8], data[start : start + length]
        start += length


def moov_first(data):
    """Move an MP4's index to the front, as files for streaming have it."""
    parts = dict(boxes(data))
    moov = bytearray(parts[b"moov"])
    table = moov.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", moov, table)
    for place in range(table + 4, table + 4 + 4 * count, 4):
        struct.pack_into(">I", moov, place, struct.unpack_from(">I", moov, place)[0] + len(moov))
    return parts[b"ftyp"] + moov + parts[b"free"] + parts[b"mdat"]


def drop_avi_frame(data, slot):
    """Empty one slot of an AVI, as a recorder does that missed a frame; the declared count stays."""
    data = bytearray(data)
    movi, index = data.index(b"movi"), data.index(b"idx1") + 8
    offset, length = struct.unpack_from("<II", data, index + 16 * slot + 8)
    removed = length + length % 2
    for later in range(slot + 1, 60):
        place = index + 16 * later + 8
        struct.pack_into("<I", data, place, struct.unpack_from("<I", data, place)[0] - removed)
    for place in (index + 16 * slot + 12, movi + offset + 4):
        struct.pack_into("<I", data, place, 0)
    for place in (4, movi - 4):
        struct.pack_into("<I", data, place, struct.unpack_from("<I", data, place)[0] - removed)
    del data[movi + offset + 8 : movi + offset + 8 + removed]
    return data


def read_until_error(path):
    good = []
    with pytest.raises(VideoReadError, match="breaks off at frame") as caught:
        good.extend(read_frames(path))
    return good, caught.value


# --- video files


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
def test_video_round_trip_when_written_here_gives_rgb_frames_back(write_video, suffix):
    path = write_video(f"clip{suffix}")
    frames = list(read_frames(str(path)))
    assert numbers(frames) == list(range(60))
    assert all(frame.shape == (48, 64, 3) and frame.dtype == np.uint8 for frame in frames)
    assert (count_frames(path), frame_rate(path)) == (60, 25.0)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("start", [0, 1, 2, 7, 11, 12, 13, 31, 58, 59])
def test_read_frames_with_start_gives_what_sequential_reading_gives(write_video, start):
    path = write_video(frames=[np.roll(noise(48, 64, 3), index, 1) for index in range(60)])
    whole = list(read_frames(path))
    for got, want in itertools.zip_longest(read_frames(path, start=start), whole[start:]):
        np.testing.assert_array_equal(got, want)


def test_read_frames_with_start_stop_step_picks_like_a_slice(write_video):
    assert numbers(read_frames(write_video(), start=3, stop=50, step=9)) == list(range(3, 50, 9))


def test_read_frames_when_stop_equals_start_gives_nothing(write_video):
    assert list(read_frames(write_video(), start=5, stop=5)) == []


def test_read_frames_when_stop_lies_past_the_end_gives_the_rest(write_video):
    assert numbers(read_frames(write_video(), start=58, stop=99)) == [58, 59]


def test_read_frames_when_video_is_rotated_gives_it_upright(write_video):
    path = write_video()
    data = bytearray(path.read_bytes())
    quarter_turn = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = quarter_turn
    path.write_bytes(data)
    assert next(read_frames(path)).shape == (64, 48, 3)


def test_read_frames_when_path_is_missing_raises(tmp_path):
    for read in (read_frames, count_frames, frame_rate):
        with pytest.raises(FileNotFoundError, match=r"no video at .*gone\.mp4"):
            read(tmp_path / "gone.mp4")


@pytest.mark.parametrize("content", [b"", b"hello\n" * 500])
@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.txt"])
def test_read_frames_when_file_is_no_video_raises_at_the_call(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoReadError, match=rf"{name} cannot be read as a video \({len(content)} bytes\)") as caught:
        read_frames(tmp_path / name)
    assert caught.value.frame_index == 0


def test_read_frames_when_mp4_lost_its_index_raises_at_the_call(write_video):
    path = write_video()
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(VideoReadError, match="cut off: its container declares"):
        read_frames(path)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
def test_read_frames_when_tail_is_cut_gives_the_good_frames_then_raises(write_video, suffix):
    path = write_video(f"clip{suffix}", [np.roll(noise(48, 64, 3), index, 1) for index in range(60)])
    data = moov_first(path.read_bytes()) if suffix == ".mp4" else path.read_bytes()
    path.write_bytes(data)
    whole = list(read_frames(path))
    path.write_bytes(data[: len(data) * 6 // 10])
    good, error = read_until_error(path)
    assert 20 < len(good) < 50
    assert error.frame_index == len(good)
    assert "bytes are missing" in str(error)
    np.testing.assert_array_equal(good[:-1], whole[: len(good) - 1])  # the last one may be cut in two
    assert len(list(read_frames(path, stop=10))) == 10


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_read_frames_when_decoder_stops_half_way_raises(write_video, suffix):
    path = write_video(f"clip{suffix}", [np.roll(noise(48, 64, 3), index, 1) for index in range(60)])
    data = bytearray(path.read_bytes())
    for start in range(len(data) // 2, len(data) * 9 // 10):
        data[start] = 255 if suffix == ".mp4" else data[start]
    if suffix == ".avi":  # leave the chunk headers, so that the packets are still found
        index = data.index(b"idx1") + 8
        for slot in range(30, 60):
            offset, length = struct.unpack_from("<II", data, index + 16 * slot + 8)
            begin = data.index(b"movi") + offset + 8
            data[begin : begin + length] = bytes(length)
    path.write_bytes(data)
    good, error = read_until_error(path)
    assert 20 < len(good) <= 31
    assert error.frame_index == len(good)
    assert "packets do not decode" in str(error)


@pytest.mark.parametrize("slots", [(59,), (58, 59), (20,), (3, 30, 31, 57)])
def test_read_frames_when_avi_declares_dropped_frames_reads_the_others(write_video, slots):
    path = write_video("clip.avi")
    data = path.read_bytes()
    for slot in slots:
        data = drop_avi_frame(data, slot)
    path.write_bytes(data)
    assert count_frames(path) == 60
    assert numbers(read_frames(path)) == [index for index in range(60) if index not in slots]
    assert numbers(read_frames(path, start=40))[0] == 40 + sum(slot <= 40 for slot in slots)


def test_read_frames_when_no_packet_decodes_raises(write_video):
    path = write_video(frames=bars(3))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - start)
    path.write_bytes(data)
    assert read_until_error(path)[1].frame_index == 0


def test_opencv_when_a_frame_does_not_convert_raises(write_video, monkeypatch):
    reader = open_reader(write_video(), "opencv")

    class Capture:
        grab = staticmethod(lambda: True)
        get = staticmethod(lambda _: 0.0)
        retrieve = staticmethod(lambda: (False, None))
        release = staticmethod(lambda: None)

    monkeypatch.setattr(reader, "_capture", Capture())
    with pytest.raises(VideoReadError, match=r"frame 2 \(codec FMP4\) does not become RGB: no picture") as caught:
        next(reader.frames(range(2, 5)))
    assert caught.value.frame_index == 2


def test_read_frames_when_video_ends_before_start_raises(write_video):
    with pytest.raises(ValueError, match="no frame 60 to start at: the video ended before it"):
        list(read_frames(write_video(), start=60))


@pytest.mark.shared_data
def test_read_frames_when_clips_declare_dropped_frames_reads_them_whole(shared_data):
    clips = sorted((shared_data / "corpus" / "jhmdb-train").glob("*/*.avi"))[::100]
    assert len(clips) >= 4
    for clip in clips:
        whole = list(read_frames(clip))
        assert 30 <= len(whole) < count_frames(clip)
        for start in (1, 13, 29):
            np.testing.assert_array_equal(next(read_frames(clip, start=start)), whole[start])


# --- writing


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
@pytest.mark.parametrize(("size", "padded"), [((1, 1), (2, 2)), ((47, 64), (48, 64)), ((48, 63), (48, 64))])
def test_video_writer_when_sides_are_odd_repeats_the_border(write_video, suffix, size, padded):
    red = np.full((*size, 3), (200, 50, 20), np.uint8)
    frame = next(read_frames(write_video(f"odd{suffix}", [red])))
    assert frame.shape == (*padded, 3)
    assert np.abs(frame.astype(int) - (200, 50, 20)).max() < 8


def test_video_writer_when_block_fails_leaves_the_old_file(write_video, tmp_path):
    path = write_video()
    before = path.read_bytes()
    with pytest.raises(TypeError, match="frame 0 is a NoneType"):
        write_video(frames=[bars(1)[0], None])
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    assert path.read_bytes() == before


def test_video_writer_when_misused_raises(tmp_path, write_video):
    with pytest.raises(ValueError, match=r"cannot write a\.gif: the name must end in \.mp4"):
        VideoWriter(tmp_path / "a.gif")
    with pytest.raises(ValueError, match="fps is 0: it must be above 0"):
        VideoWriter(tmp_path / "a.mp4", fps=0)
    with pytest.raises(FileNotFoundError, match=r"no folder .*create it first"):
        write_video("gone/a.mp4")
    with pytest.raises(ValueError, match="nothing was written"):
        write_video(frames=[])
    with pytest.raises(RuntimeError, match="use it in a with statement"):
        VideoWriter(tmp_path / "a.mp4").write(bars(1)[0])
    with pytest.raises(ValueError, match=r"this frame is \(4, 4\) but the video is \(48, 64\)"):
        write_video(frames=[*bars(1), *bars(1, (4, 4))])
    assert list(tmp_path.iterdir()) == []


def test_video_writer_when_opencv_cannot_encode_raises(tmp_path, write_video, monkeypatch):
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda _: False)
    with pytest.raises(OSError, match=r"OpenCV cannot write .*, \(64, 48\) mp4v at 25.0 fps, here"):
        write_video()
    assert list(tmp_path.iterdir()) == []


def test_write_image_when_png_keeps_every_pixel(tmp_path):
    frame = noise(5, 7, 3)
    write_image(tmp_path / "a.png", frame)
    np.testing.assert_array_equal(next(read_frames(tmp_path / "a.png")), frame)
    write_image(tmp_path / "a.jpg", bars(1)[0])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jpg", "a.png"]


def test_write_image_when_it_cannot_write_raises(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png, \.jpg, \.jpeg"):
        write_image(tmp_path / "a.tif", bars(1)[0])
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_image(tmp_path / "b" / "a.png", bars(1)[0])
    (tmp_path / "c.png").mkdir()
    with pytest.raises(OSError, match=r"c\.png"):
        write_image(tmp_path / "c.png", bars(1)[0])
    assert [file.name for file in tmp_path.iterdir()] == ["c.png"]
