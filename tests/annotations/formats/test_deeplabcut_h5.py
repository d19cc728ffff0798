import os
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import strategies as st

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats import deeplabcut_h5
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, Keypoints, VideoObject

from .labels import assert_same, given, keypoints, renamed, video

h5py, pd, tables = (pytest.importorskip(name) for name in ("h5py", "pandas", "tables"))
KEY = "df_with_missing"


@given(st.sampled_from([(1,), (1, 2)]).flatmap(lambda objects: keypoints(objects=objects, sure=True)))
def test_deeplabcut_h5_when_written_and_read_is_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("dlc") / "f.h5"
    named = renamed(labels, objects=tuple(VideoObject(one.id, name=f"animal, {one.id}") for one in labels.objects))
    for one in (labels, named):
        path = path.with_stem(path.stem + "_")
        assert write_annotations(path, one, format="deeplabcut-h5").lost == {}
        assert recognise(path).name == "deeplabcut-h5"
        again = read_annotations(path)
        assert again.joints == labels.joints
        assert_same(again, labels, confidence=True)
    assert [one.name for one in again.objects] == [one.name for one in named.objects]


def test_deeplabcut_h5_written_is_read_by_the_calls_of_deeplabcut(tmp_path):
    some, other = Keypoints.of(np.array([[1.5, 2], [np.nan, np.nan]])), Keypoints.of(np.array([[3, 4], [5, 6.25]]))
    labels = video(
        [FrameLabels(3, keypoints={1: some}), FrameLabels(7, keypoints={1: other, 2: some})], joints=("nose", "tail")
    )
    write_annotations(tmp_path / "f.h5", labels, format="deeplabcut-h5")
    theirs = pd.read_hdf(tmp_path / "f.h5")
    assert theirs.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
    assert theirs.index.tolist() == [3, 7]
    np.testing.assert_array_equal(theirs.loc[7]["siammae"]["individual1"]["tail"], [5, 6.25, 1])
    assert theirs.loc[3]["siammae"]["individual2"].isna().all()


IMAGE = "labeled-data/m4s1/img07.png"


@pytest.mark.parametrize(
    ("rows", "format"),  # a table cannot have rows of three names, as pandas says
    [([IMAGE], "fixed"), ([IMAGE], "table"), ([tuple(IMAGE.split("/"))], "fixed"), ([7], "fixed"), ([7], "table")],
)
def test_deeplabcut_h5_written_by_pandas_is_read(tmp_path, rows, format):
    columns = pd.MultiIndex.from_product(
        [["me"], ["nose", "tail"], ["x", "y"]], names=["scorer", "bodyparts", "coords"]
    )
    index = pd.MultiIndex.from_tuples(rows) if isinstance(rows[0], tuple) else rows
    frame = pd.DataFrame([[1.5, 2.5, np.nan, np.nan]], columns=columns, index=index)
    frame.to_hdf(tmp_path / "f.h5", key=KEY, format=format, mode="w")
    labels = read_annotations(tmp_path / "f.h5")
    (one,) = labels
    assert (one.index, one.by_person, one.name) == (7, True, "" if rows == [7] else "img07")
    np.testing.assert_array_equal(one.keypoints[1].points, [[1.5, 2.5], [np.nan, np.nan]])


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def attribute(file):
    file.root._v_attrs.note = Harmful()


def nested_attribute(file):
    file.create_group("/", "a")
    file.create_array("/a", "b", [1])._v_attrs.note = [Harmful()]


def objects(file):
    file.create_vlarray("/", "a", tables.ObjectAtom()).append(Harmful())


def link(file):
    file.create_external_link("/", KEY, "other.h5:/x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (attribute, "has an attribute note that would run code"),
        (nested_attribute, "has an attribute note that would run code"),
        (objects, "holds Python objects"),
        (link, "links to other files"),
    ],
)
def test_deeplabcut_h5_that_could_run_code_is_refused(tmp_path, monkeypatch, spoil, message):
    monkeypatch.chdir(tmp_path)
    with tables.open_file(tmp_path / "f.h5", "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoil(file)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "f.h5")
    assert not (tmp_path / "harm").exists()


def test_pickles_that_break_off_after_a_call_are_seen():
    harmful = pickle.dumps(Harmful())
    assert deeplabcut_h5._runs_code(harmful)
    assert deeplabcut_h5._runs_code(harmful[:-1] + b"\xff.")
    assert not deeplabcut_h5._runs_code(pickle.dumps([("me", "nose", "x"), {1: 2.5}]))
    assert not deeplabcut_h5._runs_code(b"no pickle.")


def test_deeplabcut_h5_that_lies_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match="is no HDF5"):
        read_annotations(path)
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(ValueError, match="is no table of DeepLabCut's"):
        read_annotations(path)
    for columns, message in (
        (["a", "b"], "has no header row 'bodyparts'"),
        (pd.MultiIndex.from_tuples([("a", "z"), ("a", "y")], names=["bodyparts", "coords"]), "must say x, y or likel"),
    ):
        pd.DataFrame([[1.0, 2.0]], columns=columns).to_hdf(path, key=KEY, mode="w")
        with pytest.raises(ValueError, match=message):
            read_annotations(path)
    columns = pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")], names=["bodyparts", "coords"])
    for values, index, message in (
        ([[1, np.inf]], [0], "has places that are not finite"),
        ([[1, 2], [3, 4]], [5, 5], "has frame 5 twice"),
    ):
        pd.DataFrame(values, columns=columns, index=index, dtype=float).to_hdf(path, key=KEY, mode="w")
        with pytest.raises(ValueError, match=message):
            read_annotations(path)
    monkeypatch.setattr(deeplabcut_h5, "bound", lambda name: 2)
    with pytest.raises(ValueError, match=r"unpacks to [\d,]+ bytes: at most 8 are read"):
        read_annotations(path)
