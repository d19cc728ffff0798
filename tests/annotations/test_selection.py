import numpy as np
import pytest

from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject
from siammae.annotations.selection import PackedMaps, choose, pack_masks, take_points

from .formats.labels import given, keypoints, masks

LEFT, RIGHT = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
LEFT[:, :4], RIGHT[:, 3:] = True, True
POINTS = Keypoints.of(np.array([[1.0, 2], [np.nan, np.nan]]))


ANIMALS = (VideoObject(1, "Rex", "dog"), VideoObject(2, "", "cat"), VideoObject(3, "", "cat"))


def labels(*frames, objects=ANIMALS):
    return Annotations(lambda: iter(frames), objects, ("nose", "tail"), size=(4, 6))


@given(masks())
def test_packed_masks_unpack_to_the_pixel(drawn):
    packed = pack_masks(drawn)
    frames = list(drawn)
    assert list(packed.maps) == [frame.index for frame in frames]
    assert packed.shared == []
    for frame in frames:
        ids = np.asarray(packed.maps[frame.index])
        assert set(np.unique(ids)) - {0} == set(frame.masks)
        for key, mask in frame.masks.items():
            np.testing.assert_array_equal(ids == key, mask)


def test_packed_masks_keep_the_smaller_id_where_two_overlap_void_and_who_made_them():
    void = np.zeros((4, 6), bool)
    void[0, 0] = void[1, 5] = True
    frames = [
        FrameLabels(0, {3: LEFT, 2: RIGHT}, by_person=False),
        FrameLabels(1),
        FrameLabels(4, {2: RIGHT}, void=void),
    ]
    packed = pack_masks(labels(*frames))
    np.testing.assert_array_equal(packed.maps.ids(0), np.where(RIGHT, 2, 3))
    wanted = np.where(RIGHT, 2, 0)
    wanted[0, 0] = 255
    np.testing.assert_array_equal(packed.maps.ids(4), wanted)
    assert (packed.shared, packed.authors) == ([0], {0: False, 4: True})


def test_packed_masks_refuse_ids_beyond_a_palette_no_masks_and_two_of_a_frame():
    with pytest.raises(ValueError, match="object 0 cannot be followed under this number: ids go from 1 to 254"):
        pack_masks(labels(FrameLabels(0, {0: LEFT})))
    with pytest.raises(ValueError, match="hold no mask that could be followed"):
        pack_masks(labels(FrameLabels(0, {1: np.zeros((4, 6), bool)}, {1: POINTS})))
    maps = PackedMaps()
    maps.add(3, np.ones((4, 6), np.uint8))
    with pytest.raises(ValueError, match="frame 3 has two masks"):
        maps.add(3, np.ones((4, 6), np.uint8))


def test_choose_takes_objects_by_name_category_or_id_and_numbers_them():
    source = labels(FrameLabels(0, {1: LEFT, 2: RIGHT}, {1: POINTS}, {1: 0.5, 2: 0.25}), FrameLabels(2, {2: RIGHT}))
    chosen = choose(source, {"dog": 9, "2": None})
    first, second = chosen
    assert list(second.masks) == [2]
    assert (sorted(first.masks), sorted(first.keypoints), first.confidence) == ([2, 9], [9], {9: 0.5, 2: 0.25})
    assert [one.id for one in chosen.objects] == [9, 2]
    assert [frame.masks.keys() for frame in choose(source, {"Rex": 1}, [0])] == [{1}]
    assert list(choose(source, {"1": None}))[1].masks == {}
    assert choose(source).objects == source.objects


@pytest.mark.parametrize(
    ("objects", "frames", "message"),
    [
        ({"cat": 1}, None, "'cat' are the objects 2, 3: name one by its id"),
        ({"cow": 1}, None, "no object is called 'cow': known are Rex, cat"),
        ({"3": None}, None, "object 3 is in none of the frames: there are 1"),
        ({"1": 2, "2": None}, None, "objects 1 and 2 both get the id 2"),
        ({"Rex": 2, "dog": 3}, None, "Rex, dog name an object twice"),
        ({}, [0, 7], "frame 7 has no labels: labelled are 0"),
    ],
)
def test_choose_refuses_what_is_not_there_or_not_clear(objects, frames, message):
    with pytest.raises(ValueError, match=message):
        list(choose(labels(FrameLabels(0, {1: LEFT})), objects, frames))


def test_choose_of_labels_without_any_frame_says_so():
    with pytest.raises(ValueError, match=r"frame 1 has no labels\."):
        list(choose(labels(), frames=[1]))


@given(keypoints(objects=(2, 5), hidden=True))
def test_points_are_rows_of_those_that_have_a_place_somewhere(drawn):
    points = take_points(drawn)
    frames = {frame.index: frame for frame in drawn}
    assert points.frames.keys() == frames.keys()
    assert points.hidden == sum(
        any((some.visibility == 1).any() for some in frame.keypoints.values()) for frame in frames.values()
    )
    seen = {
        (key, joint)
        for frame in frames.values()
        for key, some in frame.keypoints.items()
        for joint in np.flatnonzero(some.visibility)
    }
    assert points.rows == sorted(seen)
    assert (
        points.names == [f"object {key} {drawn.joints[joint]}" for key, joint in points.rows]
        or len({key for key, _ in points.rows}) == 1
    )
    for index, frame in frames.items():
        wanted = [frame.keypoints[key].points[joint] for key, joint in points.rows]
        np.testing.assert_array_equal(points.frames[index], wanted)


def test_points_of_objects_with_one_name_are_told_apart_and_none_are_refused():
    twins = labels(
        FrameLabels(0, keypoints={1: POINTS, 2: POINTS}), objects=(VideoObject(1, "Rex"), VideoObject(2, "Rex"))
    )
    assert take_points(twins).names == ["Rex 1 nose", "Rex 2 nose"]
    assert take_points(labels(FrameLabels(0, keypoints={1: POINTS}))).names == ["nose"]
    with pytest.raises(ValueError, match="hold no keypoint that could be followed"):
        take_points(labels(FrameLabels(0, {1: LEFT})))
