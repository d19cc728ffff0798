"""What is followed from where: the plan, without a picture."""

import pytest

from siammae.annotate.tracks import Segment, Stale, Track, as_spans, neighbours, plan, wanted_range

ONE, TWO, NOSE = Track(1), Track(2), Track(1, "nose")


def planned(speakers, wanted, known=()):
    return plan(speakers, wanted, lambda track, frame: (track, frame) not in known)


@pytest.mark.parametrize("track", [ONE, Track(254), NOSE, Track(3, "left ear")])
def test_track_is_read_as_it_is_written(track):
    assert Track.parse(str(track)) == track


@pytest.mark.parametrize("text", ["", "0", "255", "x", "-1", "1.5", "../etc/passwd", "²"])
def test_text_that_is_no_track_is_refused(text):
    with pytest.raises(ValueError, match="is no track"):
        Track.parse(text)


def test_nothing_is_planned_where_no_one_drew():
    assert planned({}, (0, 9)) == []


def test_what_lies_between_two_annotated_frames_is_followed_from_both():
    assert planned({ONE: [2, 6]}, (2, 6)) == [Segment((ONE,), 2, 6, 5)]


def test_the_way_goes_on_to_the_end_and_back_to_the_beginning():
    assert planned({ONE: [4]}, (0, 9)) == [Segment((ONE,), 4, None, 9), Segment((ONE,), 4, None, 0)]
    assert [*Segment((ONE,), 4, None, 0).frames] == [3, 2, 1, 0]
    assert [*Segment((ONE,), 4, None, 6).frames] == [5, 6]


def test_a_reach_that_ends_before_the_next_annotated_frame_is_not_final():
    (segment,) = planned({ONE: [0, 9]}, (0, 4))
    assert segment == Segment((ONE,), 0, None, 4, final=False)


def test_a_frame_between_two_annotated_ones_needs_both():
    assert planned({ONE: [0, 9]}, (5, 9)) == [Segment((ONE,), 0, 9, 8)]


def test_only_what_needs_it_is_followed_but_tracks_of_equal_bounds_go_together():
    known = {(t, f) for t in (ONE, TWO) for f in range(10)} - {(ONE, 7)}
    assert planned({ONE: [0, 5, 9], TWO: [0, 5, 9]}, (0, 9), known) == [Segment((ONE, TWO), 5, 9, 8)]
    known.add((ONE, 7))
    assert planned({ONE: [0, 5, 9], TWO: [0, 5, 9]}, (0, 9), known) == []


def test_tracks_of_other_bounds_and_keypoints_go_by_themselves():
    segments = planned({ONE: [0], TWO: [0, 5], NOSE: [0]}, (0, 6))
    assert segments == [
        Segment((TWO,), 0, 5, 4),
        Segment((ONE,), 0, None, 6),
        Segment((NOSE,), 0, None, 6),
        Segment((TWO,), 5, None, 6),
    ]


@pytest.mark.parametrize(
    ("direction", "limit", "wanted"),
    [("forward", None, (5, 9)), ("backward", None, (0, 5)), ("both", 2, (3, 7)), ("both", 50, (0, 9))],
)
def test_range_that_a_person_asks_for(direction, limit, wanted):
    assert wanted_range(5, direction, limit, 10) == wanted


def test_neighbours_leave_out_the_frame_itself():
    assert neighbours([2, 5, 8], 5) == (2, 8)
    assert neighbours([2, 5, 8], 0) == (None, 2)
    assert neighbours([], 3) == (None, None)


def test_stale_frames_are_written_as_ranges_and_read_again():
    stale = Stale()
    stale.add(ONE, [3, 4, 5, 9])
    stale.add(NOSE, [1])
    stale.discard(ONE, 4)
    assert stale.spans() == {"1": [[3, 3], [5, 5], [9, 9]], "1/nose": [[1, 1]]}
    again = Stale(stale.spans())
    assert again.spans() == stale.spans()
    assert (ONE, 5) in again
    assert (ONE, 4) not in again
    assert again.frames() == {1, 3, 5, 9}
    assert as_spans([]) == []
