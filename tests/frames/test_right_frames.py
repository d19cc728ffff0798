"""Right frames or an error: what decoders give wrongly while they say that all is well."""

import logging
import os
import struct
import subprocess
import sys

import av
import cv2
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from siammae.errors import VideoReadError
from siammae.frames import count_frames, frame_rate, open_reader, opencv_reader, read_frames, require_reader
from siammae.frames.containers import sensible_rate, turn_upright
from tests.videos import cover, encode, numbered

COUNT = 6
INTERLACED = {
    "h264.mp4": {"options": {"flags": "+ildct+ilme"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "interlace=tff:log-level=none"}},
}
NEW_FFMPEG = int(cv2.getBuildInformation().split("avcodec:")[1].split("(")[1].split(".")[0]) >= 62


def usable(backend):
    try:
        require_reader(backend)
    except ImportError as error:
        return pytest.mark.skip(reason=str(error))
    return ()


TORCHCODEC = pytest.param("torchcodec", marks=usable("torchcodec"))


def off_by(frames, wanted):
    return np.mean([np.abs(got.astype(int) - want).mean() for got, want in zip(frames, wanted, strict=True)])


def patch_matrix(path, *numbers):
    """Write a display matrix into an MP4's track header: a, b, u, c, d, v, x, y, w."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", *numbers)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", INTERLACED)
def test_interlaced_video_gives_its_frames(tmp_path, kind):
    frames = numbered(COUNT)
    path = encode(tmp_path / kind, frames, **INTERLACED[kind])
    for reader in ("auto", "pyav"):
        assert off_by(read_frames(path, reader=reader), frames) < 8


@pytest.mark.skipif(not NEW_FFMPEG, reason="FFmpeg before 8 converts interlaced frames")
@pytest.mark.parametrize("kind", INTERLACED)
def test_interlaced_video_through_opencv_is_refused_and_not_garbage(tmp_path, kind):
    path = encode(tmp_path / kind, numbered(COUNT), **INTERLACED[kind])
    message = rf'{kind} cannot be read by OpenCV: frame 0 \(codec \w+\) .* interlaced .* Use the reader "pyav"'
    with pytest.raises(VideoReadError, match=message):
        list(read_frames(path, reader="opencv"))


@pytest.mark.skipif(not NEW_FFMPEG, reason="FFmpeg before 8 takes these for BT.601")
@pytest.mark.parametrize("matrix", ["YCgCo", "bt2020c", "ICtCp"])
def test_colour_matrix_without_conversion_is_refused_by_opencv(tmp_path, matrix):
    path = encode(tmp_path / "a.mp4", numbered(COUNT), options={"x264-params": f"colormatrix={matrix}"})
    with pytest.raises(VideoReadError, match=r"frame 0 .* Unsupported input .* Convert the video first"):
        list(read_frames(path, reader="opencv"))


@pytest.mark.parametrize("matrix", ["YCgCo", "bt2020c", "ICtCp"])
def test_colour_matrix_without_conversion_is_refused_by_pyav(tmp_path, matrix):
    path = encode(tmp_path / "a.mp4", numbered(COUNT), options={"x264-params": f"colormatrix={matrix}"})
    with pytest.raises(
        VideoReadError, match=r"frame 2 \(h264, yuv420p, colour matrix .*\) does not become RGB"
    ) as caught:
        list(read_frames(path, reader="pyav", start=2))
    assert caught.value.frame_index == 2


@pytest.mark.parametrize("reader", [TORCHCODEC])
def test_colour_matrix_without_conversion_is_refused_by_torchcodec(tmp_path, reader):
    path = encode(tmp_path / "a.mp4", numbered(COUNT), options={"x264-params": "colormatrix=YCgCo"})
    with pytest.raises(VideoReadError, match="has the colour matrix ycgco, which torchcodec does not turn into RGB"):
        open_reader(path, reader)


def test_av1_is_read_and_named_where_opencv_cannot(tmp_path, monkeypatch):
    frames = numbered(COUNT)
    path = encode(tmp_path / "a.mp4", frames, codec="libsvtav1", options={"svtav1-params": "lp=1"})
    assert off_by(read_frames(path), frames) < 12
    monkeypatch.setattr(opencv_reader._Ear, "hear", lambda _, call: "grab" not in str(call) and call())
    with pytest.raises(VideoReadError, match=r'has no decoder for its codec AV1\. Use the reader "pyav"'):
        list(read_frames(path, reader="opencv"))


@pytest.mark.parametrize(("transfer", "name"), [("arib-std-b67", "HLG"), ("smpte2084", "PQ")])
def test_hdr_through_opencv_warns_and_names_it(tmp_path, caplog, transfer, name):
    colours = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    how = {"codec": "libx265", "options": {"x265-params": colours}, "pixels": "yuv420p10le"}
    path = encode(tmp_path / "hdr.mp4", numbered(COUNT), **how)
    with caplog.at_level(logging.WARNING):
        list(read_frames(path, reader="pyav"))
        assert not caplog.messages
        list(read_frames(path, reader="opencv"))
        frame_rate(path, reader="opencv")
    assert len(caplog.messages) == 1
    assert f"hdr.mp4 is HDR ({name}), whose colours OpenCV shows" in caplog.messages[0]


def test_ten_bits_that_do_not_say_whether_they_are_hdr_warn(tmp_path, caplog):
    path = encode(tmp_path / "a.mp4", numbered(COUNT), pixels="yuv420p10le")
    open_reader(path, "opencv").close()
    assert "a.mp4 has 10 bits a colour and may be HDR" in caplog.text


def test_opencv_whose_messages_are_not_heard_warns(tmp_path, caplog, monkeypatch):
    path = encode(tmp_path / "a.mp4", numbered(COUNT))
    monkeypatch.setattr(opencv_reader, "_is_audible", lambda: False)
    opencv_reader._warn_once.cache_clear()
    open_reader(path, "opencv").close()
    assert "FFmpeg's messages in OpenCV are not heard" in caplog.text
    monkeypatch.undo()
    assert opencv_reader._is_audible()


def test_messages_of_ffmpeg_stay_off_the_terminal_and_those_of_others_reach_it(tmp_path, capfd):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0")
    with pytest.raises(VideoReadError, match="OpenCV finds no frames"):
        open_reader(tmp_path / "a.mp4", "opencv")
    ear = opencv_reader._Ear()
    ear.hear(lambda: os.write(2, b"[h264 @ 0x1] no frame!\nanother thread's\n"))
    assert ear.heard == ["[h264 @ 0x1] no frame!\n"]
    ear.hear(lambda: None)
    assert ear.heard == []
    assert capfd.readouterr().err == "another thread's\n"


def test_opencv_reads_where_stderr_is_closed(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(COUNT))
    code = f"from siammae.frames import read_frames; print(len(list(read_frames({str(path)!r}, reader='opencv'))))"
    done = subprocess.run(
        ["bash", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code], stdout=subprocess.PIPE, check=True, text=True
    )
    assert done.stdout == f"{COUNT}\n"


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 0, 1), lambda frame: frame[:, ::-1]),
        ((1, 0, 0, 0, -1), lambda frame: frame[::-1]),
        ((0, 1, 0, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
        ((0, -1, 0, -1, 0), lambda frame: frame.transpose(1, 0, 2)[::-1, ::-1]),
    ],
)
def test_mirrored_video_is_mirrored_by_pyav_and_refused_by_others(tmp_path, matrix, shown):
    path = encode(tmp_path / "a.mp4", numbered(COUNT))
    stored = list(read_frames(path))
    a, b, u, c, d = (number << 16 for number in matrix)
    patch_matrix(path, a, b, u, c, d, 0, 0, 0, 1 << 30)
    for got, frame in zip(read_frames(path, reader="pyav"), stored, strict=True):
        np.testing.assert_array_equal(got, shown(frame))
    with pytest.raises(VideoReadError, match="is to be shown mirrored, which OpenCV does not do"):
        read_frames(path, reader="opencv")


def test_mirrored_stream_in_any_container_is_mirrored_by_pyav_and_refused_by_opencv(tmp_path):
    stored = encode(tmp_path / "stored.ts", numbered(COUNT))
    path = tmp_path / "a.ts"
    with av.open(str(stored)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        mirror = BitStreamFilterContext("h264_metadata=display_orientation=insert:flip=horizontal", stream)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(mirror.filter(packet))
    for got, frame in zip(read_frames(path, reader="pyav"), read_frames(stored), strict=True):
        np.testing.assert_array_equal(got, frame[:, ::-1])
    with pytest.raises(VideoReadError, match="is to be shown mirrored, which OpenCV does not do"):
        read_frames(path, reader="opencv")


@pytest.mark.parametrize("reader", [TORCHCODEC])
def test_mirrored_video_and_container_without_index_are_refused_by_torchcodec(tmp_path, reader):
    path = encode(tmp_path / "a.mp4", numbered(COUNT))
    patch_matrix(path, -(1 << 16), 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    with pytest.raises(VideoReadError, match="is to be shown mirrored, which torchcodec does not do"):
        open_reader(path, reader)
    path = encode(tmp_path / "a.ts", numbered(COUNT))
    with pytest.raises(VideoReadError, match=r"has no index \(as MPEG-TS\), where torchcodec finds other frames"):
        open_reader(path, reader)


@pytest.mark.parametrize("reader", ["opencv", "pyav", TORCHCODEC])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_video_is_upright_in_every_reader(tmp_path, reader, turns):
    path = encode(tmp_path / "a.mp4", numbered(COUNT))
    stored = next(read_frames(path))
    a, b = ((0, 1), (-1, 0), (0, -1))[turns - 1]
    patch_matrix(path, a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    assert np.abs(next(read_frames(path, reader=reader)).astype(int) - np.rot90(stored, -turns)).mean() < 3


def test_turn_upright_leaves_a_frame_whose_matrix_is_empty():
    frame = numbered(1)[0]
    np.testing.assert_array_equal(turn_upright(frame, [0] * 9), frame)


def test_size_that_changes_in_mid_stream_is_refused(tmp_path):
    parts = [encode(tmp_path / f"{side}.ts", numbered(COUNT, (side, 128))) for side in (96, 64)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(ValueError, match=rf"frame {COUNT} is \(64, 128\) but the first was \(96, 128\)"):
        list(read_frames(path))
    with pytest.raises(ValueError, match=r"changes its size from \(96, 128\) to \(64, 128\) within"):
        list(read_frames(path, reader="opencv"))


@pytest.mark.parametrize("reader", ["auto", "opencv", "pyav", TORCHCODEC])
def test_sound_with_a_cover_picture_is_no_video(tmp_path, reader):
    path = cover(tmp_path / "song.m4a", numbered(1)[0])
    for read in (read_frames, count_frames, frame_rate):
        with pytest.raises(VideoReadError, match="it is sound with a cover picture"):
            read(path, reader=reader)


@pytest.mark.parametrize("reader", ["opencv", "pyav", TORCHCODEC])
def test_frame_rate_is_that_of_the_average(tmp_path, reader):
    stamps = [i + 3 * (i // 4) for i in range(20)]  # 32 times for 20 frames
    path = encode(tmp_path / "a.mp4", numbered(20), stamps=stamps)
    assert frame_rate(path, reader=reader) == pytest.approx(25 * 20 / 32, rel=0.05)


def test_sensible_rate_leaves_out_clocks_and_nan():
    assert [sensible_rate(rate) for rate in (25.0, 1000.0, 90000.0, 0.0, -1.0, float("nan"))] == [25, 1000, 0, 0, 0, 0]


def test_file_whose_name_is_not_utf8_is_read_or_refused_by_name(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    encode(tmp_path / "a.mp4", numbered(COUNT)).rename(path)
    assert len(list(read_frames(path))) == COUNT
    with pytest.raises(VideoReadError, match="is not UTF-8, and OpenCV opens no such file"):
        read_frames(path, reader="opencv")


@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.png"])
def test_pipe_is_refused_and_does_not_wait(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read in (read_frames, count_frames, open_reader):
        with pytest.raises(VideoReadError, match=rf"{name} is a pipe, a socket, a device"):
            read(tmp_path / name)
    with pytest.raises(VideoReadError, match=r"pipe\.png is a pipe" if name == "pipe.png" else "no images"):
        list(read_frames(tmp_path))


def test_null_byte_in_a_name_is_no_file():
    for read in (read_frames, count_frames, open_reader):
        with pytest.raises(FileNotFoundError, match=r"no (video|file)"):
            read("a\0b.mp4")
