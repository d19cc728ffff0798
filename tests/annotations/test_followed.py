import numpy as np
import pytest

from siammae.annotations.followed import MapSpool, followed_masks, followed_points
from siammae.annotations.model import Annotations, VideoObject

MAPS = np.uint8([[[0, 1, 255], [2, 2, 0]], [[0, 0, 0], [0, 2, 2]]])


@pytest.mark.parametrize("spooled", [False, True])
def test_followed_masks_are_what_was_followed(spooled):
    spool = MapSpool()
    for ids in MAPS:
        spool.add(ids)
    objects = (VideoObject(1, "a"), VideoObject(2))
    sure = [{1: 1.0, 2: 0.5}, {1: 0.25, 2: float("nan")}]
    labels = followed_masks(spool if spooled else MAPS, sure, objects=objects, authors={0: True}, names=("f1", "f2"))
    for _ in range(2):  # as often as there are formats
        first, second = labels
        assert (labels.size, labels.frame_count, labels.objects) == ((2, 3), 2, objects)
        assert (first.name, second.name, first.by_person, second.by_person) == ("f1", "f2", True, False)
        np.testing.assert_array_equal(first.void, MAPS[0] == 255)
        assert second.void is None
        assert (sorted(first.masks), sorted(second.masks)) == ([1, 2], [2])
        np.testing.assert_array_equal(first.masks[2], MAPS[0] == 2)
        assert (first.confidence, second.confidence) == ({1: 1.0, 2: 0.5}, {})  # no mask, or not known
    spool.close()


def test_followed_points_go_to_their_objects_and_joints():
    points = np.float32([[[1, 2], [3, 4], [5, 6]], [[-1, -1], [3, 5], [-1, -1]]])
    known = Annotations(lambda: iter(()), (VideoObject(4, "rat"), VideoObject(7)), ("nose", "tail"), ((0, 1),))
    rows = [(4, 0), (7, 0), (7, 1)]
    labels = followed_points(list(zip(points, np.full((2, 3), 0.5), strict=True)), rows, known, size=(9, 9))
    first, second = labels
    assert (labels.joints, labels.skeleton, labels.objects) == (known.joints, known.skeleton, known.objects)
    np.testing.assert_array_equal(first.keypoints[4].points, [[1, 2], [np.nan, np.nan]])
    np.testing.assert_array_equal(first.keypoints[7].points, [[3, 4], [5, 6]])
    assert first.keypoints[7].confidence.tolist() == [0.5, 0.5]
    assert list(second.keypoints) == [7]  # what is not there is not there
    assert second.keypoints[7].visibility.tolist() == [2, 0]
