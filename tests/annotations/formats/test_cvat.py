import numpy as np
import pytest

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, VideoObject

from .labels import SIZE, assert_same, given, keypoints, masks, renamed, video

ElementTree = pytest.importorskip("defusedxml.ElementTree")
META = "<meta><task><size>9</size><original_size><width>14</width><height>9</height></original_size></task></meta>"


def read(tmp_path, body, **options):
    (tmp_path / "f.xml").write_text(f"<?xml version='1.0'?>\n<annotations>{META}{body}</annotations>")
    return read_annotations(tmp_path / "f.xml", **options)


@given(masks(overlap=True))
def test_cvat_masks_when_written_and_read_are_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("cvat") / "f.xml"
    objects = tuple(VideoObject(key, category=f'<kind> & "{key % 2}"') for key in (1, 2, 7))
    assert write_annotations(path, renamed(labels, objects=objects), format="cvat").lost == {}
    assert recognise(path).name == "cvat"
    again = read_annotations(path)
    assert_same(again, labels)
    assert (again.size, again.frame_count) == (SIZE, 5)
    assert all(one.category == f'<kind> & "{one.id % 2}"' for one in again.objects)


@given(masks(overlap=True))
def test_cvat_written_follows_the_rules_of_its_documentation(tmp_path_factory, labels):
    """Source: docs.cvat.ai, xml_format: tracks with ids, labels of the task, runs that fill a mask's box."""
    path = tmp_path_factory.mktemp("cvat") / "f.xml"
    write_annotations(path, labels, format="cvat")
    root = ElementTree.parse(path).getroot()
    known = {name.text for name in root.findall("meta/task/labels/label/name")}
    tracks = root.findall("track")
    assert [int(track.get("id")) for track in tracks] == list(range(len(tracks)))
    for track in tracks:
        (shape,) = track  # its importer keeps the first mask of a track
        left, top, width, height = (int(shape.get(side)) for side in ("left", "top", "width", "height"))
        runs = [int(run) for run in shape.get("rle").split(",")]
        inner = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        wanted = next(one for one in labels if one.index == int(shape.get("frame"))).masks[int(track.get("group_id"))]
        np.testing.assert_array_equal(inner, wanted[top : top + height, left : left + width])
        assert inner.sum() == wanted.sum()
        assert track.get("label") in known
        assert (shape.get("keyframe"), shape.get("outside")) == ("1", "0")


@given(keypoints(objects=(3, 4), hidden=True))
def test_cvat_skeletons_when_written_and_read_are_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("cvat") / "f.xml"
    assert write_annotations(path, labels, format="cvat").lost == {}
    again = read_annotations(path)
    assert again.joints == labels.joints
    assert_same(again, labels)


def test_cvat_keeps_who_made_a_frame(tmp_path):
    frames = [
        FrameLabels(index, {1: np.ones(SIZE, bool)}, by_person=by) for index, by in enumerate((True, False, None))
    ]
    write_annotations(tmp_path / "f.xml", video(frames), format="cvat")
    assert [frame.by_person for frame in read_annotations(tmp_path / "f.xml")] == [True, False, None]


def test_cvat_point_in_the_middle_of_the_first_pixel_is_at_zero(tmp_path):
    labels = read(
        tmp_path,
        '<track id="0" label="dog" source="manual"><points frame="3" keyframe="0" outside="0" occluded="1" '
        'points="0.50,0.50;3.00,4.50" z_order="0"></points><points frame="4" outside="1" points="1,1"/></track>',
    )
    (frame,) = labels
    assert (frame.index, frame.by_person, labels.joints) == (3, False, ("1", "2"))
    np.testing.assert_array_equal(frame.keypoints[1].points, [[0, 0], [2.5, 4]])
    assert frame.keypoints[1].visibility.tolist() == [1, 1]


def test_cvat_reads_polygon_tracks_and_masks_of_a_label_and_says_what_it_leaves_out(tmp_path, caplog):
    polygon = '<polygon frame="{}" keyframe="1" outside="0" points="1.00,2.00;4.00,2.00;4.00,5.00;1.00,5.00"/>'
    mask = (
        '<track id="{0}" label="cat"><mask frame="{0}" keyframe="1" outside="0" rle="1, 2, 3" left="2" top="1" '
        'width="3" height="2"/></track>'
    )
    labels = read(
        tmp_path,
        f'<track id="0" label="dog">{polygon.format(1)}{polygon.format(2)}</track>{mask.format(1)}{mask.format(2)}'
        '<track id="5" label="dog"><box frame="1"/></track>',
    )
    first, second = labels
    assert sorted(first.masks) == sorted(second.masks) == [1, 2]
    assert [one.category for one in labels.objects] == ["dog", "cat"]
    np.testing.assert_array_equal(np.argwhere(first.masks[1])[[0, -1]], [[2, 1], [4, 3]])
    np.testing.assert_array_equal(np.argwhere(first.masks[2]), [[1, 3], [1, 4]])
    assert "1 of the kind <box> are neither masks nor keypoints; left out" in caplog.text


def test_cvat_for_images_is_read(tmp_path):
    image = (
        '<image id="{0}" name="f{0}.png" width="14" height="9"><polygon label="dog" source="manual" occluded="0" '
        'points="1,2;4,2;4,5;1,5" z_order="0"/><tag label="x"/></image>'
    )
    frames = list(read(tmp_path, image.format(0) + image.format(7)))
    assert [(frame.index, sorted(frame.masks), frame.by_person) for frame in frames] == [(0, [1], True), (7, [1], True)]


def test_cvat_image_with_two_of_a_label_has_two_objects(tmp_path):
    polygon = '<polygon label="dog" points="{0},2;{1},2;{1},5;{0},5"/>'
    image = f'<image id="0" name="f" width="14" height="9">{polygon.format(1, 4)}{polygon.format(6, 9)}</image>'
    (frame,) = read(tmp_path, image)
    assert [int(mask.sum()) for mask in frame.masks.values()] == [9, 9]
    with pytest.raises(ValueError, match="frame 0 has several 'dog' that are neither grouped nor tracks"):
        read(tmp_path, image + image.replace('id="0"', 'id="1"'))


def test_cvat_frame_is_read_where_others_cannot_be_told_apart_or_have_another_size(tmp_path):
    polygon = '<polygon label="dog" points="1,2;4,2;4,5;1,5"/>'
    image = '<image id="{}" name="f" width="{}" height="9">' + 2 * polygon + "</image>"
    body = image.format(0, 14) + image.format(1, 20)
    with pytest.raises(ValueError, match=r"is for frames of \(9, 20\)"):
        read(tmp_path, body)
    (frame,) = read(tmp_path, body, frames=[0])
    assert (frame.index, sorted(frame.masks)) == (0, [1, 2])


MASK = (
    '<track id="{}" label="dog"{}>'
    '<mask frame="{}" keyframe="1" rle="{}" left="0" top="0" width="2" height="2"/></track>'
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<track", "is no XML"),
        (MASK.format(0, "", 0, "5"), "a run of 5 to 5 of 4 pixels"),
        (MASK.format(0, "", 0, "x"), "a run is 'x'"),
        (MASK.format(0, "", 0, ""), "a run is ''"),
        (MASK.format(0, "", -1, "4"), "a shape's frame is '-1'"),
        (MASK.format(0, ' group_id="x"', 0, "4"), "a group_id is 'x'"),
        (MASK.format(0, "", 0, "4").replace('left="0"', 'left="13"'), "a mask reaches out of the frame"),
        (
            MASK.format(0, "", 0, "4") + MASK.format(1, "", 0, "4") + MASK.format(2, "", 1, "4"),
            "frame 0 has several 'dog'",
        ),
        (MASK.format(0, ' task_id="1"', 0, "4") + MASK.format(0, ' task_id="2"', 0, "4"), "holds 2 tasks"),
        ('<track id="0"><polygon frame="0" points="1,2;3"/></track>', "a polygon must be a list"),
        ('<track id="0"><points frame="0" points="1,2;3"/></track>', "points must be x,y;x,y and so on, got '1,2;3'"),
        ('<track id="0"><points frame="0" points="1,nan"/></track>', "a point is 'nan'"),
        (2 * '<track id="0" group_id="1"><points frame="0" points="1,2"/></track>', "object 1 has two sets of points"),
        (
            '<track id="0"><skeleton frame="0"><points label="a" points="1,2;3,4"/></skeleton></track>',
            "a joint of a skeleton has 2 points",
        ),
        ('<image id="0" width="15" height="9"><polygon points="1,2"/></image>', r"is for frames of \(9, 15\)"),
    ],
)
def test_cvat_that_lies_is_refused(tmp_path, body, message):
    with pytest.raises(ValueError, match=message):
        list(read(tmp_path, body))


@pytest.mark.parametrize(
    "entity", ['<!ENTITY a "ha">', '<!ENTITY a SYSTEM "file:///etc/passwd">', '<!ENTITY % a SYSTEM "http://x/">', ""]
)
def test_cvat_with_a_dtd_or_entities_is_refused(tmp_path, entity):
    path = tmp_path / "f.xml"
    path.write_text(f"<?xml version='1.0'?><!DOCTYPE annotations [{entity}]><annotations>&a;</annotations>")
    with pytest.raises(ValueError, match="defines entities or a DTD"):
        read_annotations(path)


def test_cvat_without_size_needs_the_video(tmp_path):
    (tmp_path / "f.xml").write_text(f"<annotations>{MASK.format(0, '', 0, '4')}</annotations>")
    with pytest.raises(ValueError, match="does not say how large its frames are"):
        list(read_annotations(tmp_path / "f.xml"))
    assert len(list(read_annotations(tmp_path / "f.xml", size=(2, 2)))) == 1
