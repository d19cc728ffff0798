import copy
import json

import numpy as np
import pytest
from hypothesis import strategies as st

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, Keypoints, VideoObject

from .labels import SIZE, assert_same, given, keypoints, masks, renamed, video

tools = pytest.importorskip("pycocotools.coco")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of its decode
GOOD = {
    "images": [{"id": 7, "file_name": "a/frame_000003.png", "height": 9, "width": 14}],
    "categories": [{"id": 4, "name": "dog", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 4, "segmentation": [[1, 2, 4, 2, 4, 5, 1, 5]], "score": 0.5},
        {"id": 2, "image_id": 7, "category_id": 4, "keypoints": [1.5, 2, 1, 0, 0, 0], "num_keypoints": 1},
        {"id": 3, "image_id": 7, "category_id": 4, "iscrowd": 1, "segmentation": {"size": [9, 14], "counts": [126]}},
    ],
}


def read(tmp_path, content, **options):
    (tmp_path / "f.json").write_text(json.dumps(content))
    return read_annotations(tmp_path / "f.json", **options)


@given(masks(overlap=True), keypoints(objects=(1, 9), hidden=True))
def test_coco_when_written_and_read_is_equal(tmp_path_factory, labels, points):
    path = tmp_path_factory.mktemp("coco") / "f.json"
    merged = {frame.index: frame for frame in labels}
    for frame in points:
        known = merged.get(frame.index, FrameLabels(frame.index))
        merged[frame.index] = FrameLabels(frame.index, known.masks, frame.keypoints, dict.fromkeys(known.masks, 0.25))
    objects = tuple(VideoObject(key, category=f"kind {key % 2}") for key in (1, 2, 7, 9))
    both = video([merged[index] for index in sorted(merged)], objects=objects, joints=points.joints, skeleton=((0, 2),))
    assert write_annotations(path, both, format="coco").lost == {}
    assert recognise(path).name == "coco"
    again = read_annotations(path)
    assert_same(again, both)
    assert (again.joints, again.skeleton, again.size) == (points.joints, ((0, 2),), SIZE)
    assert all(again.object(one.id).category == one.category for one in again.objects for one in [both.object(one.id)])
    assert [frame.confidence for frame in again] == [dict(frame.confidence) for frame in both]


@given(masks(overlap=True))
def test_coco_written_is_read_by_pycocotools(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("coco") / "f.json"
    write_annotations(path, labels, format="coco")
    theirs = tools.COCO(str(path))
    frames = list(labels)
    assert len(theirs.getImgIds()) == len(frames)
    for image, frame in zip(theirs.loadImgs(theirs.getImgIds()), frames, strict=True):
        rows = theirs.loadAnns(theirs.getAnnIds(image["id"]))
        assert {row["track_id"] for row in rows} == set(frame.masks)
        for row in rows:
            np.testing.assert_array_equal(theirs.annToMask(row), frame.masks[row["track_id"]])


def test_coco_reads_polygons_crowds_and_keypoints_of_one_image(tmp_path):
    labels = read(tmp_path, GOOD)
    (frame,) = labels
    assert (frame.index, frame.name, frame.confidence) == (3, "frame_000003", {1: 0.5})
    np.testing.assert_array_equal(np.argwhere(frame.masks[1])[[0, -1]], [[2, 1], [4, 3]])
    np.testing.assert_array_equal(frame.keypoints[2].points, [[1.5, 2], [np.nan, np.nan]])
    assert frame.keypoints[2].visibility.tolist() == [1, 0]
    assert not frame.void.any()
    assert (labels.joints, labels.skeleton) == (("nose", "tail"), ((0, 1),))
    assert {one.category for one in labels.objects} == {"dog"}


def test_coco_without_track_ids_is_told_apart_by_category_or_refused(tmp_path):
    content = copy.deepcopy(GOOD)
    content["images"].append({"id": 8, "file_name": "a/frame_000004.png", "height": 9, "width": 14})
    content["annotations"][1]["image_id"] = 8
    assert [sorted({*frame.masks, *frame.keypoints}) for frame in read(tmp_path, content)] == [[1], [1]]
    content["annotations"].append(dict(content["annotations"][1], id=9))
    with pytest.raises(ValueError, match="has no track_id, and an image has two objects of a category"):
        read(tmp_path, content)


def test_coco_frame_is_read_where_others_cannot_be_told_apart_or_have_another_size(tmp_path):
    content = copy.deepcopy(GOOD)
    content["images"].append({"id": 8, "file_name": "a/frame_000004.png", "height": 20, "width": 20})
    content["annotations"].append(dict(content["annotations"][0], id=9, image_id=8))
    (frame,) = read(tmp_path, content, frames=[3])
    assert (frame.index, sorted({*frame.masks, *frame.keypoints})) == (3, [1, 2])
    with pytest.raises(ValueError, match=r"frame 5 has no labels: labelled are 3, 4\."):
        read(tmp_path, content, frames=[5])
    with pytest.raises(ValueError, match=r"is for frames of \(20, 20\)"):
        read(tmp_path, content)


def test_coco_of_several_videos_needs_a_name_and_track_0_becomes_1(tmp_path):
    content = copy.deepcopy(GOOD)
    content["videos"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content["images"][0]["video_id"] = 2
    for key, row in enumerate(content["annotations"]):
        row["track_id"] = key
    with pytest.raises(ValueError, match=r"has the videos a, b\. Name one"):
        read(tmp_path, content)
    (frame,) = read(tmp_path, content, sequence="b")
    assert set(frame.masks) == {1}
    with pytest.raises(ValueError, match="lists no images"):
        read(tmp_path, content, sequence="a")


def test_coco_takes_posetracks_image_ids_for_no_frames(tmp_path):
    content = json.loads(json.dumps(GOOD))
    image, rows = content["images"][0], content["annotations"]
    image |= {"id": 10128340007, "frame_id": 10128340007, "file_name": "images/val/012834_mpii_test/000007.jpg"}
    for key, row in enumerate(rows):
        row |= {"image_id": image["id"], "track_id": key + 1}
    (frame,) = read(tmp_path, content)
    assert frame.index == 7


def change(*steps):
    *path, last, value = steps

    def apply(content):
        for step in path:
            content = content[step]
        content[last] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change("images", []), "lists no images"),
        (change("images", 0, "height", 10**9), "frame size 1000000000 x 14"),
        (change("images", 0, "frame_id", -1), "an image's frame is '-1'"),
        (change("images", [*GOOD["images"], dict(GOOD["images"][0], id=9)]), "are both of frame 3"),
        (change("images", 0, {}), "has no 'file_name'"),
        (change("annotations", 0, "category_id", 5), "has the category 5, which is not listed"),
        (change("annotations", 0, "image_id", []), "is not laid out as coco: unhashable type"),
        (change("annotations", 1, "keypoints", [1, 2]), "keypoints must be x, y, v for each of the category's 2 names"),
        (change("annotations", 1, "keypoints", [1, 2, 3, 0, 0, 0]), "a keypoint's v is none of 0"),
        (change("annotations", 1, "keypoints", [1, "x", 2, 0, 0, 0]), "a keypoint is 'x'"),
        (change("annotations", 0, "score", "high"), "a score is 'high'"),
        (change("annotations", 0, "segmentation", [[1, 2]]), "a polygon must be a list"),
        (change("annotations", 0, "segmentation", {"size": [9, 9], "counts": "1"}), r"is for frames of \(9, 9\)"),
        (change("categories", 0, "skeleton", [[1, 3]]), "an end of a bone is '3'"),
        (change("categories", 0, "skeleton", [1]), "a skeleton must be a list of pairs"),
    ],
)
def test_coco_that_lies_is_refused(tmp_path, spoil, message):
    content = copy.deepcopy(GOOD)
    spoil(content)
    with pytest.raises(ValueError, match=message):
        list(read(tmp_path, content))


def test_coco_refuses_two_sets_of_joints_and_frames_without_size(tmp_path):
    content = copy.deepcopy(GOOD)
    content["categories"].append({"id": 5, "name": "cat", "keypoints": ["ear"]})
    content["annotations"].append({"id": 4, "image_id": 7, "category_id": 5, "keypoints": [1, 1, 2]})
    with pytest.raises(ValueError, match="has categories with different keypoints"):
        read(tmp_path, content)
    points = FrameLabels(0, keypoints={1: Keypoints.of(np.ones((1, 2)))})
    with pytest.raises(ValueError, match="COCO needs the size of the frames"):
        write_annotations(tmp_path / "out.json", video([points], size=None), format="coco")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner),
    max_leaves=5,
)


@given(st.data())
def test_coco_with_any_value_anywhere_is_read_or_refused_in_one_line(tmp_path_factory, data):
    content = copy.deepcopy(GOOD)
    table = data.draw(st.sampled_from(sorted(content)))
    row = data.draw(st.sampled_from(content[table]))
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(JSON)
    said = ""
    try:
        list(read(tmp_path_factory.mktemp("fuzz"), content))
    except ValueError as error:
        said = str(error)
    assert "\n" not in said


def test_coco_says_that_names_are_lost(tmp_path):
    labels = renamed(
        video([FrameLabels(0, {1: np.ones(SIZE, bool)}, by_person=True)]), objects=(VideoObject(1, "Rex"),)
    )
    lost = write_annotations(tmp_path / "f.json", labels, format="coco").lost
    assert {str(feature) for feature in lost} == {"names of objects", "which frames a person made"}
