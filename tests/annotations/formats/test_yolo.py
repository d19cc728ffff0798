import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.format import Feature
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, VideoObject

from .labels import SIZE, assert_same, given, masks, renamed, video


@given(masks(objects=(1, 2, 3), overlap=True))
def test_yolo_when_written_and_read_is_equal_but_for_holes(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("yolo") / "out"
    named = renamed(labels, objects=tuple(VideoObject(key, category=f"kind {key}") for key in (1, 2, 3)))
    write_annotations(path, named, format="yolo")
    assert recognise(path).name == "yolo"
    again = read_annotations(path, size=SIZE)
    solid = [
        FrameLabels(one.index, {key: binary_fill_holes(mask) for key, mask in one.masks.items()}) for one in labels
    ]
    assert_same(again, solid)
    assert [one.category for one in again.objects] == ["kind 1", "kind 2", "kind 3"]


def test_yolo_is_filled_by_the_rule_of_ultralytics(tmp_path):
    import cv2

    mask = np.zeros(SIZE, bool)
    mask[1:6, 2:9] = True
    write_annotations(tmp_path / "out", video([FrameLabels(4, {1: mask})]), format="yolo")
    fields = (tmp_path / "out" / "labels" / "000004.txt").read_text().split()
    corners = np.array(fields[1:], float).reshape(-1, 2) * (SIZE[1], SIZE[0])
    theirs = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(theirs, [corners.astype(np.int32)], 1)
    np.testing.assert_array_equal(theirs, mask)


def test_yolo_says_in_how_many_frames_holes_and_objects_of_a_class_are_lost(tmp_path):
    ring, solid = np.ones(SIZE, bool), np.ones(SIZE, bool)
    ring[4, 4] = False
    objects = (VideoObject(1, category="dog"), VideoObject(2, category="dog"), VideoObject(3, category="cat"))
    layers = [{1: ring, 3: ring}, {2: solid}, {1: solid, 2: ring}]
    frames = [FrameLabels(index, masks) for index, masks in enumerate(layers)]
    lost = write_annotations(tmp_path / "out", video(frames, objects=objects), format="yolo").lost
    assert lost == {Feature.HOLES: 2, Feature.ALIKE: 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0 0 1 1", "line 1 has 5 numbers: it must be class x y"),
        ("0 0 0 1 1 2 1", "a corner is 0.0 or 2.0: they must be 0 to 1"),
        ("0 0 0 1 1 nan 1", "a corner is 'nan'"),
        ("0.5 0 0 1 1 0 1", "the class is '0.5'"),
    ],
)
def test_yolo_that_lies_is_refused(tmp_path, line, message):
    (tmp_path / "f0.txt").write_text(line)
    with pytest.raises(ValueError, match=message):
        list(read_annotations(tmp_path, size=SIZE, format="yolo"))


def test_yolo_needs_a_size_and_one_file_a_frame(tmp_path):
    (tmp_path / "f0.txt").write_text("0 0 0 1 1 0 1")
    with pytest.raises(ValueError, match="does not say how large its frames are"):
        read_annotations(tmp_path)
    (tmp_path / "g0.txt").write_text("")
    with pytest.raises(ValueError, match=r"f0\.txt and g0\.txt are both of frame 0"):
        read_annotations(tmp_path, size=SIZE)
