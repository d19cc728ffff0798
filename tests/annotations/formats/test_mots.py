import numpy as np
import pytest
from PIL import Image

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, VideoObject

from .labels import SIZE, assert_same, given, masks, renamed, video

tools = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of its decode


@given(masks(objects=(1001, 2001, 2002)))
def test_mots_when_written_and_read_is_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("mots") / "f.txt"
    named = renamed(labels, objects=(VideoObject(1001, category="car"), VideoObject(2001, category="pedestrian")))
    assert write_annotations(path, named, format="mots").lost == {}
    assert recognise(path).name == "mots"
    again = read_annotations(path)
    assert_same(again, labels)
    assert all(one.category == {1001: "car", 2001: "pedestrian"}.get(one.id, "") for one in again.objects)
    for line in path.read_text().splitlines():
        frame, key, _, height, width, counts = line.split()
        theirs = tools.decode({"size": [int(height), int(width)], "counts": counts})
        wanted = next(one for one in labels if one.index == int(frame)).masks[int(key)]
        np.testing.assert_array_equal(theirs, wanted)


def test_mots_keeps_void_as_class_10_and_says_that_other_categories_are_lost(tmp_path):
    mask = np.eye(*SIZE, dtype=bool)
    labels = video([FrameLabels(2, {5: mask}, void=~mask)], objects=(VideoObject(5, category="dog"),))
    lost = write_annotations(tmp_path / "f.txt", labels, format="mots").lost
    assert [str(feature) for feature in lost] == ["categories"]
    (frame,) = read_annotations(tmp_path / "f.txt")
    np.testing.assert_array_equal(frame.void, ~mask)


def test_mots_numbers_are_those_in_the_names_of_images(tmp_path):
    (tmp_path / "img1").mkdir()
    for number in (1, 2, 3):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "img1" / f"{number:06d}.png")
    (tmp_path / "gt.txt").write_text("2 2001 2 2 2 04\n")
    assert [frame.index for frame in read_annotations(tmp_path / "gt.txt")] == [2]
    assert [frame.index for frame in read_annotations(tmp_path / "gt.txt", video=tmp_path / "img1")] == [1]
    (tmp_path / "gt.txt").write_text("4 2001 2 2 2 04\n")
    with pytest.raises(ValueError, match="labels frame 4, which no image of the video is called"):
        read_annotations(tmp_path / "gt.txt", video=tmp_path / "img1")


def test_mots_object_0_becomes_1(tmp_path):
    (tmp_path / "gt.txt").write_text("0 0 2 2 2 04\n0 1 2 2 2 4\n")
    (frame,) = read_annotations(tmp_path / "gt.txt")
    assert sorted(frame.masks) == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no lines"),
        ("0 1 2 2\n", "line 1 has 4 fields"),
        ("0 1 2 2 2 04\n0 1 1 2 2 04\n", "line 2: object 1 is of class 1 but was of 2"),
        ("0 1 2 2 2 04\n0 1 2 2 2 04\n", "frame 0 has object 1 twice"),
        ("0 1 2 2 2 05\n", "a run of 0 to 5 of 4 pixels"),
        ("0 x 2 2 2 04\n", "a field is 'x'"),
        ("0 1 2 2 999999 04\n", "frame size 2 x 999999"),
        ("0 1 2 2 2 04\n1 1 2 2 3 06\n", r"line 2 is for frames of \(2, 3\) but the video has \(2, 2\)"),
    ],
)
def test_mots_that_lies_is_refused(tmp_path, text, message):
    (tmp_path / "f.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_annotations(tmp_path / "f.txt", format="mots"))
