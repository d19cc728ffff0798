"""Image files and folders of them: pages, which files are frames, bounds."""

import logging
import os
import re

import numpy as np
import pytest
from PIL import Image

from siammae.errors import VideoReadError
from siammae.frames import VideoWriter, count_frames, frame_rate, open_reader, read_frames
from siammae.frames.rgb import check_area


def pages(count, size=(12, 16)):
    """Frames of one grey each, no two alike; GIF and lossless WebP keep them."""
    return [np.full((*size, 3), 40 + 50 * index, np.uint8) for index in range(count)]


def save_pages(path, frames, **options):
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, **options)
    return path


def write_all(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(pages(1)[0]).save(folder / name, format="PNG" if name.endswith("png") else "JPEG")


# --- pages


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tif", {}),
        ("a.webp", {"lossless": True, "duration": 50}),
        ("a.png", {"duration": 50}),
        ("a.png", {"duration": 50, "default_image": True}),
        ("a.gif", {"duration": 50}),
    ],
)
def test_read_frames_of_an_image_with_pages_gives_them_all(tmp_path, name, options):
    frames = pages(4)
    shown = [pages(5)[-1], *frames] if options.get("default_image") else frames  # the still picture is no frame
    path = save_pages(tmp_path / name, shown, **options)
    np.testing.assert_array_equal(np.stack(list(read_frames(path))), frames)
    np.testing.assert_array_equal(np.stack(list(read_frames(path, start=1, step=2))), frames[1::2])
    assert count_frames(path) == 4
    assert frame_rate(path) == (None if name == "a.tif" else 20)
    reader = open_reader(path)
    assert (reader.frame_count, reader.frame_rate) == (4, 0 if name == "a.tif" else 20)
    for _ in range(2):
        numbers, read = zip(*reader.frames([0, 3]), strict=True)
        assert numbers == (0, 3)
        np.testing.assert_array_equal(np.stack(read), [frames[0], frames[3]])


def test_read_frames_of_a_tiff_leaves_out_reduced_copies_and_masks(tmp_path):
    images = [Image.fromarray(frame) for frame in (*pages(2), *pages(1, (6, 8)))]
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:], tiffinfo={254: 0})
    data = bytearray((tmp_path / "a.tif").read_bytes())
    tags = list(re.finditer(rb"\xfe\x00[\x03\x04]\x00\x01\x00\x00\x00\x00", data))  # tag 254, one number, 0
    assert len(tags) == 3
    data[tags[2].end() - 1] = 1  # a reduced copy
    (tmp_path / "a.tif").write_bytes(data)
    assert len(list(read_frames(tmp_path / "a.tif"))) == count_frames(tmp_path / "a.tif") == 2


def test_read_frames_of_a_folder_reads_all_pages_of_all_files(tmp_path):
    frames = pages(4)
    save_pages(tmp_path / "1.tif", frames[:1])
    save_pages(tmp_path / "2.tiff", frames[1:])
    np.testing.assert_array_equal(np.stack(list(read_frames(tmp_path))), frames)
    assert count_frames(tmp_path) == 4


def test_read_frames_of_an_animation_that_is_cut_off_raises(tmp_path):
    path = save_pages(
        tmp_path / "a.gif", [np.random.default_rng(n).integers(0, 255, (40, 40, 3), np.uint8) for n in (0, 1, 2)]
    )
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(VideoReadError, match=r"a\.gif cannot be read as an image"):
        list(read_frames(path))


# --- folders


def test_read_frames_leaves_out_what_is_an_input_elsewhere(tmp_path):
    write_all(tmp_path, "0.jpg", "1.jpg", "0.png")
    assert len(list(read_frames(tmp_path, leave_out=[tmp_path / "0.png"]))) == 2
    assert count_frames(tmp_path, leave_out=[str(tmp_path / ".." / tmp_path.name / "0.png")]) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("0.jpg", "1.jpg", "0.png"),
            r"holds 2 \.jpg and 1 \.png files: the frames of one video must be of one format",
        ),
        (("0.jpg", "1.heic"), r"holds 1 \.heic and 1 \.jpg files"),
        (("0.jpg", "0.jpeg"), r"holds 0\.jpe?g and 0\.jpe?g, two files for one frame"),
        (("0.heic", "1.heic"), r"no images in .* It holds 2 \.heic: convert them"),
    ],
)
def test_read_frames_of_a_folder_with_pictures_of_two_videos_is_refused(tmp_path, names, message):
    write_all(tmp_path, *names)
    for read in (read_frames, count_frames):
        with pytest.raises(VideoReadError, match=message):
            read(tmp_path)


def test_read_frames_of_a_folder_reads_jfif_and_names_what_it_does_not_read(tmp_path, caplog):
    write_all(tmp_path, "0.jpg", "1.jfif", "2.JPEG")
    (tmp_path / "3.jpg").mkdir()
    with caplog.at_level(logging.WARNING):
        assert len(list(read_frames(tmp_path))) == 3
    assert not caplog.records
    for name in ("notes.txt", "more.txt", "README", ".hidden"):
        (tmp_path / name).touch()
    assert len(list(read_frames(tmp_path))) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 3 .jpg files are the frames, 2 .txt and 1 README not read"
    ]


def test_read_frames_of_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(VideoReadError, match=r"a\.png is a pipe, a socket, a device"):
        read_frames(tmp_path / "a.png")


def test_read_frames_of_names_that_are_not_utf_8_reads_them(tmp_path):
    for index in range(2):
        Image.fromarray(pages(1)[0]).save(tmp_path / "a.png")
        (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"\xff%d.png" % index))
    assert len(list(read_frames(tmp_path))) == 2


# --- bounds


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp", "a.tif", "a.jpg"])
def test_read_frames_of_a_picture_above_the_bound_is_refused_before_it_is_decoded(tmp_path, monkeypatch, name):
    Image.new("L", (130, 100)).save(tmp_path / name)
    monkeypatch.setenv("SIAMMAE_MAX_PIXELS", "12999")
    monkeypatch.setattr("siammae.frames.images.to_rgb", lambda *_, **__: pytest.fail("decoded"))
    for read in (lambda: next(read_frames(tmp_path / name)), lambda: next(open_reader(tmp_path / name).frames([0]))):
        with pytest.raises(VideoReadError, match=r"has 130 x 100 pixels: at most 12,999 are read.*SIAMMAE_MAX_PIXELS"):
            read()


def test_read_frames_of_a_picture_above_the_bound_of_pillow_is_refused(tmp_path, monkeypatch):
    Image.new("L", (130, 100)).save(tmp_path / "a.gif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    with pytest.raises(VideoReadError, match=r"a\.gif has too many pixels for Pillow"):
        next(read_frames(tmp_path / "a.gif"))


def test_check_area_allows_64_megapixels_unless_the_variable_says_otherwise(monkeypatch):
    check_area((8192, 8192), "a")
    with pytest.raises(VideoReadError, match=r"a has 13300 x 13300 pixels: at most 67,108,864"):
        check_area((13300, 13300), "a")
    monkeypatch.setenv("SIAMMAE_MAX_PIXELS", "200000000")
    check_area((13300, 13300), "a")
    monkeypatch.setenv("SIAMMAE_MAX_PIXELS", "1e9")
    with pytest.raises(ValueError, match="SIAMMAE_MAX_PIXELS is '1e9': it must be a whole number"):
        check_area((1, 1), "a")


def test_read_frames_of_a_video_above_the_bound_is_refused(tmp_path, monkeypatch):
    with VideoWriter(path := tmp_path / "a.mp4") as video:
        video.write(pages(1, (48, 64))[0])
    monkeypatch.setenv("SIAMMAE_MAX_PIXELS", "3071")
    with pytest.raises(VideoReadError, match="has 64 x 48 pixels"):
        read_frames(path)


# --- depth


@pytest.mark.parametrize(("name", "mode"), [("a.png", "L"), ("a.tif", "L"), ("a.png", "RGB"), ("a.tif", "RGB")])
def test_read_frames_of_12_bits_in_16_is_refused_and_16_bits_are_read(tmp_path, name, mode):
    import cv2

    dark = np.linspace(0, 4095, 12 * 16).astype(np.uint16).reshape(12, 16)
    for values, shown in ((dark, False), (dark * 16, True), (dark * 0, True)):
        cv2.imwrite(str(tmp_path / name), values if mode == "L" else np.repeat(values[..., None], 3, axis=2))
        if shown:
            np.testing.assert_allclose(next(read_frames(tmp_path / name))[..., 0], values / 257, atol=1)
        else:
            with pytest.raises(VideoReadError, match=r"frame 0 has 16 bits but no value above (4095|3840), as 12-bit"):
                next(read_frames(tmp_path / name))
