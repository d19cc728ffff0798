"""Masks of any format into ``siammae propagate``."""

import numpy as np
import pytest
from PIL import Image

import siammae
from siammae.annotations.formats.format import Feature
from siammae.annotations.formats.registry import FORMATS
from siammae.annotations.model import Annotations, FrameLabels, VideoObject
from siammae.cli import main
from siammae.frames import write_image
from tests.helpers import moving_square, tiny_model

RULES = ["--quiet", "--set", "queue_length=1"]
VIDEO, MASKS = moving_square(4, (32, 48), 12, (4, 4))
OTHER = np.zeros((32, 48), bool)
OTHER[20:30, 30:44] = True
FRAMES = [FrameLabels(0, {1: MASKS[0] > 0, 2: OTHER}, name="0"), FrameLabels(3, {1: MASKS[3] > 0}, name="3")]
WRITTEN = [one.name for one in FORMATS if Feature.MASKS in one.holds]


def labels(frames=FRAMES, **known):
    objects = (VideoObject(1, category="car"), VideoObject(2, category="pedestrian"))
    return Annotations(lambda: iter(frames), **{"objects": objects, "size": (32, 48), **known})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "frames").mkdir()
    for index, frame in enumerate(VIDEO):
        write_image(folder / "frames" / f"{index}.png", frame)
    tiny_model().save_pretrained(folder / "model")
    for name in WRITTEN:
        suffix = next(one.suffix for one in FORMATS if one.name == name)
        siammae.write_annotations(folder / f"{name}{suffix}", labels(), format=name)
    ids = np.stack([np.where(OTHER, 2, MASKS[0]), np.zeros_like(MASKS[0]), np.zeros_like(MASKS[0]), MASKS[3]])
    np.save(folder / "npy.npy", ids.astype(np.uint16))
    pages = [Image.fromarray(page.astype(np.uint8)) for page in ids]
    pages[0].save(folder / "tiff.tif", save_all=True, append_images=pages[1:])
    siammae.write_mask(folder / "first.png", ids[0].astype(np.uint8))
    siammae.write_mask(folder / "last.png", ids[3].astype(np.uint8))
    return folder


def propagate(inputs, out, *options):
    argv = ["propagate", inputs / "frames", "-o", out, "--model", inputs / "model", *RULES, *options]
    return main([str(part) for part in argv])


def results(out):
    return np.stack([siammae.read_mask(path, binary=False) for path in sorted(out.glob("*.png"))])


def refused(capsys, *argv):
    assert propagate(*argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def expected(inputs):
    model = siammae.SiamMAE.from_pretrained(inputs / "model")
    config = siammae.PropagationConfig(queue_length=1)
    given = {0: inputs / "first.png", 3: inputs / "last.png"}
    return siammae.propagate_masks(inputs / "frames", given, model=model, config=config).labels


@pytest.mark.parametrize("option", ["--mask", "--masks"])
@pytest.mark.parametrize("name", [*(one for one in WRITTEN if one != "davis"), "npy", "tiff"])
def test_masks_of_each_format_are_followed_as_pictures_are(inputs, expected, tmp_path, name, option):
    (path,) = [path for path in inputs.iterdir() if path.stem == name]
    assert propagate(inputs, tmp_path / "out", option, path) == 0
    np.testing.assert_array_equal(results(tmp_path / "out"), expected)


def test_davis_folder_is_followed_by_number_or_by_the_names_of_images(inputs, expected, tmp_path, caplog):
    assert propagate(inputs, tmp_path / "out", "--mask", inputs / "davis") == 0
    np.testing.assert_array_equal(results(tmp_path / "out"), expected)
    shifted = tmp_path / "shifted"
    shifted.mkdir()
    for index, frame in enumerate(VIDEO):
        write_image(shifted / f"{index + 1:05d}.png", frame)
    (tmp_path / "m").mkdir()
    for place, name in ((0, "first"), (3, "last")):
        (tmp_path / "m" / f"{place + 1:05d}.png").write_bytes((inputs / f"{name}.png").read_bytes())
    base = ["propagate", shifted, "--masks", tmp_path / "m", "--model", inputs / "model", *RULES]
    assert main([str(part) for part in [*base, "-o", tmp_path / "by_name", "--input-format", "davis"]]) == 0
    np.testing.assert_array_equal(results(tmp_path / "by_name"), expected)
    assert caplog.text == ""
    assert main([str(part) for part in [*base, "-o", tmp_path / "by_number", "--frame", "1"]]) == 0
    assert "00001.png is taken for frame 1, counted from 0, not for the image 00001" in caplog.text


def test_object_and_frame_choose_and_number(inputs, tmp_path):
    coco, first = inputs / "coco.json", MASKS[0] > 0
    assert propagate(inputs, tmp_path / "a", "--mask", coco, "--object", "pedestrian=7", "--frame", "0") == 0
    np.testing.assert_array_equal(results(tmp_path / "a")[0], np.where(OTHER, 7, 0))
    assert propagate(inputs, tmp_path / "b", "--mask", coco, "--object", "2", "--object", "car=9", "--frame", "0") == 0
    np.testing.assert_array_equal(results(tmp_path / "b")[0], np.where(OTHER, 2, np.where(first, 9, 0)))
    assert set(np.unique(results(tmp_path / "b")[3])) <= {0, 2, 9}
    assert propagate(inputs, tmp_path / "c", "--mask", inputs / "first.png", "--object", "2=1") == 0
    np.testing.assert_array_equal(results(tmp_path / "c")[0], OTHER)


def test_labels_of_one_frame_can_be_of_another(inputs, tmp_path):
    assert propagate(inputs, tmp_path / "out", "--mask", f"2={inputs / 'coco.json'}", "--frame", "0") == 0
    np.testing.assert_array_equal(results(tmp_path / "out")[2], np.where(OTHER, 2, MASKS[0]))


def test_overlap_is_said_and_the_smaller_id_keeps_the_pixels(inputs, tmp_path, caplog):
    both = labels([FrameLabels(0, {2: OTHER, 3: np.ones_like(OTHER)})])
    siammae.write_annotations(tmp_path / "f.json", both, format="coco")
    caplog.clear()
    assert propagate(inputs, tmp_path / "out", "--mask", tmp_path / "f.json") == 0
    assert "objects overlap in 1 frames, first in frame 0: the one with the smaller id keeps the pixels" in caplog.text
    np.testing.assert_array_equal(results(tmp_path / "out")[0], np.where(OTHER, 2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask", "{in}/coco.json", "--object", "cat=1"], "no object is called 'cat': known are car, pedestrian"),
        (["--mask", "{in}/coco.json", "--object", "9=1"], "object 9 is in none of the frames: there are 1, 2"),
        (["--mask", "{in}/coco.json", "--object", "car=2", "--object", "2"], "objects 1 and 2 both get the id 2"),
        (["--mask", "{in}/coco.json", "--object", "car=1", "--object", "1=1"], "car, 1 name an object twice"),
        (["--mask", "{in}/coco.json", "--object", "car=0"], "--object car=0: ids go from 1 to 254"),
        (["--mask", "{in}/coco.json", "--object", "1", "--object", "1=2"], "--object 1 is given twice"),
        (["--mask", "{in}/coco.json", "--frame", "2"], "frame 2 has no labels: labelled are 0, 3"),
        (["--mask", "{in}/coco.json", "--threshold", "9"], "--threshold is for pictures of masks"),
        (["--mask", "{in}/coco.json", "--input-format", "mots"], "coco.json, line 1 has"),
        (["--mask", "{in}/coco.json", "--input-format", "coca"], "no format 'coca': known are"),
        (["--mask", "1={in}/coco.json"], "has labels of 2 frames, not of one: choose with --frame"),
        (["--mask", "1={in}/davis"], "is a folder of masks, which have their numbers: leave 1= out"),
        (["--mask", "{in}/davis", "--frame", "2"], "has no mask of frame 2"),
        (["--mask", "{in}/first.png", "--frame", "0"], "is of one frame, and --frame chooses among several"),
        (["--mask", "{in}/first.png", "--object", "3=1"], "has no object '3': a picture has numbers only, here 1, 2"),
        (["--mask", "{in}/coco.json", "--mask", "{in}/last.png"], "frame 0 has two masks"),
        (["--mask", "{in}/model"], "looks like no known format of labels"),
        (["--mask", "{in}/model/config.json"], "looks like no known format of labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_one_line(inputs, tmp_path, capsys, options, message):
    options = [option.replace("{in}", str(inputs)) for option in options]
    assert message in refused(capsys, inputs, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([FrameLabels(0, {255: OTHER})], "object 255 cannot be followed under this number: .* as --object 255=1"),
        ([FrameLabels(0)], "the labels hold no mask that could be followed"),
        ([FrameLabels(0, {1: np.ones((3, 3), bool)})], r"is for frames of \(3, 3\) but the video has \(32, 48\)"),
    ],
)
def test_labels_that_cannot_be_followed_are_refused(inputs, tmp_path, capsys, frames, message):
    import re

    siammae.write_annotations(tmp_path / "f.json", labels(frames), format="coco")
    assert re.search(message, refused(capsys, inputs, tmp_path / "out", "--mask", tmp_path / "f.json"))


def test_name_of_several_objects_is_refused(inputs, tmp_path, capsys):
    cars = (VideoObject(1, category="car"), VideoObject(2, category="car"))
    siammae.write_annotations(tmp_path / "f.json", labels(objects=cars), format="coco")
    error = refused(capsys, inputs, tmp_path / "out", "--mask", tmp_path / "f.json", "--object", "car=1")
    assert "'car' are the objects 1, 2: name one by its id" in error
