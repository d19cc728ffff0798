"""Any frame by its exact number, in any order, from every kind of source."""

import logging

import numpy as np
import pytest

from siammae.errors import VideoReadError
from siammae.frames import read_frames, write_image
from siammae.frames.pyav_access import GivenUpError, PyAVAccess
from siammae.frames.random_access import FrameAccess
from tests.videos import encode, numbered

COUNT = 60
ORDER = [59, 0, 1, 2, 30, 31, 29, 28, 57, 3, 58, 59, 12, 45]
FILES = {
    "plain.mp4": {},
    "long groups.mp4": {"options": {"g": "250", "bf": "3", "b-pyramid": "normal"}},
    "short groups.mkv": {"options": {"g": "7"}},
    "open groups.mp4": {"options": {"g": "12", "x264-params": "open-gop=1"}},
    "intra refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=20"}},
    "stream.ts": {"options": {"g": "12"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "uneven.mp4": {"stamps": [3 * i + i % 2 for i in range(COUNT)]},
}


@pytest.fixture(scope="module")
def frames():
    return numbered(COUNT)


@pytest.mark.parametrize("name", FILES)
def test_frame_is_the_one_of_its_number(name, frames, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    path = encode(tmp_path / name, frames, **FILES[name])
    wanted = list(read_frames(path))
    access = FrameAccess(path)
    try:
        assert (access.count, access.size, access.broken) == (len(wanted), (96, 128), "")
        for number in ORDER:
            if number < len(wanted):
                got = access.frame(number)
                assert (
                    np.abs(got.astype(int) - wanted[number]).mean() < 6
                )  # unpacked ones are JPEGs; other frames are 50 off
    finally:
        access.close()


def test_sought_frames_are_the_same_to_the_bit(frames, tmp_path):
    path = encode(tmp_path / "a.mp4", frames, options={"g": "250", "bf": "3"})
    wanted, access = list(read_frames(path)), FrameAccess(path)
    assert isinstance(access._source, PyAVAccess)
    assert all(np.array_equal(access.frame(number), wanted[number]) for number in [*ORDER, *range(COUNT)])
    access.close()


def test_frames_before_the_last_one_need_no_seeking(frames, tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", frames, options={"g": "250", "bf": "3", "b-pyramid": "normal"})
    wanted, access = list(read_frames(path)), FrameAccess(path, behind=4)
    assert np.array_equal(access.frame(50), wanted[50])
    with monkeypatch.context() as patch:
        patch.setattr(access._source, "_seek", lambda stamp: pytest.fail("it seeks"))
        for number in (49, 46, 50, 48, 51, 52, 58, 54):
            assert np.array_equal(access.frame(number), wanted[number]), number
    for number in (53, 45, 44, 59):
        assert np.array_equal(access.frame(number), wanted[number]), number
    access.close()


@pytest.mark.parametrize("patience", [0, 1, 5, 20])
def test_frame_that_is_given_up_costs_no_later_one(patience, frames, tmp_path):
    path = encode(tmp_path / "a.mp4", frames, options={"g": "250", "bf": "3", "b-pyramid": "normal"})
    wanted = list(read_frames(path))
    for after in (0, 7, 21, 30, 45, 59):
        access = FrameAccess(path, behind=4)
        asked = iter(range(100))
        with pytest.raises(GivenUpError):
            access.frame(55, lambda asked=asked: next(asked) >= patience)
        for number in (after, min(after + 1, COUNT - 1), after // 2):
            assert np.array_equal(access.frame(number), wanted[number]), number
        access.close()


def test_frames_that_cannot_be_proven_are_unpacked(frames, tmp_path, caplog):
    path = encode(tmp_path / "a.mp4", frames)
    access = FrameAccess(path)
    access._source._timeline = access._source._timeline._replace(stamps=access._source._timeline.stamps + 1)
    with caplog.at_level(logging.WARNING):
        got = access.frame(40)
    assert "cannot be sought in by its timestamps" in caplog.text
    assert np.abs(got.astype(int) - list(read_frames(path))[40]).mean() < 6
    access.close()


def test_opencv_is_unpacked(frames, tmp_path, caplog):
    path = encode(tmp_path / "a.mp4", frames)
    access = FrameAccess(path, reader="opencv")
    assert access.count == COUNT
    assert np.abs(access.frame(33).astype(int) - frames[33]).mean() < 12
    access.close()


def test_folder_of_images_and_pages_of_one(frames, tmp_path):
    for index in (2, 10, 1):
        write_image(tmp_path / f"img{index}.png", frames[index])
    access = FrameAccess(tmp_path)
    assert (access.count, access.names) == (3, ("img1", "img2", "img10"))
    assert np.array_equal(access.frame(2), frames[10])
    with pytest.raises(IndexError, match="no frame 3: the video has the frames 0 to 2"):
        access.frame(3)


def test_file_that_breaks_off_has_the_frames_before(frames, tmp_path):
    whole = encode(tmp_path / "a.mp4", frames, options={"g": "10"}, index_first=True).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: int(0.7 * len(whole))])
    access = FrameAccess(tmp_path / "b.mp4")
    assert 20 < access.count < COUNT
    assert "the file is cut off" in access.broken
    assert np.abs(access.frame(20).astype(int) - frames[20]).mean() < 12
    access.close()


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(VideoReadError, match="cannot be read as a video"):
        FrameAccess(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError):
        FrameAccess(tmp_path / "gone.mp4")


def test_frame_of_another_size_is_refused(frames, tmp_path):
    write_image(tmp_path / "0.png", frames[0])
    write_image(tmp_path / "1.png", frames[1][:50])
    access = FrameAccess(tmp_path)
    with pytest.raises(ValueError, match=r"frame 1 is \(50, 128\) but the first was \(96, 128\)"):
        access.frame(1)
