import json

import numpy as np
import pytest
from PIL import Image

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, VideoObject

from .labels import SIZE, assert_same, given, masks, video


@given(masks())
def test_davis_folder_when_written_and_read_is_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("davis") / "out"
    write_annotations(path, labels, format="davis")
    assert recognise(path).name == "davis"
    assert_same(read_annotations(path), labels)
    with Image.open(next(path.glob("*.png"))) as image:
        assert image.mode == "P"


@given(masks())
def test_davis_folder_is_read_by_the_rule_of_the_evaluator(tmp_path_factory, labels):
    """Source: davischallenge's davis2017-evaluation, results.py: pixel values by Pillow, objects 1 to the largest."""
    path = tmp_path_factory.mktemp("davis") / "seq"
    write_annotations(path, labels, format="davis")
    frames = list(labels)
    assert sorted(file.stem for file in path.glob("*.png")) == [f"{frame.index:05d}" for frame in frames]
    for frame in frames:
        pixels = np.array(Image.open(path / f"{frame.index:05d}.png"))
        assert (pixels.shape, pixels.dtype) == (SIZE, np.uint8)
        for key in range(1, int(pixels.max()) + 1):
            np.testing.assert_array_equal(pixels == key, frame.masks.get(key, np.zeros(SIZE, bool)))


@given(masks())
def test_youtube_vos_when_written_and_read_is_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("vos") / "out"
    named = video(labels, objects=(VideoObject(1, category="dog"), VideoObject(2, category="cat")))
    written = write_annotations(path, named, format="youtube-vos")
    assert written.lost == {}
    assert recognise(path).name == "youtube-vos"
    again = read_annotations(path)
    assert_same(again, labels)
    seen = {key for frame in labels for key in frame.masks}
    assert {one.id: one.category for one in again.objects} == {
        key: {1: "dog", 2: "cat"}.get(key, "") for key in sorted(seen)
    }


def test_davis_keeps_void_and_an_empty_frame(tmp_path):
    void = np.zeros(SIZE, bool)
    void[0] = True
    one = ~void
    write_annotations(tmp_path / "d", video([FrameLabels(0, {3: one}, void=void), FrameLabels(4)]), format="davis")
    first, second = read_annotations(tmp_path / "d")
    np.testing.assert_array_equal(first.void, void)
    np.testing.assert_array_equal(first.masks[3], one)
    assert (second.index, second.masks) == (4, {})


def test_davis_of_2016_is_one_object(tmp_path):
    Image.fromarray(np.uint8([[0, 255], [255, 0]])).save(tmp_path / "00000.png")
    (frame,) = read_annotations(tmp_path)
    np.testing.assert_array_equal(frame.masks[1], [[False, True], [True, False]])


def test_davis_finds_a_sequence_in_the_official_tree(tmp_path):
    folder = tmp_path / "Annotations" / "480p" / "bear"
    folder.mkdir(parents=True)
    Image.fromarray(np.uint8([[0, 1]])).save(folder / "00003.png")
    (frame,) = read_annotations(tmp_path, sequence="bear")
    assert frame.index == 3
    with pytest.raises(ValueError, match="has no sequence 'cow'"):
        read_annotations(tmp_path, sequence="cow")
    with pytest.raises(ValueError, match="is not the name of something in"):
        read_annotations(tmp_path, sequence="../480p")
    with pytest.raises(ValueError, match="has no PNG of masks"):
        read_annotations(tmp_path)


def test_davis_says_what_it_cannot_hold(tmp_path, caplog):
    both = np.ones(SIZE, bool)
    labels = video(
        [FrameLabels(0, {1: both, 2: both}, confidence={1: 0.5}, by_person=True)],
        objects=(VideoObject(1, "Rex", "dog", (1, 2, 3)),),
    )
    written = write_annotations(tmp_path / "d", labels, format="davis")
    assert {str(feature) for feature in written.lost} == {
        "overlap of masks",
        "confidence of masks",
        "which frames a person made",
        "names of objects",
        "categories",
        "colours",
    }
    assert "davis has no place for overlap of masks; left out (1 times)" in caplog.text
    (frame,) = read_annotations(tmp_path / "d")
    assert list(frame.masks) == [1]


def test_davis_refuses_ids_beyond_the_palette_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="object 255: a palette PNG holds the ids 1 to 254"):
        write_annotations(tmp_path / "d", video([FrameLabels(0, {255: np.ones(SIZE, bool)})]), format="davis")
    assert list(tmp_path.iterdir()) == []


def test_davis_refuses_frames_without_size_twice_or_of_another_size(tmp_path):
    with pytest.raises(ValueError, match="frame 0 is empty and no one says how large it is"):
        write_annotations(tmp_path / "d", video([FrameLabels(0)], size=None), format="davis")
    for name, shape in (("1.png", (2, 2)), ("02.png", (3, 2))):
        Image.fromarray(np.ones(shape, np.uint8)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"1\.png is for frames of \(2, 2\) but the video has \(3, 2\)"):
        list(read_annotations(tmp_path))
    Image.fromarray(np.ones((3, 2), np.uint8)).save(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"02\.png and 2\.png are both of frame 2"):
        read_annotations(tmp_path)


def test_davis_numbers_frames_as_the_folder_of_images_does(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "masks").mkdir()
    for name in ("a5", "a10", "a15"):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "frames" / f"{name}.png")
    Image.fromarray(np.ones((2, 2), np.uint8)).save(tmp_path / "masks" / "a10.png")
    labels = read_annotations(tmp_path / "masks", video=tmp_path / "frames")
    assert [frame.index for frame in labels] == [1]
    assert labels.frame_count == 3
    Image.fromarray(np.ones((2, 2), np.uint8)).save(tmp_path / "masks" / "a7.png")
    with pytest.raises(ValueError, match="labels 'a7', which is no image of the video"):
        read_annotations(tmp_path / "masks", video=tmp_path / "frames")
    with pytest.raises(ValueError, match=r"size is \(3, 3\) but the video has \(2, 2\)"):
        read_annotations(tmp_path / "masks", video=tmp_path / "frames", size=(3, 3))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("[", "is no JSON"),
        ("[]", "has no 'videos'"),
        ('{"videos": 3}', "'videos' is of the wrong kind: int"),
        ('{"videos": {}}', r"has 0 videos, such as \. Name a sequence"),
        ('{"videos": {"../..": {"objects": {}}}}', "is not the name of something in"),
        ('{"videos": {"v": {"objects": {"x": {}}}}}', "an object's id is 'x': it must be a whole number from 1 to 254"),
        ("[" * 200_000, "is nested too deeply to be labels"),
    ],
)
def test_youtube_vos_refuses_a_meta_json_that_lies(tmp_path, meta, message):
    (tmp_path / "Annotations" / "v").mkdir(parents=True)
    Image.fromarray(np.ones((2, 2), np.uint8)).save(tmp_path / "Annotations" / "v" / "0.png")
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path)


def test_youtube_vos_refuses_an_unknown_video(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": {}}}}))
    with pytest.raises(ValueError, match="has no video 'w': it has v"):
        read_annotations(tmp_path, sequence="w")
