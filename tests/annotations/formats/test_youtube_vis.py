import copy
import json

import numpy as np
import pytest

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, VideoObject

from .labels import SIZE, assert_same, given, masks, renamed, video

tools = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of its decode
GOOD = {
    "videos": [{"id": 1, "height": 2, "width": 3, "length": 2, "file_names": ["v/00000.jpg", "v/00005.jpg"]}],
    "categories": [{"id": 3, "name": "dog"}],
    "annotations": [
        {
            "id": 2,
            "video_id": 1,
            "category_id": 3,
            "segmentations": [{"size": [2, 3], "counts": [1, 2, 3]}, [[0, 0, 2, 0, 2, 1, 0, 1]]],
        },
        {"id": 4, "video_id": 1, "category_id": 3, "segmentations": [None, {"size": [2, 3], "counts": [0, 6]}]},
    ],
}


def read(tmp_path, content, **options):
    (tmp_path / "f.json").write_text(json.dumps(content))
    return read_annotations(tmp_path / "f.json", **options)


@given(masks(overlap=True))
def test_youtube_vis_when_written_and_read_is_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("vis") / "f.json"
    named = renamed(labels, objects=(VideoObject(1, category="dog"), VideoObject(7, category="cat")))
    assert write_annotations(path, named, format="youtube-vis").lost == {}
    assert recognise(path).name == "youtube-vis"
    again = read_annotations(path)
    assert_same(again, labels)
    seen = {key for frame in labels for key in frame.masks}
    assert {one.id: one.category for one in again.objects} == {
        key: {1: "dog", 7: "cat"}.get(key, "object") for key in seen
    }


@given(masks(overlap=True))
def test_youtube_vis_is_read_by_the_rule_of_its_api(tmp_path_factory, labels):
    """Source: youtubevos/cocoapi, ytvos.py, annToMask: null, or an RLE of the annotation's own height and width."""
    path = tmp_path_factory.mktemp("vis") / "f.json"
    write_annotations(path, labels, format="youtube-vis")
    content, frames = json.loads(path.read_text()), list(labels)
    (clip,) = content["videos"]
    assert (clip["height"], clip["width"], clip["length"]) == (*SIZE, len(frames))
    assert {row["category_id"] for row in content["annotations"]} <= {one["id"] for one in content["categories"]}
    for row in content["annotations"]:
        assert (row["video_id"], row["height"], row["width"], row["iscrowd"]) == (clip["id"], *SIZE, 0)
        for place, (shape, area) in enumerate(zip(row["segmentations"], row["areas"], strict=True)):
            wanted = frames[place].masks.get(row["id"])
            assert (shape is None) == (wanted is None)
            if shape is not None:
                np.testing.assert_array_equal(tools.decode(shape), wanted)
                assert area == wanted.sum()


def test_youtube_vis_written_has_the_fields_of_the_evaluator(tmp_path):
    mask = np.zeros(SIZE, bool)
    mask[2:4, 3:7] = True
    write_annotations(tmp_path / "f.json", video([FrameLabels(0), FrameLabels(5, {3: mask})]), format="youtube-vis")
    content = json.loads((tmp_path / "f.json").read_text())
    (row,) = content["annotations"]
    assert content["videos"][0]["length"] == len(row["segmentations"]) == 2
    assert (row["bboxes"], row["areas"]) == ([None, [3, 2, 4, 2]], [None, 8])
    np.testing.assert_array_equal(tools.decode(row["segmentations"][1]), mask)


def test_youtube_vis_reads_lists_polygons_and_null(tmp_path):
    first, second = read(tmp_path, GOOD)
    assert (first.index, second.index, sorted(first.masks), sorted(second.masks)) == (0, 5, [2], [2, 4])
    np.testing.assert_array_equal(first.masks[2], [[False, True, False], [True, False, False]])
    np.testing.assert_array_equal(second.masks[2], [[True, True, False], [False, False, False]])


def test_youtube_vis_of_several_videos_needs_a_name(tmp_path):
    content = copy.deepcopy(GOOD)
    content["videos"].append({"id": 2, "height": 2, "width": 3, "file_names": ["w/0.jpg"]})
    with pytest.raises(ValueError, match=r"has 2 videos, such as v, w\. Name a sequence"):
        read(tmp_path, content)
    assert [frame.masks for frame in read(tmp_path, content, sequence="w")] == [{}]


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("annotations", "segmentations", [None], "has 1 segmentations but its video 2 frames"),
        ("annotations", "id", 0, "an annotation's id is '0'"),
        ("videos", "file_names", ["v/1.jpg", "v/01.jpg"], "two file_names of a video are of the same frame"),
        ("videos", "width", 4, r"is for frames of \(2, 3\) but the video has \(2, 4\)"),
        ("categories", "id", [], "is not laid out as youtube-vis: unhashable"),
    ],
)
def test_youtube_vis_that_lies_is_refused(tmp_path, table, field, value, message):
    content = copy.deepcopy(GOOD)
    content[table][0][field] = value
    with pytest.raises(ValueError, match=message):
        list(read(tmp_path, content))


def test_youtube_vis_needs_a_size(tmp_path):
    with pytest.raises(ValueError, match="YouTube-VIS needs the size of the frames"):
        write_annotations(tmp_path / "f.json", video([FrameLabels(0)], size=None), format="youtube-vis")
