import csv
import math
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from siammae import errors
from siammae.config import PropagationConfig
from siammae.evaluation import evaluate_jhmdb, score_jhmdb
from siammae.evaluation.jhmdb import evaluation as jhmdb
from siammae.evaluation.jhmdb.evaluation import ALPHAS, JOINTS
from siammae.features import PixelExtractor
from siammae.propagation.propagator import FrameKeypoints

SIZE = (24, 32)
THROW, JUMP = "catch/Throw_f_cm_np1_ri_med_0", "jump/Jump_f_cm_np1_fr_bad_1"
FRAMES = {THROW: 4, JUMP: 3}


def skeleton(frames, step, seed=0):
    """Joints ``(T, 15, 2)`` inside the frame, pixel (0, 0) at 0.0, that move right by ``step`` a frame."""
    random = np.random.default_rng(seed)
    first = random.uniform((3, 3), (14, 20), (len(JOINTS), 2))
    return first + np.arange(frames)[:, None, None] * np.array([step, 0.0])


def write_joints(root, name, joints):
    path = root / "joint_positions" / name / "joint_positions.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"pos_img": joints.transpose(2, 1, 0) + 1, "scale": np.ones((1, len(joints)))})


def write_frames(root, name, count):
    folder = root / "Rename_Images" / name
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(np.full((*SIZE, 3), 20 * index, np.uint8)).save(folder / f"{index + 1:05d}.png")


def write_list(root, action, lines, split="split1"):
    (root / "splits").mkdir(parents=True, exist_ok=True)
    (root / "splits" / f"{action}_test_{split}.txt").write_text("\n".join(lines) + "\n")


TRUTH = {THROW: skeleton(4, 1.5), JUMP: skeleton(3, 2.0, seed=1)}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "JHMDB"
    for name, joints in TRUTH.items():
        write_frames(root, name, len(joints))
        write_joints(root, name, joints)
    write_list(root, "catch", ["Training_clip_0.avi 1", f"{THROW.split('/')[1]}.avi 2", ""])
    write_list(root, "jump", [f"{JUMP.split('/')[1]}.avi 2"])
    return root


def write_result(folder, name, points):
    path = folder / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{frame},{joint},{x!r},{y!r},1.000"
        for frame, row in enumerate(points.astype(np.float32).tolist())
        for joint, (x, y) in zip(JOINTS, row, strict=True)
    ]
    path.write_text("\n".join(["frame,name,x,y,confidence", *lines]) + "\n")


def write_results(folder, predictions):
    for name, points in predictions.items():
        write_result(folder, name, points)
    return folder


class StillPropagator:
    """Repeats the first joints; ``fail_at`` counts frames over all clips."""

    fail_at = math.inf
    frames = 0
    given: list  # joints of each clip's first frame
    calls: list  # extractor, config, kernels

    def __init__(self, extractor, config, *, kernels):
        self.points = None
        type(self).calls.append((extractor, config, kernels))

    def step(self, frame, *, keypoints=None):
        assert frame.shape == (*SIZE, 3)
        assert (keypoints is None) == (self.points is not None), "joints come with the first frame, and only there"
        if type(self).frames >= self.fail_at:
            raise RuntimeError("out of memory")
        type(self).frames += 1
        if keypoints is not None:
            type(self).given.append(keypoints)
            self.points = keypoints.astype(np.float32)
        return FrameKeypoints(self.points, np.full(len(self.points), 0.7, np.float32))


@pytest.fixture
def still(monkeypatch):
    """Put a propagator in place that costs nothing and whose answers are known."""
    fake = type("Still", (StillPropagator,), {"calls": [], "given": []})
    monkeypatch.setattr(jhmdb, "KeypointPropagator", fake)
    return fake


def loop_pck(predictions, alpha, *, first=False, zero=True, truth=TRUTH):
    """PCK in percent, one joint of one frame of one clip after the other."""
    per_joint = []
    for joint in range(len(JOINTS)):
        hits = []
        for name, points in predictions.items():
            for frame in range(0 if first else 1, len(points)):
                seen = [j for j in range(len(JOINTS)) if points[frame, j, 0] > 0 or (zero and points[frame, j, 0] == 0)]
                if joint not in seen:
                    continue
                xs, ys = truth[name][frame, seen].T
                size = 0.6 * math.hypot(max(xs) - min(xs), max(ys) - min(ys))
                hits.append(math.dist(points[frame, joint], truth[name][frame, joint]) <= alpha * size)
        if hits:
            per_joint.append(100 * sum(hits) / len(hits))
    return sum(per_joint) / len(per_joint)


def stood_still():
    return {name: np.repeat(joints[:1], len(joints), axis=0) for name, joints in TRUTH.items()}


def without_seconds(result):
    return result.scores, result.per_video, {k: v for k, v in result.details.items() if k != "seconds"}


def test_score_jhmdb_when_truth_is_the_result_gives_100(tree, tmp_path):
    result = score_jhmdb(write_results(tmp_path / "results", TRUTH), tree)
    perfect = {f"PCK@{alpha}": 100 for alpha in (0.1, 0.2, 0.3, 0.4, 0.5)}
    assert result.dataset == "JHMDB"
    assert result.config is None
    assert result.scores == perfect
    assert result.per_video == {THROW: perfect, JUMP: perfect}
    assert result.details["per_joint"] == dict.fromkeys(JOINTS, perfect)
    assert result.details["frames"] == 7
    assert result.details["counted"] == 15 * 5
    assert result.details["invisible"] == 0


def test_evaluate_jhmdb_when_joints_stand_still_equals_loop_over_joints_frames_and_clips(tree, still):
    result = evaluate_jhmdb(PixelExtractor(4), tree)
    for alpha in ALPHAS:
        assert result.scores[f"PCK@{alpha}"] == pytest.approx(loop_pck(stood_still(), alpha))
        for name, points in stood_still().items():
            assert result.per_video[name][f"PCK@{alpha}"] == pytest.approx(loop_pck({name: points}, alpha))
    assert 0 < result.scores["PCK@0.2"] < result.scores["PCK@0.5"]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_score_jhmdb_of_random_results_with_invisible_joints_equals_loop(tree, tmp_path, first, zero):
    random = np.random.default_rng(5)
    predictions = {}
    for name, joints in TRUTH.items():
        points = (joints + random.normal(0, 2.5, joints.shape)).astype(np.float32)
        points[random.random(points.shape[:2]) < 0.3] = -1
        points[random.random(points.shape[:2]) < 0.2, 0] = 0
        predictions[name] = points
    results = write_results(tmp_path / "results", predictions)
    result = score_jhmdb(results, tree, count_first_frame=first, zero_is_visible=zero)
    for alpha in ALPHAS:
        expected = loop_pck(predictions, alpha, first=first, zero=zero)
        assert result.scores[f"PCK@{alpha}"] == pytest.approx(expected)
    assert result.details["count_first_frame"] is first
    visible = [points[0 if first else 1 :, :, 0] >= (0 if zero else 1e-9) for points in predictions.values()]
    assert result.details["counted"] == sum(seen.sum() for seen in visible)
    assert result.details["invisible"] == sum((~seen).sum() for seen in visible)


def test_joint_on_the_limit_is_correct_and_scale_is_of_the_visible_box(tree, tmp_path):
    # Two visible joints 30 and 40 pixels apart: the diagonal is 50 and PCK@0.1 allows 0.1 * 0.6 * 50 = 3 pixels.
    joints = np.zeros((2, 15, 2))
    joints[:, 1] = (30, 40)
    joints[:, 2:] = (200, 200)  # the annotation of joints predicted invisible does not widen the box
    write_joints(tree, THROW, joints)
    points = np.full((2, 15, 2), -1.0)
    points[:, 0], points[:, 1] = (3, 0), (30, 43.01)
    result = score_jhmdb(write_results(tmp_path / "results", {THROW: points}), tree, clips=[THROW])
    assert result.details["per_joint"]["neck"]["PCK@0.1"] == 100
    assert result.details["per_joint"]["belly"]["PCK@0.1"] == 0
    assert set(result.details["per_joint"]) == {"neck", "belly"}
    assert result.scores["PCK@0.1"] == 50
    assert result.scores["PCK@0.2"] == 100


def test_frame_when_a_single_joint_is_visible_has_no_box_and_misses(tree, tmp_path):
    points = np.full((4, 15, 2), -1.0)
    points[:, 0] = TRUTH[THROW][:, 0] + 0.01
    result = score_jhmdb(write_results(tmp_path / "results", {THROW: points}), tree, clips=[THROW])
    assert result.scores["PCK@0.5"] == 0


def test_scores_when_nothing_is_visible_are_nan(tree, tmp_path):
    points = np.full((4, 15, 2), -1.0)
    result = score_jhmdb(write_results(tmp_path / "results", {THROW: points}), tree, clips=[THROW])
    assert math.isnan(result.scores["PCK@0.1"])
    assert result.details["per_joint"] == {}
    result.save(tmp_path / "result.json")


def test_propagator_when_called_gets_joints_counted_from_zero_and_the_settings(tree, still):
    model, config = PixelExtractor(4), PropagationConfig(top_k=3)
    result = evaluate_jhmdb(model, tree, config=config, kernels="reference", clips=[JUMP, JUMP])
    assert still.calls == [(model, config, "reference")]
    np.testing.assert_allclose(still.given[0], TRUTH[JUMP][0])
    assert result.config == config
    assert list(result.per_video) == [JUMP]


def test_config_when_none_is_the_recommendation_of_the_model(tree, still):
    model = PixelExtractor(4)
    assert evaluate_jhmdb(model, tree).config == PropagationConfig()
    model.propagation = PropagationConfig(top_k=2)
    assert evaluate_jhmdb(model, tree).config == model.propagation


def test_joints_when_outside_the_first_frame_stay_invisible(tree, still, tmp_path):
    joints = TRUTH[THROW].copy()
    joints[0, 3], joints[0, 4], joints[0, 5] = (-0.6, 5), (5, SIZE[0] - 0.4), (SIZE[1] - 0.5, -0.5)  # the last is in
    write_joints(tree, THROW, joints)
    result = evaluate_jhmdb(PixelExtractor(4), tree, clips=[THROW], output_dir=tmp_path / "out")
    assert len(still.given[0]) == 13
    np.testing.assert_allclose(still.given[0], np.delete(joints[0], [3, 4], axis=0))
    with (tmp_path / "out" / f"{THROW}.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"] in ("right shoulder", "left shoulder")]
    assert len(rows) == 2 * FRAMES[THROW]
    assert {(row["x"], row["y"], row["confidence"]) for row in rows} == {("-1.0", "-1.0", "0.0")}
    assert set(result.details["per_joint"]) == set(JOINTS) - {"right shoulder", "left shoulder"}
    assert result.details["invisible"] == 2 * (FRAMES[THROW] - 1)


def test_clip_when_no_joint_is_inside_the_first_frame_is_not_followed(tree, still):
    write_joints(tree, THROW, TRUTH[THROW] + 100)
    result = evaluate_jhmdb(PixelExtractor(4), tree, clips=[THROW])
    assert still.frames == 0
    assert math.isnan(result.scores["PCK@0.5"])


def test_evaluate_jhmdb_with_real_propagator_follows_a_moving_texture(tree):
    random = np.random.default_rng(0)
    texture, background = random.integers(0, 255, (20, 16, 3), np.uint8), random.integers(0, 255, (*SIZE, 3), np.uint8)
    joints = np.array([[2 + 5 * (i % 3), 2 + 4 * (i // 3)] for i in range(15)], float)
    joints = joints + 2 * np.arange(5)[:, None, None] * np.array([1, 0])
    write_joints(tree, THROW, joints)
    for index in range(5):
        frame = background.copy()
        frame[:20, 2 * index : 16 + 2 * index] = texture
        Image.fromarray(frame).save(tree / "Rename_Images" / THROW / f"{index + 1:05d}.png")
    config = PropagationConfig(temperature=0.05, top_k=1)
    result = evaluate_jhmdb(PixelExtractor(2), tree, config=config, kernels="reference", clips=[THROW])
    assert result.scores["PCK@0.1"] > 90
    assert loop_pck({THROW: np.repeat(joints[:1], 5, axis=0)}, 0.1, truth={THROW: joints}) < 60


def test_output_dir_when_given_changes_no_score_and_can_be_scored_again(tree, still, tmp_path):
    in_memory = evaluate_jhmdb(PixelExtractor(4), tree)
    written = evaluate_jhmdb(PixelExtractor(4), tree, output_dir=tmp_path / "out")
    assert without_seconds(written) == without_seconds(in_memory)
    assert score_jhmdb(tmp_path / "out", tree).scores == in_memory.scores
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert files == sorted([f"{THROW}.csv", "config.json", f"{JUMP}.csv", "scores.json", "scores.md"])
    with (tmp_path / "out" / f"{JUMP}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15 * FRAMES[JUMP]
    assert list(rows[0]) == ["frame", "name", "x", "y", "confidence"]
    assert (rows[-1]["frame"], rows[-1]["name"], rows[-1]["confidence"]) == ("2", "left ankle", "0.7")


def test_output_dir_after_failure_has_whole_clips_only_and_goes_on(tree, still, tmp_path):
    out, still.fail_at = tmp_path / "out", FRAMES[THROW] + 2
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate_jhmdb(PixelExtractor(4), tree, output_dir=out)
    assert sorted(path.name for path in out.rglob("*.*")) == ["Throw_f_cm_np1_ri_med_0.csv", "config.json"]
    still.fail_at, still.frames = math.inf, 0
    resumed = evaluate_jhmdb(PixelExtractor(4), tree, output_dir=out)
    assert still.frames == FRAMES[JUMP], "the finished clip is not computed again"
    assert resumed.scores == evaluate_jhmdb(PixelExtractor(4), tree).scores


def test_output_dir_when_setting_differs_or_origin_is_unknown_is_refused(tree, still, tmp_path):
    evaluate_jhmdb(PixelExtractor(4), tree, output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="another model or setting"):
        evaluate_jhmdb(PixelExtractor(4), tree, output_dir=tmp_path / "out", config=PropagationConfig(top_k=2))
    write_results(tmp_path / "foreign", TRUTH)
    with pytest.raises(ValueError, match=r"foreign holds catch/.*\.csv but no config\.json"):
        evaluate_jhmdb(PixelExtractor(4), tree, output_dir=tmp_path / "foreign")


def test_progress_when_true_counts_every_frame_once(tree, still, capsys):
    evaluate_jhmdb(PixelExtractor(4), tree, progress=True)
    assert "7/7" in capsys.readouterr().err
    evaluate_jhmdb(PixelExtractor(4), tree)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("splits", "/brush_hair_test_split1.txt"),
        (f"Rename_Images/{JUMP}", "/00001.png"),
        (f"joint_positions/{THROW}/joint_positions.mat", ""),
    ],
)
def test_layout_when_something_is_missing_names_it_and_draws_the_tree(tree, still, missing, named):
    (tree / missing).rename(tree / "away")
    for run in (lambda: evaluate_jhmdb(PixelExtractor(4), tree), lambda: score_jhmdb(tree, tree)):
        with pytest.raises(errors.DatasetError, match=rf"no .*{missing}{named}: JHMDB is expected as") as caught:
            run()
        assert "├── joint_positions/<action>/<clip>/joint_positions.mat" in str(caught.value)
        assert "splits/<action>_test_split1.txt" in str(caught.value)


def test_split_lists_when_they_are_wrong_name_the_line(tree):
    write_list(tree, "catch", ["a.avi 1", "b.avi"], split="split2")
    with pytest.raises(errors.DatasetError, match=r"catch_test_split2\.txt, line 2: 'b\.avi' is no '<clip>\.avi 1'"):
        score_jhmdb(tree, tree, split="split2")
    write_list(tree, "catch", ["a.avi 1", ""], split="split3")
    with pytest.raises(errors.DatasetError, match=r"splits lists no test clip in \*_test_split3\.txt"):
        score_jhmdb(tree, tree, split="split3")


def test_frames_beyond_the_annotation_are_not_followed_and_too_few_are_refused(tree, still):
    write_frames(tree, JUMP, 9)
    assert evaluate_jhmdb(PixelExtractor(4), tree).details["frames"] == 7
    (tree / "Rename_Images" / THROW / "00002.png").unlink()
    with pytest.raises(errors.DatasetError, match=r"_0 has 3 frames but .*joint_positions\.mat has 4"):
        evaluate_jhmdb(PixelExtractor(4), tree)


@pytest.mark.parametrize("shape", [(2, 13, 4), (15, 2, 4), (2, 15), (2, 15, 0)])
def test_joints_when_they_have_another_shape_are_refused(tree, shape):
    savemat(tree / "joint_positions" / JUMP / "joint_positions.mat", {"pos_img": np.ones(shape)})
    with pytest.raises(errors.DatasetError, match=r"mat has pos_img of shape \(.*\): it must be \(2, 15, frames\)"):
        score_jhmdb(tree, tree)


def test_joints_when_missing_not_finite_or_unreadable_are_refused(tree):
    path = tree / "joint_positions" / JUMP / "joint_positions.mat"
    savemat(path, {"scale": np.ones(3)})
    with pytest.raises(errors.DatasetError, match=r"pos_img of shape \(0,\)"):
        score_jhmdb(tree, tree)
    savemat(path, {"pos_img": np.full((2, 15, 3), np.nan)})
    with pytest.raises(errors.DatasetError, match="all finite"):
        score_jhmdb(tree, tree)
    savemat(path, {"pos_img": TRUTH[JUMP].transpose(2, 1, 0)}, do_compression=True)
    for content in (b"", b"no MATLAB file " * 20, path.read_bytes()[:200], path.read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(errors.DatasetError, match=r"joint_positions\.mat cannot be read: "):
            score_jhmdb(tree, tree)


def test_scipy_when_missing_is_asked_for(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"JHMDB annotations are \.mat files: pip install siammae\[eval\]"):
        score_jhmdb(tree, tree)


def test_clips_when_unknown_are_refused(tree):
    with pytest.raises(ValueError, match=r"unknown clips \['jump/a'\]: split1 has catch/Throw"):
        score_jhmdb(tree, tree, clips=["jump/a"])
    with pytest.raises(ValueError, match="clips is empty"):
        score_jhmdb(tree, tree, clips=[])


def test_score_jhmdb_when_a_clip_is_missing_names_it(tree, tmp_path):
    results = write_results(tmp_path / "results", {THROW: TRUTH[THROW]})
    with pytest.raises(errors.DatasetError, match=rf"no .*{JUMP}\.csv: results need a CSV for every clip"):
        score_jhmdb(results, tree)


# ---------------------------------------------------------------- real annotations


@pytest.mark.shared_data
def test_evaluate_jhmdb_of_a_real_clip_gives_plausible_scores(shared_data, tmp_path):
    root = shared_data / "data" / "JHMDB"
    clip = "jump/Sommerland_Syd_sprung_in_den_tod_jump_f_cm_np1_fr_bad_0"
    config = PropagationConfig.preset("siammae", dataset="jhmdb").replace(resize=(96, 96), queue_length=3)
    result = evaluate_jhmdb(PixelExtractor(8), root, config=config, clips=[clip], output_dir=tmp_path)
    assert 0 < result.scores["PCK@0.1"] <= result.scores["PCK@0.5"] <= 100
    assert result.details["frames"] == 17
    assert result.details["counted"] == 16 * 15
    assert score_jhmdb(tmp_path, root, clips=[clip]).scores == result.scores


@pytest.mark.shared_data
def test_split_1_of_the_real_data_lists_its_five_clips(shared_data, tmp_path):
    layout = jhmdb.JhmdbLayout(shared_data / "data" / "JHMDB", "split1")
    clips = layout.clips(None)
    assert [len(clip.frames) for clip in clips] == [37, 40, 40, 17, 20]
    official = (shared_data / "reference" / "splits" / "jhmdb_split1_test.txt").read_text().split()
    assert {clip.name for clip in clips} <= set(official)
    result = score_jhmdb(write_results(tmp_path, {clip.name: clip.truth for clip in clips}), layout.root)
    assert result.scores["PCK@0.1"] == 100


def test_evaluate_when_a_list_leads_out_writes_nothing_there(tree, tmp_path):
    write_frames(tree, "../evil", 3)
    write_joints(tree, "../evil", TRUTH[JUMP])
    write_list(tree, "jump", ["../../evil.avi 2"])
    with pytest.raises(errors.DatasetError, match=r"split1 lists 'jump/\.\./\.\./evil'"):
        evaluate_jhmdb(PixelExtractor(4), tree, output_dir=tmp_path / "out" / "tracks")
    assert not (tmp_path / "out").exists()
