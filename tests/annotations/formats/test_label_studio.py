import copy
import json

import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.label_studio import decode_brush, encode_brush
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, VideoObject

from .labels import SIZE, assert_same, given, masks, renamed, video

MASK = np.eye(2, 3, dtype=bool)
RESULT = {
    "id": "a",
    "type": "brushlabels",
    "original_width": 3,
    "original_height": 2,
    "value": {"format": "rle", "rle": encode_brush(MASK), "brushlabels": ["dog"]},
}
TASK = {"id": 1, "data": {"image": "/data/x-frame_3.png?d=1"}, "annotations": [{"result": [RESULT]}]}


def read(tmp_path, content):
    (tmp_path / "f.json").write_text(json.dumps(content))
    return read_annotations(tmp_path / "f.json")


@given(masks(overlap=True))
def test_label_studio_when_written_and_read_is_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("ls") / "f.json"
    objects = tuple(VideoObject(key, category=f"kind {key % 2}") for key in (1, 2, 7))
    assert write_annotations(path, renamed(labels, objects=objects), format="label-studio").lost == {}
    assert recognise(path).name == "label-studio"
    again = read_annotations(path)
    assert_same(again, labels)
    assert all(one.category == f"kind {one.id % 2}" for one in again.objects)


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30)))
def test_brush_code_is_that_of_label_studio(mask):
    brush = pytest.importorskip("label_studio_converter.brush", reason="its package brings a dozen others")
    rgba = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    assert encode_brush(mask) == brush.encode_rle(rgba)
    np.testing.assert_array_equal(brush.decode_rle(encode_brush(mask)), rgba)
    np.testing.assert_array_equal(decode_brush(brush.encode_rle(rgba), mask.shape, "f"), mask)


def test_brush_code_of_long_runs_and_of_single_values():
    mask = np.zeros((200, 300), bool)
    mask[100, 7:] = True
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), mask.shape, "f"), mask)
    values = "".join(f"{value:08b}" for value in (0, 0, 0, 9))
    bits = f"{4:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "000" + f"{3:03b}" + values
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert decode_brush(code, (1, 1), "f").all()


def test_label_studio_keeps_who_made_a_frame(tmp_path):
    frames = [FrameLabels(index, {1: np.ones(SIZE, bool)}, by_person=by) for index, by in enumerate((True, False))]
    write_annotations(tmp_path / "f.json", video(frames), format="label-studio")
    assert [frame.by_person for frame in read_annotations(tmp_path / "f.json")] == [True, False]


def test_label_studio_reads_an_export(tmp_path):
    labels = read(tmp_path, [TASK])
    (frame,) = labels
    assert (frame.index, frame.by_person, labels.objects) == (3, True, (VideoObject(1, category="dog"),))
    np.testing.assert_array_equal(frame.masks[1], MASK)


def test_label_studio_image_with_two_of_a_label_has_two_objects(tmp_path):
    (frame,) = read(tmp_path, [dict(TASK, annotations=[{"result": [RESULT, RESULT]}])])
    assert sorted(frame.masks) == [1, 2]


def test_label_studio_reads_brushes_and_magic_wands_once_and_says_what_it_leaves_out(tmp_path, caplog):
    bare = {key: value for key, value in RESULT.items() if key not in ("original_width", "original_height")}
    rle = {"format": "rle", "rle": RESULT["value"]["rle"]}
    results = [
        dict(bare, id="a", type="magicwand", value=rle),
        dict(bare, id="a", type="labels", value={**rle, "labels": ["cloud"]}),
        dict(bare, id="b", type="labels", value={**rle, "labels": ["sun"]}),
        dict(bare, id="b", type="brush", value=rle),
        dict(bare, id="c", type="rectangle", value={"x": 1}),
        dict(bare, id="c", type="labels", value={"x": 1, "labels": ["sun"]}),
        {"type": "relation", "from_id": "a", "to_id": "b"},
    ]
    (tmp_path / "f.json").write_text(json.dumps([dict(TASK, annotations=[{"result": results}])]))
    with pytest.raises(ValueError, match="does not say how large its frames are"):
        read_annotations(tmp_path / "f.json")
    labels = read_annotations(tmp_path / "f.json", size=(2, 3))
    (frame,) = labels
    assert [one.category for one in labels.objects] == ["cloud", "sun"]
    np.testing.assert_array_equal(frame.masks[2], MASK)
    assert "1 of the kind rectangle have no brush mask; left out" in caplog.text
    assert "relation" not in caplog.text


def test_label_studio_frame_is_read_where_others_cannot_be_told_apart(tmp_path):
    two = [dict(TASK, annotations=[{"result": [RESULT, RESULT]}]), dict(TASK, data={"image": "4.png"})]
    (tmp_path / "f.json").write_text(json.dumps(two))
    (frame,) = read_annotations(tmp_path / "f.json", frames=[3])
    assert sorted(frame.masks) == [1, 2]


def spoilt(**changes):
    task = copy.deepcopy(TASK)
    result = task["annotations"][0]["result"][0]
    for name, value in changes.items():
        (result["value"] if name in result["value"] else result)[name] = value
    return [task]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (spoilt(rle="x"), "a brush's rle must be a list of bytes"),
        (spoilt(rle=[256]), "a brush's rle must be a list of bytes"),
        (spoilt(rle=[]), "a brush's rle breaks off"),
        (spoilt(rle=encode_brush(MASK)[:-2]), "a brush's rle breaks off"),
        (spoilt(rle=[255] * 40), "has 4294967295 values"),
        (spoilt(rle=[0, 0, 0, 24, *[255] * 40]), "runs past the end of the frame"),
        (spoilt(original_width=10**7), "frame size 2 x 10000000"),
        ([TASK, TASK], "two tasks are of frame 3"),
        ([dict(TASK, annotations=2 * TASK["annotations"])], "frame 3 has 2 annotations"),
        ([dict(TASK, annotations=[])], "has no brush labels"),
        (
            [dict(TASK, annotations=[{"result": [RESULT, RESULT]}]), dict(TASK, data={"image": "4.png"})],
            "has several 'dog' in an image",
        ),
    ],
)
def test_label_studio_that_lies_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        list(read(tmp_path, content))
