import json

import numpy as np
import pytest
from scipy.io import savemat

from siammae.annotations.files import read_annotations
from siammae.annotations.formats.jhmdb import JOINTS
from siammae.annotations.formats.registry import recognise
from siammae.evaluation.jhmdb import layout


def row(frame=5, **changes):
    joints = [[place, 100 + place] for place in range(37)]
    return {"image_path": f"DAVIS/{frame:05d}.jpg", "joints": joints, "visibility": [1, 0] * 18 + [1], **changes}


def test_badja_is_y_x_and_has_the_joints_that_are_annotated(tmp_path):
    path = tmp_path / "f.json"
    path.write_text(json.dumps([row(5), row(10)]))
    assert recognise(path).name == "badja"
    labels = read_annotations(path)
    first, second = labels
    assert (first.index, second.index, len(labels.joints)) == (5, 10, 20)
    np.testing.assert_array_equal(first.keypoints[1].points[0], [108, 8])
    assert first.keypoints[1].visibility[labels.joints.index("nose")] == 0
    assert first.keypoints[1].visibility[labels.joints.index("left ear")] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has no list of images"),
        ([row(), row()], "has frame 5 twice"),
        ([row(joints=[])], "joints must be 37 pairs y, x"),
        ([row(visibility=[1])], "joints must be 37 pairs y, x"),
        ([row(joints=[[1, "x"]] * 37)], "a joint is 'x'"),
    ],
)
def test_badja_that_lies_is_refused(tmp_path, content, message):
    (tmp_path / "f.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "f.json", format="badja")


def test_jhmdb_counts_pixels_from_one_and_names_joints_as_the_evaluation_does(tmp_path):
    positions = np.random.default_rng(0).uniform(1, 200, (2, 15, 3))
    savemat(tmp_path / "joint_positions.mat", {"pos_img": positions})
    assert recognise(tmp_path / "joint_positions.mat").name == "jhmdb"
    labels = read_annotations(tmp_path / "joint_positions.mat")
    assert labels.joints == JOINTS == layout.JOINTS
    assert labels.frame_count == 3
    for index, frame in enumerate(labels):
        np.testing.assert_allclose(frame.keypoints[1].points, positions[:, :, index].T - 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": np.ones(2)}, r"has pos_img of shape \(0,\)"),
        ({"pos_img": np.ones((2, 14, 3))}, r"has pos_img of shape \(2, 14, 3\)"),
        ({"pos_img": np.full((2, 15, 3), np.nan)}, "has joints that are not finite"),
    ],
)
def test_jhmdb_that_lies_is_refused(tmp_path, content, message):
    savemat(tmp_path / "f.mat", content)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "f.mat")


def test_jhmdb_that_is_damaged_is_refused(tmp_path):
    (tmp_path / "f.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match="cannot be read as MATLAB's"):
        read_annotations(tmp_path / "f.mat")
