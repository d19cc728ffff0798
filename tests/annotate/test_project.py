"""Projects on disk: whole or not at all, of one video, for one server."""

import json
import shutil

import numpy as np
import pytest

import siammae
from siammae.annotate.files import Point, read_note, read_points
from siammae.annotate.identity import fingerprint
from siammae.annotate.opening import hold_project, read_index
from siammae.annotate.project import Project
from siammae.annotate.things import Described, Thing, default_colour
from siammae.annotate.tracks import Track
from siammae.annotate.values import Values
from siammae.annotations.model import Visibility
from tests.annotate.projects import draw, follow, session, spans, write_clip


@pytest.fixture
def clip(tmp_path):
    return tmp_path / "clip", write_clip(tmp_path / "clip", 5)


@pytest.fixture
def project(clip, tmp_path):
    """A folder in which some work was done, and its masks."""
    video, masks = clip
    with session(tmp_path / "p", video) as opened:
        draw(opened, 0, masks[0])
        opened.change_joints(Values({"joints": ["nose"]}))
        opened.point(0, Values({"object": 1, "joint": "nose", "visibility": "hidden", "x": 12.25, "y": 9}))
        follow(opened)
    return tmp_path / "p", masks


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_project_is_plain_files_that_others_read(project):
    folder, masks = project
    expected = {"project.json", "keypoints.csv", "annotated/00000.png"}
    expected |= {f"followed/{f:05d}.{kind}" for f in range(1, 5) for kind in ("png", "csv")}
    assert files(folder) == expected
    assert np.array_equal(siammae.read_mask(folder / "annotated/00000.png"), masks[0])
    assert read_note(folder / "annotated/00000.png") == {"objects": [1]}
    assert 0 < read_note(folder / "followed/00003.png")["confidence"]["1"] <= 1
    text = (folder / "keypoints.csv").read_text()
    assert text == "frame,object,name,x,y,visibility\n0,1,nose,12.25,9.0,hidden\n"
    labels = siammae.read_annotations(folder / "followed", format="davis")
    assert [frame.index for frame in labels] == [1, 2, 3, 4]


def test_opening_again_goes_on(project, clip):
    folder, masks = project
    with session(folder, clip[0]) as opened:
        assert spans(opened, "annotated") == [0]
        assert spans(opened, "followed") == [1, 2, 3, 4]
        assert np.array_equal(opened.project.labels(0), masks[0])
        assert opened.project.points == {0: {Track(1, "nose"): Point(12.25, 9.0, Visibility.HIDDEN)}}
        assert opened.things()["joints"] == ["nose"]
        assert opened.attention()["confidence"].keys() == {"1", "1/nose"}
        before = files(folder)
        assert follow(opened) == ""  # nothing is left to do
        assert opened.follower.state["total"] == 0
        assert files(folder) == before


def test_video_may_have_moved_and_is_known_by_its_content(project, clip, tmp_path):
    folder, _ = project
    shutil.move(clip[0], tmp_path / "elsewhere")
    with session(folder, tmp_path / "elsewhere") as opened:
        assert spans(opened, "annotated") == [0]
    write_clip(tmp_path / "other", 5, seed=1)
    with pytest.raises(ValueError, match=r"is a project of elsewhere .* but other is another video"):
        session(folder, tmp_path / "other").__enter__()


def test_fingerprint_of_a_file_is_of_its_content(tmp_path):
    one, two = tmp_path / "a.bin", tmp_path / "b.bin"
    one.write_bytes(bytes(range(256)) * 300_000)  # more than is read as a whole
    shutil.copy(one, two)
    assert fingerprint(one) == fingerprint(two)
    data = bytearray(one.read_bytes())
    data[-1] ^= 1
    two.write_bytes(data)
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(two)["size"] == len(data)


def test_second_server_is_refused_in_one_sentence(project, clip):
    folder, _ = project
    with (
        hold_project(folder, clip[0]),
        pytest.raises(BlockingIOError, match=r"another server has opened .* \(process \d+ on "),
    ):
        hold_project(folder, clip[0]).__enter__()


def test_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.doc").write_text("mine")
    with pytest.raises(ValueError, match=r"holds thesis.doc but no project.json: it is no project"):
        hold_project(tmp_path / "p").__enter__()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "describes no video"),
        ('{"video": {}, "version": 99}', "is of version 99: this siammae reads version 1"),
    ],
)
def test_damaged_index_is_refused(text, message, tmp_path):
    (tmp_path / "project.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": [{"id": 300, "name": "x", "colour": "#000000"}]}, "object 300: ids must be 1 to 254"),
        ({"objects": [{"id": 1, "name": "a\nb", "colour": "#000000"}]}, "visible characters"),
        ({"objects": [{"id": 1, "name": "a", "colour": "red"}]}, "a colour must be #rrggbb"),
        ({"objects": [{"name": "a"}]}, "is not laid out as a project"),
        ({"joints": ["a", "a"]}, "must be distinct"),
        ({"stale": {"999": [[1, 2]]}}, "is no track"),
        ({"stale": 3}, "is not laid out as a project"),
    ],
)
def test_wrong_values_in_the_index_are_refused(change, message, project, clip):
    folder, _ = project
    index = json.loads((folder / "project.json").read_text())
    (folder / "project.json").write_text(json.dumps(index | change))
    with pytest.raises(ValueError, match=message):
        session(folder, clip[0]).__enter__()


def test_mask_of_another_size_is_refused_when_it_is_looked_at(project, clip):
    folder, _ = project
    siammae.write_mask(folder / "followed" / "00002.png", np.zeros((3, 3), np.uint8))
    with session(folder, clip[0]) as opened:
        opened.project._followed[2] = {Track(1): 0.5}
        with pytest.raises(ValueError, match=r"is \(3, 3\) but the video is \(48, 64\)"):
            opened.project.labels(2)


def test_wrong_keypoints_are_refused_with_their_line(tmp_path):
    (tmp_path / "k.csv").write_text("frame,object,name,x,y,visibility\n0,1,nose,1,2,seen\n")
    with pytest.raises(ValueError, match=r"line 2: visibility is 'seen'"):
        read_points(tmp_path / "k.csv")
    (tmp_path / "k.csv").write_text("frame,object,name,x,y,visibility\n0,1,nose,1,nan,visible\n")
    with pytest.raises(ValueError, match=r"line 2: 'nan' must be a number"):
        read_points(tmp_path / "k.csv")


def test_deleted_object_is_seen_nowhere_and_its_id_is_not_used_again(project, clip):
    folder, _ = project
    with session(folder, clip[0]) as opened:
        opened.change_object(1, Values({"deleted": True}))
        assert not opened.project.labels(0).any()
        assert not opened.project.labels(3).any()
        assert opened.project.all_points(0) == {}
        assert opened.add_object(Values({"name": "fox"}))["new"] == 2
        assert opened.attention()["confidence"] == {}


def test_all_ids_may_be_used_and_no_more():
    things = tuple(Thing(i, f"t{i}", default_colour(i)) for i in range(1, 254))
    assert Described(things, ()).next_thing().id == 254
    with pytest.raises(ValueError, match="there is no id left"):
        Described((*things, Thing(254, "x", "#000000")), ()).next_thing()


def test_drawing_after_a_kill_between_index_and_mask_is_lost_but_nothing_else(project, clip, monkeypatch):
    folder, masks = project

    def killed(*_, **__):
        raise KeyboardInterrupt

    with session(folder, clip[0]) as opened:
        monkeypatch.setattr("siammae.annotate.project.write_map", killed)
        with pytest.raises(KeyboardInterrupt):
            opened.editor.paint(2, 0, 0, np.ones((4, 4), np.uint8))
        monkeypatch.undo()
    with session(folder, clip[0]) as opened:
        assert spans(opened, "annotated") == [0]
        assert spans(opened, "stale") == [1, 2, 3, 4]  # doubtful for no reason, which costs some work and no drawing
        assert np.array_equal(opened.project.labels(0), masks[0])
        follow(opened)
        assert spans(opened, "stale") == []


def test_project_is_of_the_size_of_its_video(project):
    folder, _ = project
    video = read_index(folder)["video"]
    assert Project(folder, video).size == (48, 64)
    with pytest.raises(ValueError, match="another video"):
        Project(folder, video | {"height": 50})
