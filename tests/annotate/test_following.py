"""Following while a person draws: what is drawn stays, and only what a correction touches is followed again."""

import threading

import numpy as np
import pytest

from siammae.annotate.following import BusyError
from siammae.annotate.tracks import Track
from siammae.annotate.values import Values
from siammae.annotations.model import Visibility
from siammae.metrics import region_similarity
from siammae.propagation.video import propagate_masks
from tests.annotate.projects import EXTRACTOR, RULES, SlowExtractor, draw, follow, session, spans, wait, write_clip


@pytest.fixture
def clip(tmp_path):
    masks = write_clip(tmp_path / "clip")
    return tmp_path / "clip", masks


def stored(opened, frame):
    return opened.project.labels(frame)


def test_following_forwards_is_propagation(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        draw(opened, 0, masks[0])
        assert follow(opened) == ""
        wanted = propagate_masks(video, masks[0], model=EXTRACTOR, config=RULES)
        for frame in range(12):
            assert np.array_equal(stored(opened, frame), wanted.labels[frame])
        sure = opened.project.confidence()[Track(1)]
        np.testing.assert_allclose([sure[f] for f in range(1, 12)], wanted.confidence[1:, 0], atol=1e-3)
        assert spans(opened, "stale") == []


def test_following_backwards_is_propagation_of_the_reversed_video(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        draw(opened, 11, masks[11])
        follow(opened, 11, "backward")
        frames = np.stack([opened.frames.frame(f) for f in range(12)])[::-1]
        wanted = propagate_masks(frames, masks[11], model=EXTRACTOR, config=RULES).labels[::-1]
        for frame in range(12):
            assert np.array_equal(stored(opened, frame), wanted[frame])


def test_between_two_annotated_frames_both_pull(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        draw(opened, 0, masks[0])
        draw(opened, 11, masks[11])
        follow(opened, 5, "both")
        wanted = propagate_masks(video, {0: masks[0], 11: masks[11]}, model=EXTRACTOR, config=RULES).labels
        for frame in range(12):
            assert np.array_equal(stored(opened, frame), wanted[frame])


def test_correction_makes_stale_what_lies_between_its_neighbours_and_nothing_else_is_followed_again(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        for frame in (0, 6):
            draw(opened, frame, masks[frame])
        follow(opened)
        before = {f: (opened.project.folder / "followed" / f"{f:05d}.png").stat().st_mtime_ns for f in (1, 5, 7, 11)}
        wrong = np.zeros_like(masks[9])
        wrong[40:48, 2:8] = 1
        draw(opened, 9, wrong)
        assert spans(opened, "stale") == [7, 8, 10, 11]
        assert spans(opened, "annotated") == [0, 6, 9]
        follow(opened)
        assert spans(opened, "stale") == []
        after = {f: (opened.project.folder / "followed" / f"{f:05d}.png").stat().st_mtime_ns for f in before}
        assert [before[f] == after[f] for f in before] == [True, True, False, False]
        for frame in (0, 6):
            assert np.array_equal(stored(opened, frame), masks[frame])
        assert stored(opened, 9)[41, 3] == 1


def test_undone_correction_leaves_stale_frames_that_become_as_before(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        draw(opened, 0, masks[0])
        follow(opened)
        before = [stored(opened, f) for f in range(12)]
        draw(opened, 5, np.zeros_like(masks[5]) + (masks[5] == 0).astype(np.uint8))
        follow(opened)
        assert not np.array_equal(before[8], stored(opened, 8))
        assert opened.editor.undo(5)
        assert spans(opened, "annotated") == [0]
        assert spans(opened, "stale") == list(range(1, 12))
        follow(opened)
        assert all(np.array_equal(before[f], stored(opened, f)) for f in range(12))


def test_object_that_comes_later_is_followed_through_frames_that_do_not_speak_for_it(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        draw(opened, 0, masks[0])
        draw(opened, 6, masks[6])
        follow(opened)
        opened.add_object(Values({}))
        patch = np.full((6, 6), 2, np.uint8)
        opened.editor.paint(0, 50, 2, patch)
        assert opened.project.spoken(6) == {Track(1)}
        follow(opened)
        assert all((stored(opened, f) == 2).any() for f in range(12))
        assert np.array_equal(stored(opened, 6) == 1, masks[6] == 1)


def test_absent_object_is_followed_as_absent(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        draw(opened, 0, masks[0])
        opened.editor.mark_absent(11, 1)
        opened.editor.mark_absent(8, 1)
        follow(opened)
        assert stored(opened, 1).any()
        assert not any(stored(opened, f).any() for f in (8, 9, 10, 11))
        opened.editor.mark_absent(0, 1)
        draw(opened, 8, masks[8])
        follow(opened)
        assert region_similarity(stored(opened, 7) == 1, masks[7] == 1) > 0.5


def test_one_object_alone_is_followed(clip, tmp_path):
    video, masks = clip
    both = masks[0].copy()
    both[2:8, 50:56] = 2
    with session(tmp_path / "p", video) as opened:
        draw(opened, 0, both)
        follow(opened, object=2)
        assert set(np.unique(stored(opened, 5))) == {0, 2}
        follow(opened, object=1)
        assert set(np.unique(stored(opened, 5))) == {0, 1, 2}


def test_so_many_frames_and_then_on_without_doing_them_again(clip, tmp_path):
    video, masks = clip
    extractor = SlowExtractor(0)
    with session(tmp_path / "p", video, extractor) as opened:
        draw(opened, 0, masks[0])
        follow(opened, limit=4)
        assert spans(opened, "followed") == [1, 2, 3, 4]
        count = extractor.count
        follow(opened, limit=8)
        assert spans(opened, "followed") == [*range(1, 9)]
        assert extractor.count == count + 4
        follow(opened)
    with session(tmp_path / "q", video) as opened:
        draw(opened, 0, masks[0])
        follow(opened)
        whole = [stored(opened, f) for f in range(12)]
    with session(tmp_path / "p", video) as opened:
        assert all(np.array_equal(stored(opened, f), whole[f]) for f in range(12))


def test_part_of_the_way_to_an_annotated_frame_stays_stale_until_that_pulls_too(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        draw(opened, 0, masks[0])
        draw(opened, 10, masks[10])
        follow(opened, limit=3)
        assert spans(opened, "followed") == spans(opened, "stale") == [1, 2, 3]
        follow(opened)
        assert spans(opened, "stale") == []


def test_cancel_keeps_what_is_there(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video, SlowExtractor(0.05)) as opened:
        draw(opened, 0, masks[0])
        opened.follow(Values({"frame": 0, "direction": "forward"}))
        while len(spans(opened, "followed")) < 3:
            pass
        opened.cancel()
        assert wait(opened) == "stopped; what was followed so far is kept"
        there = spans(opened, "followed")
        assert 3 <= len(there) < 11
        assert all(stored(opened, f).any() for f in there)
        assert follow(opened) == ""
        assert spans(opened, "followed") == [*range(1, 12)]


def test_second_request_is_refused_while_the_first_is_followed(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video, SlowExtractor(0.05)) as opened:
        draw(opened, 0, masks[0])
        opened.follow(Values({"frame": 0, "direction": "forward"}))
        with pytest.raises(BusyError, match="something is being followed already: stop it first"):
            opened.follow(Values({"frame": 0, "direction": "forward"}))


def test_drawing_goes_on_while_frames_are_followed_and_is_never_overwritten(clip, tmp_path):
    video, masks = clip
    mine = np.zeros_like(masks[6])
    mine[0:5, 0:5] = 1
    reached, drawn = threading.Event(), threading.Event()

    def before(count):
        if count == 4:
            reached.set()
            assert drawn.wait(10)

    with session(tmp_path / "p", video, SlowExtractor(0, before)) as opened:
        draw(opened, 0, masks[0])
        opened.follow(Values({"frame": 0, "direction": "forward"}))
        assert reached.wait(10)
        draw(opened, 6, mine)
        drawn.set()
        assert wait(opened) == ""
        assert np.array_equal(stored(opened, 6), mine)
        assert spans(opened, "stale") == []
        got = [stored(opened, f) for f in range(12)]
    with session(tmp_path / "q", video) as opened:
        draw(opened, 0, masks[0])
        draw(opened, 6, mine)
        follow(opened)
        assert all(np.array_equal(stored(opened, f), got[f]) for f in range(12))


def test_failure_of_the_work_is_said_and_the_next_request_goes_on(clip, tmp_path):
    video, masks = clip

    def before(count):
        if count == 3:
            raise ValueError("cannot stand this frame")

    with session(tmp_path / "p", video, SlowExtractor(0, before)) as opened:
        draw(opened, 0, masks[0])
        assert follow(opened) == "following failed: cannot stand this frame"
        assert spans(opened, "followed") == [1, 2]
        assert follow(opened) == ""
        assert spans(opened, "followed") == [*range(1, 12)]


def test_nothing_to_follow_is_said(clip, tmp_path):
    with session(tmp_path / "p", clip[0]) as opened, pytest.raises(ValueError, match="nothing to follow: draw an obj"):
        follow(opened)


def test_keypoints_are_followed_hidden_and_absent_ones_too(clip, tmp_path):
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        draw(opened, 0, masks[0])
        opened.change_joints(Values({"joints": ["nose", "tail"]}))
        for joint, x in (("nose", 16), ("tail", 11)):
            opened.point(0, Values({"object": 1, "joint": joint, "visibility": "visible", "x": x, "y": 16}))
        opened.point(8, Values({"object": 1, "joint": "tail", "visibility": "absent"}))
        assert follow(opened) == ""
        nose, tail = Track(1, "nose"), Track(1, "tail")
        points = {f: opened.project.all_points(f) for f in range(12)}
        assert abs(points[5][nose].x - (16 + 10)) < 4
        assert abs(points[5][nose].y - (16 + 5)) < 4
        assert points[1][tail].x > 0
        assert (points[10][tail].x, points[10][tail].y) == (-1, -1)
        assert points[8][tail].visibility == Visibility.MISSING
        opened.point(5, Values({"object": 1, "joint": "nose", "visibility": "hidden", "x": 20.5, "y": 21}))
        assert spans(opened, "stale") == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        follow(opened)
        assert opened.project.all_points(5)[nose] == (20.5, 21, Visibility.HIDDEN)
        assert spans(opened, "stale") == []
