"""Results in any format from ``siammae propagate``."""

import json

import pytest

import siammae
from siammae.annotations.formats.format import Feature
from siammae.annotations.formats.registry import FORMATS
from siammae.cli import main
from siammae.frames import write_image
from siammae.outputs import MARKER, WAY_OUT, hold_folder
from tests.annotations.formats.labels import assert_same
from tests.helpers import moving_square, tiny_model

RULES = ["--quiet", "--set", "queue_length=1"]
SOLID = [one for one in FORMATS if Feature.MASKS in one.holds and one.name != "davis"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    video, masks = moving_square(4, (32, 48), 12, (4, 4))
    (folder / "frames").mkdir()
    for index, frame in enumerate(video):
        write_image(folder / "frames" / f"img_{index + 1}.png", frame)
    siammae.write_mask(folder / "mask.png", 2 * masks[0])
    tiny_model().save_pretrained(folder / "model")
    return folder


def propagate(inputs, out, *options, mask="mask.png"):
    argv = ["propagate", inputs / "frames", "--mask", inputs / mask, "-o", out, "--model", inputs / "model", *RULES]
    return main([str(part) for part in [*argv, *options]])


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("target", SOLID, ids=lambda one: one.name)
def test_results_in_each_format_hold_the_pictures(inputs, tmp_path, capsys, target):
    out = tmp_path / "out"
    assert propagate(inputs, out, "--format", "davis", "--format", target.name) == 0
    place = out / (target.name + target.suffix)
    assert f"4 frames as {target.name}: {place}" in capsys.readouterr().out
    pictures = siammae.read_annotations(out, format="davis")
    again = siammae.read_annotations(place, video=inputs / "frames")
    kept = [frame for frame in pictures if frame.masks or Feature.EMPTY in target.holds]
    assert Feature.ALIKE not in target.holds or assert_same(again, kept, masks_only=True) is None
    if Feature.AUTHORS in target.holds:
        assert [frame.by_person for frame in again] == [True, False, False, False]
    assert propagate(inputs, tmp_path / "alone", "--format", target.name) == 0
    assert list((tmp_path / "alone").glob("*.png")) == []
    assert not [name for name in files(out) if ".part" in name or "lock" in name]


def test_results_have_the_names_of_the_videos_images_and_confidence(inputs, tmp_path):
    assert propagate(inputs, tmp_path / "out", "--format", "coco") == 0
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"img_{index}.jpg" for index in (1, 2, 3, 4)]
    model = siammae.SiamMAE.from_pretrained(inputs / "model")
    config = siammae.PropagationConfig(queue_length=1)
    known = siammae.propagate_masks(inputs / "frames", inputs / "mask.png", model=model, config=config)
    assert [row["score"] for row in content["annotations"]] == pytest.approx(known.confidence[:, 0].tolist())


def test_what_a_format_cannot_hold_is_said_once_and_before_the_work(inputs, tmp_path, caplog):
    assert propagate(inputs, tmp_path / "out", "--format", "youtube-vis", "--set", "top_k=0") == 1  # refused later
    said = "youtube-vis has no place for: which frames a person made, confidence of masks."
    assert [record.message for record in caplog.records] == [said]
    caplog.clear()
    assert propagate(inputs, tmp_path / "out", "--format", "youtube-vis") == 0
    assert [record.message for record in caplog.records] == [said]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sleap"], "--format sleap has no place for masks: those that have are youtube-vos, davis, coco"),
        (["npy"], "npy is read but not written"),
        (["coca"], "no format 'coca'"),
        (["coco", "coco"], "--format coco is given twice"),
    ],
)
def test_formats_that_cannot_be_are_refused(inputs, tmp_path, capsys, names, message):
    assert propagate(inputs, tmp_path / "out", *(part for name in names for part in ("--format", name))) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_format_without_its_package_is_refused_before_the_work(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    assert propagate(inputs, tmp_path / "out", "--format", "coco", "--model", "nowhere") == 1
    assert "pip install siammae[formats]" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_results_that_are_there_are_replaced_only_when_told_and_old_ones_go(inputs, tmp_path, capsys, name):
    out = tmp_path / "out"
    assert propagate(inputs, out, "--format", name) == 0
    before = files(out)
    assert propagate(inputs, out, "--format", name) == 1
    assert WAY_OUT in capsys.readouterr().err
    assert propagate(inputs, out, "--format", name, "--overwrite") == 0
    assert files(out) == before
    if name == "coco":
        assert propagate(inputs, out, "--overwrite") == 0
        assert files(out) == {MARKER, *(f"{index:05d}.png" for index in range(4))}
    else:
        (out / "yolo" / "labels" / "mine.txt").write_text("mine")
        assert propagate(inputs, out, "--format", name, "--overwrite") == 1
        assert "labels/mine.txt, which siammae did not write" in capsys.readouterr().err


def test_folder_of_results_that_another_run_is_writing_is_refused(inputs, tmp_path, capsys):
    with hold_folder(tmp_path / "out" / "yolo"):
        assert propagate(inputs, tmp_path / "out", "--format", "yolo") == 1
    assert "another run is writing" in capsys.readouterr().err
