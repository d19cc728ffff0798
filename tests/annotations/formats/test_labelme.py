import base64
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from siammae.annotations.files import read_annotations
from siammae.annotations.formats.registry import recognise

TRIANGLE = [[2.0, 1.0], [10.5, 3.2], [4.0, 7.0]]


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shape(kind="polygon", points=TRIANGLE, label="dog", **more):
    return {"label": label, "points": points, "shape_type": kind, **more}


def save(path, *shapes, size=(9, 14)):
    path.write_text(json.dumps({"shapes": list(shapes), "imageHeight": size[0], "imageWidth": size[1]}))
    return path


def test_labelme_polygon_is_drawn_as_labelme_draws_it(tmp_path):
    path = save(tmp_path / "f.json", {"label": "dog", "points": TRIANGLE})
    assert recognise(path).name == "labelme"
    (frame,) = read_annotations(path)
    image = Image.new("1", (14, 9))
    ImageDraw.Draw(image).polygon([tuple(point) for point in TRIANGLE], outline=1, fill=1)
    np.testing.assert_array_equal(frame.masks[1], np.asarray(image))
    assert (frame.index, frame.by_person) == (0, True)


def test_labelme_rectangle_circle_and_mask(tmp_path):
    inner = np.eye(2, 3, dtype=bool)
    path = save(
        tmp_path / "f.json",
        shape("rectangle", [[5, 4], [2, 1]], "a"),
        shape("circle", [[5, 5], [5, 7]], "b"),
        shape("mask", [[3, 4], [5, 5]], "c", mask=png(inner)),
    )
    labels = read_annotations(path)
    (frame,) = labels
    assert [one.category for one in labels.objects] == ["a", "b", "c"]
    wanted = np.zeros((9, 14), bool)
    wanted[1:5, 2:6] = True
    np.testing.assert_array_equal(frame.masks[1], wanted)
    assert frame.masks[2][5, 3:8].all()
    np.testing.assert_array_equal(np.argwhere(frame.masks[3]), [[4, 3], [5, 4]])


def test_labelme_points_belong_to_the_object_of_their_group(tmp_path):
    path = save(
        tmp_path / "f.json",
        shape(group_id=2),
        shape("point", [[0.5, 0.5]], "nose", group_id=2),
        shape("point", [[3, 4]], "tail", group_id=2),
        shape("point", [[1, 1]], "nose"),
    )
    labels = read_annotations(path)
    (frame,) = labels
    assert labels.joints == ("nose", "tail")
    assert labels.object(1).category == "dog"
    np.testing.assert_array_equal(frame.keypoints[1].points, [[0, 0], [2.5, 3.5]])
    assert frame.keypoints[2].visibility.tolist() == [2, 0]


def test_labelme_shapes_without_a_group_are_objects_of_their_own_and_those_of_a_group_are_one(tmp_path):
    other = [[11, 7], [13, 7], [12, 8]]
    (frame,) = read_annotations(save(tmp_path / "f.json", shape(), shape(points=other)))
    assert sorted(frame.masks) == [1, 2]
    path = save(tmp_path / "g.json", shape(group_id=1), shape(points=other, group_id=1))
    (together,) = read_annotations(path)
    np.testing.assert_array_equal(together.masks[1], frame.masks[1] | frame.masks[2])


def test_labelme_says_which_lines_it_leaves_out_and_rounds_the_corner_of_a_mask(tmp_path, caplog):
    inner = np.eye(2, 3, dtype=bool)
    turned = [[2, 2], [4, 2], [4, 5], [2, 5]]
    path = save(
        tmp_path / "f.json",
        shape("line", [[1, 1], [2, 2]]),
        shape("linestrip", [[1, 1], [2, 2], [3, 1]]),
        shape("mask", [[2.6, 4.4], [5.3, 5.2]], "c", mask=png(inner)),
        shape("oriented_rectangle", turned, "d"),
    )
    labels = read_annotations(path)
    (frame,) = labels
    assert [one.category for one in labels.objects] == ["c", "d"]
    np.testing.assert_array_equal(np.argwhere(frame.masks[1]), [[4, 3], [5, 4]])
    assert frame.masks[2].sum() == 12
    assert "1 of the kind line are neither masks nor keypoints; left out" in caplog.text
    assert "1 of the kind linestrip are neither masks nor keypoints; left out" in caplog.text


def test_labelme_frame_is_read_where_others_cannot_be_told_apart_or_have_another_size(tmp_path):
    save(tmp_path / "f3.json", shape(), shape())
    save(tmp_path / "f4.json", shape(), size=(20, 20))
    with pytest.raises(ValueError, match=r"is for frames of \(20, 20\)"):
        read_annotations(tmp_path)
    (frame,) = read_annotations(tmp_path, frames=[3])
    assert (frame.index, sorted(frame.masks)) == (3, [1, 2])


def test_labelme_folder_is_a_video(tmp_path):
    for index in (3, 12):
        save(tmp_path / f"f{index}.json", shape(), shape(label="cat"))
    assert [(frame.index, sorted(frame.masks)) for frame in read_annotations(tmp_path)] == [(3, [1, 2]), (12, [1, 2])]
    save(tmp_path / "g12.json", shape())
    with pytest.raises(ValueError, match=r"f12\.json and g12\.json are both of frame 12"):
        read_annotations(tmp_path)
    (tmp_path / "g12.json").unlink()
    save(tmp_path / "f4.json", shape(), shape())
    with pytest.raises(ValueError, match="has 2 'dog' without group_id"):
        read_annotations(tmp_path)


def test_labelme_folder_without_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no JSON of labelme"):
        read_annotations(tmp_path, format="labelme")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([shape("star")], "a shape of the kind 'star': read are polygon"),
        ([shape(points=[[1, 2]])], "a polygon has 1 corners"),
        ([shape(points=[[1, 2], [3], [4, 5]])], r"a polygon has the points \[\[1, 2\], \[3\]"),
        ([shape(points=[[1, 2], [3, 1e9], [4, 5]])], "a polygon lies far outside the frame"),
        ([shape("mask", [[3, 4], [5, 5]], mask="?")], "a mask that is no PNG in base64"),
        ([shape("mask", [[13, 4], [5, 5]], mask=png(np.ones((2, 2))))], "reaches out of the frame"),
        ([shape(group_id="x")], "a group_id is 'x'"),
        ([shape("point", [[1, 1]]), shape("point", [[2, 2]])], "has the point 'dog' twice in one group"),
        ([{"points": []}], "has no 'label'"),
    ],
)
def test_labelme_that_lies_is_refused(tmp_path, shapes, message):
    with pytest.raises(ValueError, match=message):
        list(read_annotations(save(tmp_path / "f.json", *shapes)))
