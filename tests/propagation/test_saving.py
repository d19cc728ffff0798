import numpy as np
import pytest

import siammae
from siammae.propagation.video import VideoKeypoints, VideoMasks

LABELS = np.uint8([[[0, 1, 1], [2, 2, 0]], [[0, 0, 0], [0, 2, 2]]])
MASKS = VideoMasks(LABELS, (1, 2), np.float32([[1, 0.5], [0.25, np.nan]]))
POINTS = VideoKeypoints(np.float32([[[1, 2], [3, 4.25]], [[1.5, 2], [-1, -1]]]), np.float32([[1, 0.5], [0.25, 0]]))


@pytest.mark.parametrize(
    ("name", "format"), [("a.json", "coco"), ("b.json", "youtube-vis"), ("c.txt", "mots"), ("d", "youtube-vos")]
)
def test_video_masks_are_saved_in_a_format_and_replaced_only_when_told(tmp_path, name, format):
    path = MASKS.save(tmp_path / name, format=format)
    assert path == tmp_path / name
    assert not (path / "00000.png").exists()
    frames = list(siammae.read_annotations(path))
    assert [sorted(frame.masks) for frame in frames] == [[1, 2], [2]]
    for frame, ids in zip(frames, LABELS, strict=True):
        np.testing.assert_array_equal(frame.masks[2], ids == 2)
    if format == "coco":
        assert [dict(frame.confidence) for frame in frames] == [{1: 1.0, 2: 0.5}, {}]
    with pytest.raises(ValueError, match="already: choose another output"):
        MASKS.save(path, format=format)
    assert MASKS.save(path, format=format, overwrite=True) == path


def test_video_masks_say_what_a_format_has_no_place_for(tmp_path, caplog):
    MASKS.save(tmp_path / "m.txt", format="mots")
    assert "mots has no place for confidence of masks" in caplog.text
    with pytest.raises(ValueError, match="tracks can hold nothing of these labels: masks"):
        MASKS.save(tmp_path / "t.csv", format="tracks")


@pytest.mark.parametrize(("suffix", "format"), [("csv", "tracks"), ("csv", "deeplabcut"), ("slp", "sleap")])
def test_video_keypoints_are_saved_in_a_format(tmp_path, suffix, format):
    path = POINTS.save(tmp_path / f"p.{suffix}", names=["nose", "tail"], format=format)
    labels = siammae.read_annotations(path)
    assert labels.joints == ("nose", "tail")
    first, second = labels
    np.testing.assert_array_equal(first.keypoints[1].points, POINTS.points[0])
    np.testing.assert_array_equal(first.keypoints[1].confidence, POINTS.confidence[0])
    np.testing.assert_array_equal(second.keypoints[1].points, [[1.5, 2], [np.nan, np.nan]])


def test_video_keypoints_need_a_size_for_coco_and_as_many_names_as_points(tmp_path):
    with pytest.raises(ValueError, match="COCO needs the size of the frames"):
        POINTS.save(tmp_path / "p.json", format="coco")
    POINTS.save(tmp_path / "p.json", format="coco", size=(9, 9))
    assert siammae.read_annotations(tmp_path / "p.json").joints == ("point_1", "point_2")
    for names in (["nose"], ["nose", "nose"]):
        with pytest.raises(ValueError, match="there must be 2, all different"):
            POINTS.save(tmp_path / "q.csv", names=names)
