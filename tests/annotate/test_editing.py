"""What a person does to a frame, and its undoing."""

import numpy as np
import pytest

from siammae.annotate.files import Point
from siammae.annotate.tracks import Track
from siammae.annotate.values import Values
from siammae.annotations.model import Visibility
from tests.annotate.projects import draw, follow, session, write_clip

KEEP = 255


@pytest.fixture
def opened(tmp_path):
    masks = write_clip(tmp_path / "clip", 6)
    with session(tmp_path / "p", tmp_path / "clip") as one:
        one.masks = masks
        yield one


def test_stroke_changes_only_what_it_says(opened):
    draw(opened, 0, opened.masks[0])
    patch = np.full((5, 5), KEEP, np.uint8)
    patch[2] = 0
    opened.editor.paint(0, 10, 10, patch)
    wanted = opened.masks[0].copy()
    wanted[12, 10:15] = 0
    assert np.array_equal(opened.project.labels(0), wanted)


def test_undo_and_redo_are_of_one_frame(opened):
    draw(opened, 0, opened.masks[0])
    draw(opened, 1, opened.masks[1])
    before = opened.project.labels(0)
    opened.editor.paint(0, 0, 0, np.ones((4, 4), np.uint8))
    after = opened.project.labels(0)
    assert opened.editor.undo(0)
    assert np.array_equal(opened.project.labels(0), before)
    assert opened.editor.can_undo(0) == (True, True)
    assert opened.editor.redo(0)
    assert np.array_equal(opened.project.labels(0), after)
    assert not opened.editor.redo(0)
    assert opened.editor.undo(0)
    assert opened.editor.undo(0)
    assert not opened.project.is_drawn(0)
    assert not opened.editor.undo(0)
    assert np.array_equal(opened.project.labels(1), opened.masks[1])


def test_new_stroke_ends_what_can_be_redone(opened):
    draw(opened, 0, opened.masks[0])
    opened.editor.undo(0)
    draw(opened, 0, opened.masks[0])
    assert opened.editor.can_undo(0) == (True, False)


def test_first_stroke_on_a_followed_frame_takes_all_that_is_seen_in_it(opened):
    draw(opened, 0, opened.masks[0])
    follow(opened)
    seen = opened.project.labels(3)
    opened.editor.paint(3, 0, 0, np.zeros((2, 2), np.uint8))
    assert np.array_equal(opened.project.drawn(3), seen)
    assert opened.project.spoken(3) == {Track(1)}
    opened.editor.reset(3)
    assert np.array_equal(opened.project.labels(3), seen)
    assert opened.editor.undo(3)
    assert opened.project.is_drawn(3)


def test_approved_frame_counts_as_drawn_also_where_an_object_is_gone(opened):
    both = opened.masks[0].copy()
    both[40:46, 2:8] = 2
    draw(opened, 0, both)
    opened.editor.mark_absent(5, 2)
    follow(opened)
    opened.editor.approve(3)
    assert opened.project.spoken(3) == {Track(1), Track(2)}
    for frame in (5, 3, 0):
        opened.editor.reset(frame)
    for number in (1, 2):
        opened.change_object(number, Values({"deleted": True}))
    with pytest.raises(ValueError, match="there is nothing in this frame to approve"):
        opened.editor.approve(4)


def test_keypoints_are_set_moved_hidden_and_undone(opened):
    opened.add_object(Values({}))
    opened.change_joints(Values({"joints": ["nose"]}))
    nose = Track(1, "nose")
    opened.editor.set_point(0, nose, Point(5, 6))
    opened.editor.set_point(0, nose, Point(7, 6))
    opened.editor.set_point(0, nose, Point(7, 6, Visibility.HIDDEN))
    assert opened.project.points[0] == {nose: (7, 6, Visibility.HIDDEN)}
    for wanted in (Point(7, 6), Point(5, 6)):
        opened.editor.undo(0)
        assert opened.project.points[0] == {nose: wanted}
    opened.editor.undo(0)
    assert opened.project.points == {}
    with pytest.raises(ValueError, match=r"\(64, 6\) lies outside the frame: x to 63.5"):
        opened.editor.set_point(0, nose, Point(64, 6))
    with pytest.raises(ValueError, match="no keypoint 1/ear"):
        opened.editor.set_point(0, Track(1, "ear"), Point(1, 1))


def test_box_becomes_a_mask_and_leaves_others_their_pixels(opened):
    opened.add_object(Values({}))
    opened.add_object(Values({}))
    image = np.full((48, 64, 3), 30, np.uint8)
    image[10:30, 20:45] = (220, 180, 40)
    opened.editor.paint(0, 20, 10, np.full((3, 3), 2, np.uint8))
    opened.editor.cut(0, 1, image, (16, 6, 50, 35), [], [], 1)
    labels = opened.project.labels(0)
    thing = np.zeros((48, 64), bool)
    thing[10:30, 20:45] = True
    assert np.mean((labels > 0) == thing) > 0.99
    assert (labels[10:13, 20:23] == 2).all()


def test_scribble_becomes_a_mask(opened):
    opened.add_object(Values({}))
    image = np.full((48, 64, 3), 30, np.uint8)
    image[10:30, 20:45] = (220, 180, 40)
    opened.editor.cut(0, 1, image, None, [[24, 15], [40, 26]], [], 2)
    thing = np.zeros((48, 64), bool)
    thing[10:30, 20:45] = True
    assert np.mean((opened.project.labels(0) == 1) == thing) > 0.98
    with pytest.raises(ValueError, match="a box or a scribble is needed"):
        opened.editor.cut(0, 1, image, None, [], [], 2)


def test_pixels_beyond_the_frame_and_unknown_ids_are_refused(opened):
    opened.add_object(Values({}))
    with pytest.raises(ValueError, match="reach beyond the frame"):
        opened.editor.paint(0, 60, 0, np.ones((2, 9), np.uint8))
    with pytest.raises(ValueError, match="no object 7: there are 1"):
        opened.editor.paint(0, 0, 0, np.full((2, 2), 7, np.uint8))
    assert not opened.project.is_drawn(0)
