import numpy as np
import pytest

from siammae.annotations.keypoints import read_points, read_tracks, write_tracks
from siammae.propagation.keypoint_propagator import FrameKeypoints

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
        (HEADER + "0,head,1,2,1\n1,head,1,2,1\n", r"line 3: frame is 1: the video has the frames 0 to 0"),
        (HEADER + "0.0,head,1,2,1\n", r"line 2: frame is '0\.0': frames are counted 0, 1, 2"),
        (HEADER + "9" * 5000 + ",head,1,2,1\n", r"line 2: frame is '99999999999999999999': frames are counted"),
        ("x," + HEADER, r"has the column x twice: the first line must be frame,name,x,y,confidence"),
        (HEADER + "0,head,1,5,2,5,1\n", r"line 2 has 7 values for the 5 columns .*write numbers with a point"),
        (HEADER + '0,"head,1,2,1\n1,head,1,2,1\n', r"line 3 cannot be read as a table: unexpected end of data"),
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


POINTS = "name,x,y\n"


def read_text(tmp_path, text):
    path = tmp_path / "points.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_points([(None, path)])


@pytest.mark.parametrize(
    ("text", "names", "points"),
    [
        (POINTS + "head,108.5,120\nhip,1e2,-3\n", ["head", "hip"], [[108.5, 120], [100, -3]]),
        ("\ufeff Y,X \r\n1,2\r\n\r\n3,4\r\n", ["point_1", "point_2"], [[2, 1], [4, 3]]),
        (POINTS + '\n "left, of it", 1,2\n , , \n,3,4', ["left, of it", "point_2"], [[1, 2], [3, 4]]),
        ("id,x,id,y\na,1,b,2\n", ["point_1"], [[1, 2]]),  # a column that is not read may come twice
    ],
)
def test_read_points_takes_names_and_places_of_the_first_frame(tmp_path, text, names, points):
    got_names, frames = read_text(tmp_path, text)
    assert got_names == names
    assert list(frames) == [0]
    assert frames[0].dtype == np.float64
    np.testing.assert_array_equal(frames[0], points)


NAN = [np.nan, np.nan]


def test_read_points_takes_every_frame_of_a_table_with_frames(tmp_path):
    names, frames = read_text(tmp_path, HEADER + "9,head,7,7,1\n0,hip,1,2,1\n9,hip,-1,-1,1\n0,tail,3,4,1\n")
    assert names == ["head", "hip", "tail"]
    assert sorted(frames) == [0, 9]
    np.testing.assert_array_equal(frames[0], [NAN, [1, 2], [3, 4]])
    np.testing.assert_array_equal(frames[9], [[7, 7], [-1, -1], NAN])


def test_read_points_joins_tables_by_the_names(tmp_path):
    for name, text in {"a": POINTS + "head,1,2\nhip,3,4\n", "b": POINTS + "tail,5,6\nhead,7,8\n"}.items():
        (tmp_path / name).write_text(text)
    names, frames = read_points([(None, tmp_path / "a"), (40, tmp_path / "b")])
    assert names == ["head", "hip", "tail"]
    np.testing.assert_array_equal(frames[0], [[1, 2], [3, 4], NAN])
    np.testing.assert_array_equal(frames[40], [[7, 8], NAN, [5, 6]])
    with pytest.raises(ValueError, match=r"a, line 2: the keypoint 'head' is there twice"):
        read_points([(None, tmp_path / "a"), (0, tmp_path / "a")])
    (tmp_path / "c").write_text(HEADER + "0,head,1,2,1\n")
    with pytest.raises(ValueError, match=r"c has frames of its own: leave out 40= before it"):
        read_points([(40, tmp_path / "c")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no column x: the first line must be name,x,y \(or x,y\), but is nothing\."),
        ("name;x;y\nhead;1;2\n", r"has no column x: .*but is name;x;y\."),
        ("name,x,y,x,y\nhead,1,2,3,4\n", r"has the column x twice: the first line must be name,x,y"),
        ("name,name,x,y\na,b,1,2\n", r"has the column name twice"),
        (POINTS, r"holds no keypoint: write one name,x,y a line"),
        (HEADER + "zero,head,1,2,1\n", r"line 2: frame is 'zero': frames are counted 0, 1, 2"),
        (
            POINTS + "head,108,5,120,25\n",
            r"line 2 has 5 values for the 3 columns name,x,y: write numbers with a point, as 1\.5",
        ),
        ("x,y\n108,5,120,25\n", r"line 2 has 4 values for the 2 columns x,y"),
        (POINTS + "\n\nhead,1,2\n\n\nhip,bad,153\n", r"line 7: x is 'bad' and y '153': they must be numbers"),
        (POINTS + "head,1\n", r"line 2: x is '1' and y None: they must be numbers"),
        (POINTS + "head,10_5,2\n", r"line 2: x is '10_5' and y '2': they must be numbers"),
        (POINTS + "head,nan,2\n", r"line 2: x is nan and y 2\.0: they must be finite"),
        (POINTS + "head,1,2\nhead,3,4\n", r"line 3: the keypoint 'head' is there twice"),
        (POINTS.encode() + b"\xf6hr,3,4\n", r"is no UTF-8 text \(invalid start byte\): save it as UTF-8"),
        (POINTS + "a" * 200_000 + ",1,2\n", r"line 2 cannot be read as a table: field larger than field limit"),
    ],
)
def test_read_points_when_the_table_is_wrong_names_file_and_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"points\.csv.*{message}"):
        read_text(tmp_path, text)
