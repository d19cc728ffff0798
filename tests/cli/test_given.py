"""Keypoints of any format into ``siammae track``, and out of it."""

import csv

import numpy as np
import pytest

import siammae
from siammae.annotations.formats.format import Feature
from siammae.annotations.formats.registry import FORMATS
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject
from siammae.cli import main
from siammae.frames import write_image
from tests.helpers import moving_square, tiny_model

RULES = ["--quiet", "--set", "queue_length=1"]
FORMATS_OUT = [one for one in FORMATS if Feature.POINTS in one.holds]
JOINTS = ("nose", "tail")
FIRST, LAST = np.array([[5.25, 6], [12, 13.5]]), np.array([[9.5, 9], [np.nan, np.nan]])


def frame(index, points, *, keys=(1,), **known):
    return FrameLabels(index, keypoints={key: Keypoints.of(points + key - 1, **known) for key in keys}, name=str(index))


def labels(*frames, **known):
    known = {"objects": (VideoObject(1),), "joints": JOINTS, "size": (32, 48), "skeleton": ((0, 1),), **known}
    return Annotations(lambda: iter(frames), **known)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    video, _ = moving_square(4, (32, 48), 12, (4, 4))
    (folder / "frames").mkdir()
    for index, picture in enumerate(video):
        write_image(folder / "frames" / f"{index}.png", picture)
    tiny_model().save_pretrained(folder / "model")
    for one in FORMATS_OUT:
        siammae.write_annotations(
            folder / f"{one.name}{one.suffix}", labels(frame(0, FIRST), frame(3, LAST)), format=one.name
        )
    only = FrameLabels(0, {1: np.ones((32, 48), bool)})
    siammae.write_annotations(folder / "masks.txt", labels(only), format="mots")
    (folder / "first.csv").write_text("name,x,y\nnose,5.25,6\ntail,12,13.5\n")
    (folder / "all.csv").write_text("frame,name,x,y\n0,nose,5.25,6\n0,tail,12,13.5\n3,nose,9.5,9\n")
    return folder


def track(inputs, out, *options):
    argv = ["track", inputs / "frames", "-o", out, "--model", inputs / "model", *RULES, *options]
    return main([str(part) for part in argv])


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("target", [one for one in FORMATS_OUT if one.name != "tracks"], ids=lambda one: one.name)
def test_points_of_each_format_are_followed_as_a_table_is(inputs, tmp_path, target):
    assert track(inputs, tmp_path / "a.csv", "--points", inputs / "all.csv") == 0
    assert track(inputs, tmp_path / "b.csv", "--points", inputs / f"{target.name}{target.suffix}") == 0
    assert rows(tmp_path / "a.csv") == rows(tmp_path / "b.csv")


def test_frame_and_number_choose(inputs, tmp_path):
    for name, options in {
        "table": ["--points", inputs / "first.csv"],
        "frame": ["--points", inputs / "coco.json", "--frame", "0"],
        "rows": ["--points", inputs / "all.csv", "--frame", "0"],
    }.items():
        assert track(inputs, tmp_path / f"{name}.csv", *options) == 0
    assert rows(tmp_path / "table.csv") == rows(tmp_path / "frame.csv") == rows(tmp_path / "rows.csv")
    other = [f"2={inputs / 'sleap.slp'}", "--frame", "3"]
    assert track(inputs, tmp_path / "two.csv", "--points", f"0={inputs / 'sleap.slp'}", "--frame", "3") == 0
    assert rows(tmp_path / "two.csv")[1][1:4] == ["nose", "9.50", "9.00"]
    assert track(inputs, tmp_path / "both.csv", "--points", inputs / "first.csv", "--points", *other) == 1  # --frame 3


def test_several_animals_have_names_and_can_be_chosen(inputs, tmp_path):
    rats = labels(frame(0, FIRST, keys=(1, 2)), objects=(VideoObject(1, "Ann"), VideoObject(2, "Bob")))
    siammae.write_annotations(tmp_path / "rats.csv", rats, format="deeplabcut")
    assert track(inputs, tmp_path / "a.csv", "--points", tmp_path / "rats.csv") == 0
    assert [row[1] for row in rows(tmp_path / "a.csv")[1:5]] == ["Ann nose", "Ann tail", "Bob nose", "Bob tail"]
    assert track(inputs, tmp_path / "b.csv", "--points", tmp_path / "rats.csv", "--object", "Bob") == 0
    assert [row[1:4] for row in rows(tmp_path / "b.csv")[1:3]] == [["nose", "6.25", "7.00"], ["tail", "13.00", "14.50"]]
    out = tmp_path / "c.csv"
    assert track(inputs, out, "--points", tmp_path / "rats.csv", "--format", "deeplabcut", "--format", "sleap") == 0
    for path in (out, tmp_path / "c.sleap.slp"):
        again = siammae.read_annotations(path)
        assert [one.name for one in again.objects] == ["Ann", "Bob"]
        assert len(list(again)) == 4
        np.testing.assert_array_equal(next(iter(again)).keypoints[2].points, FIRST + 1)


@pytest.mark.parametrize("target", FORMATS_OUT, ids=lambda one: one.name)
def test_results_in_each_format_hold_the_table(inputs, tmp_path, capsys, target):
    out = tmp_path / f"out{target.suffix}"
    more = ["--format", "coco" if target.name != "coco" else "tracks"]
    assert track(inputs, out, "--points", inputs / "first.csv", "--format", target.name, *more) == 0
    shown = capsys.readouterr().out
    beside = tmp_path / ("out.coco.json" if target.name != "coco" else "out.tracks.csv")
    assert str(out) in shown
    assert str(beside) in shown
    first, second = siammae.read_annotations(out, video=inputs / "frames"), siammae.read_annotations(beside)
    assert first.joints == JOINTS
    for one, other in zip(first, second, strict=True):
        atol = 0.006 if "tracks" in (target.name, more[1]) else 1e-3  # the table has two digits
        np.testing.assert_allclose(one.keypoints[1].points, other.keypoints[1].points, atol=atol)
    assert {path.name for path in tmp_path.iterdir()} == {out.name, beside.name}


def test_results_say_what_is_lost_and_know_the_videos_images(inputs, tmp_path, caplog):
    assert track(inputs, tmp_path / "o.json", "--points", inputs / "first.csv", "--format", "coco") == 0
    assert [record.message for record in caplog.records] == [
        "coco has no place for: which frames a person made, confidence of keypoints."
    ]
    assert [one.name for one in siammae.read_annotations(tmp_path / "o.json")] == ["0", "1", "2", "3"]


def test_hidden_joints_are_followed_and_said(inputs, tmp_path, caplog):
    hidden = labels(frame(0, FIRST, visibility=np.array([1, 2])))
    siammae.write_annotations(tmp_path / "h.json", hidden, format="coco")
    assert track(inputs, tmp_path / "o.csv", "--points", tmp_path / "h.json") == 0
    assert "joints are hidden in 1 frames; their places are followed" in caplog.text
    assert len(rows(tmp_path / "o.csv")) == 1 + 4 * 2


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("o.csv", ["--points", "{in}/first.csv", "--object", "1"], "--object chooses among objects, and a table"),
        ("o.csv", ["--points", "{in}/first.csv", "--frame", "2"], "the table has no keypoint of frame 2"),
        ("o.csv", ["--points", "{in}/coco.json", "--frame", "2"], "frame 2 has no labels: labelled are 0, 3"),
        (
            "o.csv",
            ["--points", "{in}/coco.json", "--points", "{in}/first.csv"],
            "frame 0 has the keypoint 'nose' in two",
        ),
        ("o.csv", ["--points", "1={in}/coco.json"], "has labels of 2 frames, not of one"),
        ("o.csv", ["--points", "{in}/model/config.json"], "looks like no known format of labels"),
        ("o.csv", ["--points", "{in}/masks.txt"], "the labels hold no keypoint that could be followed"),
        ("o.csv", ["--points", "{in}/first.csv", "--format", "coco"], "o.csv: it must end in .json"),
        ("o.csv", ["--points", "{in}/first.csv", "--format", "davis"], "--format davis has no place for keypoints"),
        ("o.csv", ["--points", "{in}/gone.csv"], "gone.csv"),
    ],
)
def test_points_that_do_not_fit_are_refused_in_one_line(inputs, tmp_path, capsys, out, options, message):
    assert track(inputs, tmp_path / out, *(option.replace("{in}", str(inputs)) for option in options)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_results_that_are_there_are_replaced_only_when_told(inputs, tmp_path, capsys):
    options = ["--points", inputs / "first.csv", "--format", "tracks", "--format", "coco"]
    (tmp_path / "o.coco.json").write_text("mine")
    assert track(inputs, tmp_path / "o.csv", *options) == 1
    assert "o.coco.json is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["o.coco.json"]
    assert track(inputs, tmp_path / "o.csv", *options, "--overwrite") == 0
    assert len(list(siammae.read_annotations(tmp_path / "o.coco.json"))) == 4
