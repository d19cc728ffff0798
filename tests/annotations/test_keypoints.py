import numpy as np
import pytest

from siammae.annotations.keypoints import read_tracks, write_tracks
from siammae.propagation.propagator import FrameKeypoints

NAMES = ("head", "left, of it")
HEADER = "frame,name,x,y,confidence\n"


def test_tracks_when_written_and_read_are_equal_bit_by_bit(tmp_path):
    points = np.random.default_rng(0).normal(50, 400, (40, 2, 2)).astype(np.float32)
    points[3] = -1
    frames = [FrameKeypoints(row, np.array([1.0, 0.25], np.float32)) for row in points]
    write_tracks(tmp_path / "new" / "tracks.csv", NAMES, frames)
    np.testing.assert_array_equal(read_tracks(tmp_path / "new" / "tracks.csv", NAMES, 40), points)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tracks.csv"]


def test_write_tracks_when_a_frame_fails_leaves_no_file(tmp_path):
    def frames():
        yield FrameKeypoints(np.zeros((2, 2), np.float32), np.ones(2, np.float32))
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write_tracks(tmp_path / "tracks.csv", NAMES, frames())
    assert list(tmp_path.iterdir()) == []


def test_read_tracks_takes_lines_in_any_order_without_confidence(tmp_path):
    path = tmp_path / "tracks.csv"
    path.write_text('\ufeffname,frame,y,x\n"left, of it",1,8,7\nhead,0,2,1\nhead,1,6,5\n"left, of it",0,4,3\n', "utf-8")
    np.testing.assert_array_equal(read_tracks(path, NAMES, 2), [[[1, 2], [3, 4]], [[5, 6], [7, 8]]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no column frame: the first line must be frame,name,x,y,confidence"),
        ("frame,name,x\n", r"has no column y"),
        (HEADER + "0,head,1,2,1\n1,head,1,2,1\n", r"line 3: frame is '1': the video has the frames 0 to 0"),
        (HEADER + "0.0,head,1,2,1\n", r"line 2: frame is '0\.0'"),
        (HEADER + "0,tail,1,2,1\n", r"line 2: name is 'tail': known are head, left, of it"),
        (HEADER + "0\n", r"line 2: name is ''"),
        (HEADER + "0,head,one,2,1\n", r"line 2: x is 'one' and y '2': they must be numbers"),
        (HEADER + "0,head,1\n", r"line 2: x is '1' and y None"),
        (HEADER + "0,head,1,nan,1\n", r"line 2: x is 1\.0 and y nan: they must be finite"),
        (HEADER + "0,head,1,2,1\n0,head,1,2,1\n", r"line 3: frame 0 has 'head' twice"),
        (HEADER + "0,head,1,2,1\n", r"has no 'left, of it' in frame 0: all of the 1 frames need it"),
    ],
)
def test_read_tracks_when_the_file_is_wrong_names_the_line(tmp_path, text, message):
    (tmp_path / "tracks.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"tracks\.csv.*{message}"):
        read_tracks(tmp_path / "tracks.csv", NAMES, 1)
