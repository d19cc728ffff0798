import numpy as np
import pytest
from hypothesis import strategies as st

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, Keypoints, VideoObject

from .labels import assert_same, given, keypoints, renamed, video

HEADER = "scorer,me,me,me\nbodyparts,nose,nose,nose\ncoords,x,y,likelihood\n"


@given(st.sampled_from([(1,), (1, 2)]).flatmap(lambda objects: keypoints(objects=objects, sure=True)))
def test_deeplabcut_when_written_and_read_is_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("dlc") / "f.csv"
    named = renamed(labels, objects=tuple(VideoObject(one.id, name=f"animal, {one.id}") for one in labels.objects))
    for one in (labels, named):
        path = path.with_stem(path.stem + "_")
        assert write_annotations(path, one, format="deeplabcut").lost == {}
        assert recognise(path).name == "deeplabcut"
        again = read_annotations(path)
        assert again.joints == labels.joints
        assert_same(again, labels, confidence=True)
    assert [one.name for one in again.objects] == [one.name for one in named.objects]


@given(keypoints(objects=(1, 2), sure=True))
def test_deeplabcut_written_is_read_by_the_calls_of_deeplabcut(tmp_path_factory, labels):
    pandas = pytest.importorskip("pandas")
    path = tmp_path_factory.mktemp("dlc") / "f.csv"
    write_annotations(path, labels, format="deeplabcut")
    theirs = pandas.read_csv(path, index_col=0, header=[0, 1, 2, 3])
    assert theirs.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
    for frame in labels:
        for key, some in frame.keypoints.items():
            for joint, point, seen in zip(labels.joints, some.points, some.visibility, strict=True):
                got = theirs.loc[frame.index]["siammae"][f"individual{key}"][joint]
                np.testing.assert_allclose(got[["x", "y"]], point if seen else np.nan, atol=1e-6)


def test_deeplabcut_written_by_pandas_is_read(tmp_path):
    pandas = pytest.importorskip("pandas")
    columns = pandas.MultiIndex.from_product(
        [["me"], ["a", "b"], ["x", "y", "likelihood"]], names=["scorer", "bodyparts", "coords"]
    )
    values = np.arange(12, dtype=float).reshape(2, 6) / 12
    values[1, :2] = np.nan
    pandas.DataFrame(values, columns=columns, index=[0, 1]).to_csv(tmp_path / "f.csv")
    first, second = read_annotations(tmp_path / "f.csv")
    np.testing.assert_allclose(first.keypoints[1].points, values[0].reshape(2, 3)[:, :2])
    assert second.keypoints[1].visibility.tolist() == [0, 2]


@pytest.mark.parametrize("image", ["labeled-data/clip/img0007.png", "labeled-data,clip,img0007.png"])
def test_deeplabcut_labels_of_a_person_are_read(tmp_path, image):
    gap = "," * image.count(",")
    (tmp_path / "f.csv").write_text(
        f"scorer,{gap}me,me\nbodyparts,{gap}nose,nose\ncoords,{gap}x,y\n{image},1.5,2.5\n".replace("png,1", "png,1")
    )
    (frame,) = read_annotations(tmp_path / "f.csv")
    assert (frame.index, frame.by_person, frame.name) == (7, True, "img0007")
    np.testing.assert_array_equal(frame.keypoints[1].points, [[1.5, 2.5]])


def test_deeplabcut_says_that_hidden_joints_become_visible(tmp_path):
    hidden = FrameLabels(0, keypoints={1: Keypoints.of(np.ones((1, 2)), np.array([1]))})
    lost = write_annotations(tmp_path / "f.csv", video([hidden], joints=("nose",)), format="deeplabcut").lost
    assert [str(feature) for feature in lost] == ["hidden joints (they become visible ones)"]
    (frame,) = read_annotations(tmp_path / "f.csv")
    assert frame.keypoints[1].visibility.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scorer,me\nbodyparts,a\n0,1\n", "has no header row 'coords'"),
        ("scorer,me\nbodyparts,a,b\ncoords,x\n", "the header rows have 2 and 1 columns"),
        ("scorer,me\nbodyparts,a\ncoords,z\n", "the row coords must say x, y or likelihood"),
        ("scorer,me,me\nbodyparts,a,a\ncoords,x,x\n", "has a column twice"),
        (HEADER + "0,1,2,x\n", "line 4: 'x' must be a number"),
        (HEADER + "0,1,inf,1\n", "line 4: 'inf' must be finite"),
        (HEADER + "1,1,2,1\n0,1,2,1\n", "line 5: frame 0 comes after frame 1"),
        (HEADER + "img,1,2,1\n", "'img' has no frame number"),
        (HEADER + '0,"' + "1" * 200_000, "is no CSV: field larger than field limit"),
    ],
)
def test_deeplabcut_that_lies_is_refused(tmp_path, text, message):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_annotations(tmp_path / "f.csv"))


def test_deeplabcut_refuses_two_animals_of_one_name(tmp_path):
    some = Keypoints.of(np.ones((1, 2)))
    labels = video(
        [FrameLabels(0, keypoints={1: some, 2: some})],
        joints=("nose",),
        objects=(VideoObject(1, "Rex"), VideoObject(2, "Rex")),
    )
    with pytest.raises(ValueError, match="DeepLabCut tells animals apart by name"):
        write_annotations(tmp_path / "f.csv", labels, format="deeplabcut")
