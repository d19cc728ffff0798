"""How much each of two passes counts."""

import pytest

from siammae.propagation.keyframes.both_ways import Between, Said


def weights(number, forward, backward, before, after):
    """Those of object 1, known to be there (True), gone (False) or not spoken for (None) in frames 10 and 20."""
    said = [{} if there is None else {1: Said(frame, there)} for frame, there in ((10, before), (20, after))]
    return Between(number, None, None, None, None, *said).weights(1, forward, backward)


@pytest.mark.parametrize(
    ("number", "forward", "backward", "expected"),
    [
        (15, 0.6, 0.6, (0.5, 0.5)),
        (12, 0.6, 0.6, (0.8, 0.2)),
        (15, 0.9, 0.3, (0.75, 0.25)),  # surer
        (12, 0.2, 0.8, (0.5, 0.5)),  # nearer against surer
        (12, 0.0, 0.5, (0.0, 1.0)),  # lost
        (12, 0.0, 0.0, (0.8, 0.2)),  # lost by both
    ],
)
def test_where_a_pass_is_nearer_and_surer_it_counts_more(number, forward, backward, expected):
    assert weights(number, forward, backward, True, True) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("number", "sure", "expected"),
    [(12, 0.5, 0.8), (15, 0.5, 0.5), (18, 0.5, 0.2), (15, 0.8, 16 / 17), (15, 0.2, 1 / 17), (19, 1.0, 1), (11, 0.0, 0)],
)
def test_between_there_and_not_there_distance_and_confidence_say_which(number, sure, expected):
    assert weights(number, sure, 0.9, True, False) == pytest.approx((expected, 0))
    assert weights(30 - number, 0.9, sure, False, True) == pytest.approx((0, expected))
    assert weights(number, sure, sure, False, False) == (0, 0)


def test_what_one_frame_does_not_speak_for_is_as_the_other_pass_has_it():
    assert weights(15, 0.3, 0.9, True, None) == (1, 0)
    assert weights(15, 0.3, 0.9, None, True) == (0, 1)
    assert weights(15, 0.3, 0.9, None, False) == (0, 0)
