import numpy as np
import pytest

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.registry import recognise
from siammae.annotations.keypoints import write_tracks
from siammae.annotations.model import FrameLabels, Keypoints

from .labels import assert_same, given, keypoints, video

HEADER = "frame,name,x,y,confidence\n"


@given(keypoints(sure=True))
def test_tracks_when_written_and_read_are_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("tracks") / "f.csv"
    assert write_annotations(path, labels, format="tracks").lost == {}
    assert recognise(path).name == "tracks"
    again = read_annotations(path)
    assert again.joints == labels.joints
    assert_same(again, labels, confidence=True)


def test_tracks_of_the_command_track_are_read(tmp_path):
    points = np.array([[[1, 2], [-1, -1]]], np.float32)
    write_tracks(tmp_path / "f.csv", ("nose", "tail"), [(points[0], np.float32([0.5, 0]))])
    (frame,) = read_annotations(tmp_path / "f.csv")
    assert frame.keypoints[1].visibility.tolist() == [2, 0]
    np.testing.assert_array_equal(frame.keypoints[1].points[0], [1, 2])


def test_tracks_hold_one_object_and_say_so(tmp_path):
    some = Keypoints.of(np.ones((1, 2)))
    labels = video([FrameLabels(0, keypoints={1: some, 2: some})], joints=("nose",))
    lost = write_annotations(tmp_path / "f.csv", labels, format="tracks").lost
    assert [str(feature) for feature in lost] == ["keypoints of several objects"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame,name,x\n", "has no column y"),
        (HEADER + "0,a,1,2,1\n0,a,1,2,1\n", "line 3: frame 0 has 'a' twice"),
        (HEADER + "-1,a,1,2,1\n", "line 2: frame is '-1'"),
        (HEADER + "0,a,nan,2,1\n", "line 2: x is 'nan'"),
    ],
)
def test_tracks_that_lie_are_refused(tmp_path, text, message):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "f.csv", format="tracks")


def test_tracks_refuse_a_joint_where_nothing_is(tmp_path):
    labels = video([FrameLabels(0, keypoints={1: Keypoints.of(-np.ones((1, 2)))})], joints=("nose",))
    with pytest.raises(ValueError, match="'nose' is at -1, -1, which says: nothing there"):
        write_annotations(tmp_path / "f.csv", labels, format="tracks")


def test_tracks_with_decimal_commas_are_refused_and_not_read_as_other_places(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("frame,name,x,y,confidence\n0,head,108,5,120,25,1\n")
    with pytest.raises(ValueError, match=r"line 2 has 7 values for the 5 columns .*write numbers with a point"):
        read_annotations(path)
