"""Written videos and pictures: rates that a container can say, full disks, names."""

import os

import numpy as np
import pytest

from siammae.frames import VideoWriter, frame_rate, read_frames, write_animation, write_image

# --- what a container can say, and what is really in it


@pytest.mark.parametrize(
    ("suffix", "given", "fps"),
    [
        (".mp4", 183.4655, 183.47),
        (".mp4", 143.856, 143.86),
        (".mp4", 999.9996, 1000),
        (".mp4", 90000, 1000),
        (".mp4", 23.976, 23.976),
        (".mp4", 0.001, 0.01),
        (".avi", 183.4655, 183.47),
        (".avi", 90000, 600),
        (".webm", 183.4655, 183.47),
        (".webm", 90000, 1000),
    ],
)
def test_video_writer_when_the_rate_is_odd_rounds_it_to_what_the_container_can_say(
    tmp_path, caplog, suffix, given, fps
):
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, fps=given) as video:
        for index in range(10):
            video.write(np.full((48, 64, 3), 20 * index, np.uint8))
    assert video.fps == fps
    assert frame_rate(path) == pytest.approx(fps, rel=1e-3)
    assert len(list(read_frames(path))) == 10
    assert bool(caplog.records) == (abs(given / fps - 1) > 0.01)


def write_noise(path):
    rng = np.random.default_rng(0)
    with VideoWriter(path) as video:
        for _ in range(8):
            video.write(rng.integers(0, 255, (48, 64, 3), np.uint8))


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
def test_video_writer_when_the_disk_is_full_raises_and_leaves_the_old_file(tmp_path, full_disk, suffix):
    path = tmp_path / f"a{suffix}"
    write_noise(path)
    size = path.stat().st_size
    path.write_bytes(b"old")
    for room in (0, 4000, size // 2, size - 300, size - 20, size - 1):
        with (
            full_disk(room),
            pytest.raises(OSError, match=r"(?s)a\.\w+ was not written: .* of 8 frames|cannot write .*a\.mp4.*disk"),
        ):
            write_noise(path)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif"])
def test_write_image_when_the_disk_is_full_raises_and_names_the_file(tmp_path, full_disk, name):
    frame = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    write = write_image if name != "a.gif" else lambda path, frame: write_animation(path, [frame])
    with full_disk(4000), pytest.raises(OSError, match=rf"File too large: '.*{name}'"):
        write(tmp_path / name, frame)
    assert not list(tmp_path.iterdir())


def test_video_writer_when_the_name_is_not_utf_8_raises(tmp_path):
    for path in (tmp_path / os.fsdecode(b"\xff.mp4"), tmp_path / os.fsdecode(b"\xff") / "a.mp4"):
        with pytest.raises(ValueError, match=r"cannot write .*udcff.*OpenCV needs a name in UTF-8"):
            VideoWriter(path)
