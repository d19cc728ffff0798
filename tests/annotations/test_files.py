import numpy as np
import pytest

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats import guards
from siammae.annotations.formats.format import Opening
from siammae.annotations.formats.registry import FORMATS
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject
from siammae.cli import main
from siammae.outputs import MARKER, claim_files, hold_folder

LABELS = Annotations(lambda: iter([FrameLabels(0, {1: np.ones((4, 6), bool)})]), size=(4, 6))


def test_read_annotations_refuses_what_is_missing_or_unknown(tmp_path):
    with pytest.raises(FileNotFoundError, match="no labels at"):
        read_annotations(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no labels at"):
        read_annotations(tmp_path / "nothing", format="davis")
    with pytest.raises(ValueError, match="no format 'davos': known are"):
        read_annotations(tmp_path, format="davos")
    with pytest.raises(ValueError, match="looks like no known format of labels"):
        read_annotations(tmp_path)


@pytest.mark.parametrize("format", ["davis", "mots", "youtube-vos"])
def test_write_annotations_replaces_only_what_siammae_wrote_and_only_when_told(tmp_path, format):
    path, other = tmp_path / "out", Annotations(lambda: iter([FrameLabels(3, {2: np.ones((4, 6), bool)})]), size=(4, 6))
    write_annotations(path, LABELS, format=format)
    with pytest.raises(ValueError, match="already: choose another output"):
        write_annotations(path, other, format=format)
    write_annotations(path, other, format=format, overwrite=True)
    assert [frame.index for frame in read_annotations(path, format=format)] == [3]
    assert list(tmp_path.iterdir()) == [path]
    assert path.is_file() or sorted(entry.name for entry in path.iterdir() if entry.name[0] == ".") == [MARKER]


@pytest.mark.parametrize("place", ["mine.png", "Annotations/video/mine.png"])
def test_write_annotations_does_not_replace_a_folder_with_files_of_others(tmp_path, place):
    write_annotations(tmp_path / "out", LABELS, format="youtube-vos")
    (tmp_path / "out" / place).write_text("mine")
    with pytest.raises(ValueError, match=r"mine\.png, which siammae did not write"):
        write_annotations(tmp_path / "out", LABELS, format="youtube-vos", overwrite=True)
    assert (tmp_path / "out" / place).read_text() == "mine"


def test_write_annotations_that_fails_leaves_what_was_there(tmp_path):
    write_annotations(tmp_path / "out", LABELS, format="davis")
    bad = Annotations(lambda: iter([FrameLabels(0, {255: np.ones((4, 6), bool)})]), size=(4, 6))
    with pytest.raises(ValueError, match="a palette PNG holds the ids 1 to 254"):
        write_annotations(tmp_path / "out", bad, format="davis", overwrite=True)
    assert [sorted(frame.masks) for frame in read_annotations(tmp_path / "out")] == [[1]]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("format", ["mots", "yolo"])
def test_write_annotations_refuses_what_another_run_is_writing(tmp_path, format):
    path = tmp_path / "out"
    with claim_files(path) if format == "mots" else hold_folder(path), pytest.raises(BlockingIOError):
        write_annotations(path, LABELS, format=format, overwrite=True)


def test_write_annotations_refuses_a_format_that_holds_nothing_of_the_labels(tmp_path):
    points = FrameLabels(0, keypoints={1: Keypoints.of(np.ones((1, 2)))})
    with pytest.raises(ValueError, match="davis can hold nothing of these labels: keypoints"):
        write_annotations(tmp_path / "d", Annotations(lambda: iter([points]), size=(4, 6)), format="davis")
    assert list(tmp_path.iterdir()) == []


def test_read_annotations_takes_the_frames_that_are_named(tmp_path):
    frames = [FrameLabels(index, {1: np.ones((4, 6), bool)}) for index in (0, 3, 7)]
    write_annotations(tmp_path / "d", Annotations(lambda: iter(frames), size=(4, 6)), format="davis")
    assert [frame.index for frame in read_annotations(tmp_path / "d", frames=[7, 0])] == [0, 7]
    with pytest.raises(ValueError, match=r"frame 1 has no labels: labelled are 0, 3, 7\."):
        list(read_annotations(tmp_path / "d", frames=[0, 1]))


def test_write_annotations_says_that_a_file_is_too_large_to_be_read_again(tmp_path, caplog, monkeypatch):
    write_annotations(tmp_path / "a.json", LABELS, format="coco")
    assert caplog.text == ""
    monkeypatch.setenv("SIAMMAE_MAX_LABEL_BYTES", "100")
    write_annotations(tmp_path / "b.json", LABELS, format="coco")
    size = (tmp_path / "b.json").stat().st_size
    assert f"b.json has 0 MB: it is read again with SIAMMAE_MAX_LABEL_BYTES={size} only (100)" in caplog.text
    with pytest.raises(ValueError, match="at most 100 are read"):
        read_annotations(tmp_path / "b.json", format="coco")
    monkeypatch.setenv("SIAMMAE_MAX_LABEL_BYTES", str(size))
    assert len(list(read_annotations(tmp_path / "b.json"))) == 1


def test_an_object_is_called_by_its_name_else_category_else_id():
    assert [VideoObject(3, "Rex", "dog").label, VideoObject(3, "", "dog").label, VideoObject(3).label] == [
        "Rex",
        "dog",
        "3",
    ]


def test_keypoints_refuse_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"points have the shape \(3,\)"):
        Keypoints.of(np.ones(3))
    with pytest.raises(ValueError, match=r"2 joints, visibility \(3,\)"):
        Keypoints.of(np.ones((2, 2)), np.ones(3, int))


def test_formats_command_lists_each_and_tells_all_of_one(capsys):
    assert main(["formats"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [one.name for one in FORMATS]
    for one in FORMATS:
        assert main(["formats", one.name]) == 0
        shown = capsys.readouterr().out
        assert one.pixels in shown
        assert ("has no place for" in shown) == (one.write is not None)


def test_relabel_command_converts_and_says_what_is_lost(tmp_path, capsys):
    labels = Annotations(LABELS.frames, (VideoObject(1, category="dog"),), size=(4, 6))
    write_annotations(tmp_path / "vos", labels, format="youtube-vos")
    assert main(["relabel", str(tmp_path / "vos"), str(tmp_path / "d"), "--format", "davis"]) == 0
    assert capsys.readouterr().out == f"1 frames as davis in {tmp_path / 'd'}\n"
    assert main(["relabel", str(tmp_path / "d"), str(tmp_path / "d2"), "--format", "davis", "--size", "5x6"]) == 1
    assert "is for frames of (4, 6) but the video has (5, 6)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["relabel", "a", "b", "--format", "davis", "--size", "5"])


@pytest.mark.parametrize(
    "size", [(0, 4), (40_000, 4), (30_000, 30_000), (2.5, 4), ("4", 4), (True, 4), (float("nan"), 1)]
)
def test_guards_refuse_sizes_that_lie(size):
    with pytest.raises(ValueError, match="f has the frame size"):
        guards.check_size(*size, "f")


def test_guards_refuse_files_and_values_that_lie(tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    path.write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        guards.read_json(path)
    monkeypatch.setenv("SIAMMAE_MAX_LABEL_BYTES", "1")
    with pytest.raises(ValueError, match="has 2 bytes: at most 1 are read"):
        guards.read_json(path)
    with pytest.raises(ValueError, match="f: x is 'inf': it must be a finite number"):
        guards.finite(float("inf"), "x", "f")
    with pytest.raises(ValueError, match="f: x is 'None': it must be a finite number"):
        guards.finite(None, "x", "f")
    with pytest.raises(ValueError, match="'id' is of the wrong kind: str"):
        guards.entry({"id": "1"}, "id", "f", int)


def test_opening_needs_a_number_or_a_size():
    with pytest.raises(ValueError, match="'first' has no frame number"):
        Opening().frame_index("first.png", "f")
    with pytest.raises(ValueError, match="f does not say how large its frames are"):
        Opening().need_size("f")
