import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from siammae.errors import VideoReadError
from siammae.frames import count_frames, frame_rate, read_frames, resize_frame, to_rgb, write_image


def greys(count, size=(48, 64)):
    return [np.full((*size, 3), index, np.uint8) for index in range(count)]


def numbers(frames):
    return [int(frame[0, 0, 0]) for frame in frames]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_import_leaves_opencv_alone():
    code = "import sys, siammae.frames; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- folders and image files


def test_read_frames_when_folder_is_given_reads_images_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        write_image(tmp_path / f"img{number}.png", greys(11)[number])
    (tmp_path / ".img0.png").write_bytes(b"hidden")
    (tmp_path / "notes.txt").write_text("no image")
    assert numbers(read_frames(tmp_path)) == [1, 2, 10]
    assert numbers(read_frames(tmp_path, start=1, step=5)) == [2]
    assert (count_frames(tmp_path), frame_rate(tmp_path)) == (3, None)
    assert count_frames(tmp_path / "img1.png") == 1


def test_read_frames_when_folder_has_no_images_raises(tmp_path):
    with pytest.raises(VideoReadError, match=r"no images in .*a folder must hold \.bmp"):
        read_frames(tmp_path)


def test_read_frames_when_an_image_is_broken_names_its_index(tmp_path):
    write_image(tmp_path / "0.png", noise(9, 9, 3))
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:100])
    frames = read_frames(tmp_path)
    next(frames)
    with pytest.raises(VideoReadError, match=r"1\.png cannot be read as an image") as caught:
        next(frames)
    assert caught.value.frame_index == 1


def test_read_frames_when_jpeg_is_rotated_by_exif_gives_it_upright(tmp_path):
    image = Image.fromarray(noise(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert next(read_frames(tmp_path / "a.jpg")).shape == (6, 4, 3)


# --- arrays, tensors, lists, iterators


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (3, 3)])
def test_read_frames_when_arrays_are_given_reads_their_own_layout(size):
    video = noise(4, *size, 3)
    tensor = torch.from_numpy(video).permute(0, 3, 1, 2)
    for source in (video, tensor, tensor.double() / 255, list(video), iter(tensor), map(Image.fromarray, video)):
        np.testing.assert_array_equal(list(read_frames(source)), video)
    assert count_frames(video) == count_frames(tensor) == count_frames(list(video)) == 4
    assert count_frames(iter(video)) is None
    assert frame_rate(video) is None


def test_read_frames_when_iterator_is_given_pulls_no_frame_too_many():
    pulled = []
    frames = read_frames((pulled.append(frame) or frame for frame in greys(60)), start=2, stop=9, step=4)
    assert not pulled
    assert numbers([next(frames)]) == [2]
    assert len(pulled) == 3
    assert numbers(frames) == [6]
    assert len(pulled) == 7


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4, 4, 3), np.uint8), torch.zeros(0, 3, 4, 4)])
def test_read_frames_when_there_are_no_frames_raises_at_the_call(empty):
    with pytest.raises(ValueError, match=r"the video has 0 frames|It is empty"):
        read_frames(empty)


def test_read_frames_when_iterator_is_empty_raises():
    with pytest.raises(ValueError, match="no frame 0 to start at: the video ended before it"):
        list(read_frames(iter([])))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"start": -1}, "start is -1: it must be at least 0"),
        ({"start": 5, "stop": 4}, "stop is 4: it must be at least 5"),
        ({"step": 0}, "step is 0: it must be at least 1"),
        ({"start": 60}, "no frame 60 to start at: the video has 60 frames"),
    ],
)
def test_read_frames_when_options_are_wrong_raises_at_the_call(option, message):
    with pytest.raises(ValueError, match=message):
        read_frames(greys(60), **option)


def test_read_frames_when_frame_size_changes_names_the_frame():
    frames = read_frames([*greys(2), *greys(1, (7, 5))])
    assert len(list(itertools.islice(frames, 2))) == 2
    with pytest.raises(ValueError, match=r"frame 2 is \(7, 5\) but the first was \(48, 64\)"):
        next(frames)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((8, 3, 4, 5), np.uint8), r"frames must be \(T, H, W, 3\) uint8 RGB, got \(8, 3, 4, 5\).*from_numpy"),
        (np.zeros((8, 4, 5, 4), np.uint8), "Drop or repeat channels"),
        (np.zeros((4, 5, 3), np.uint8), "wrap a single frame in a list"),
        (np.zeros((8, 4, 5, 3), np.float32), "float32. Scale it to 0 to 255 and convert it to uint8"),
        (np.zeros((8, 0, 5, 3), np.uint8), "It is empty"),
        (torch.zeros(8, 4, 5, 3), r"frames must be \(T, 3, H, W\) uint8 or float RGB.*tensor.numpy\(\)"),
        (torch.zeros(8, 3, 4, 5, dtype=torch.int64), "int64. Scale it"),
        (torch.full((2, 3, 4, 5), 1.5), r"frames has values in \[1.5, 1.5\]: floats must lie in \[0, 1\]"),
        (torch.full((2, 3, 4, 5), torch.nan), r"floats must lie in \[0, 1\]"),
    ],
)
def test_read_frames_when_layout_or_dtype_is_wrong_raises_at_the_call(video, message):
    with pytest.raises(ValueError, match=message):
        read_frames(video)


def test_read_frames_when_source_is_none_of_the_known_raises():
    for video in (7, Image.new("RGB", (4, 4))):
        with pytest.raises(TypeError, match=r"video is a (int|Image): it must be a path"):
            read_frames(video)
    with pytest.raises(TypeError, match="frame 0 is a str: it must be a NumPy array"):
        list(read_frames(["a.png"]))


@pytest.mark.parametrize("container", [list, tuple, iter, np.stack])
def test_read_frames_with_start_stop_step_picks_like_a_slice(container):
    assert numbers(read_frames(container(greys(60)), start=3, stop=50, step=9)) == list(range(3, 50, 9))


# --- one frame


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_to_rgb_when_pil_mode_differs_converts(mode):
    frame = to_rgb(Image.fromarray(noise(6, 5, 3)).convert(mode))
    assert frame.shape == (6, 5, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    assert frame.flags.writeable


def test_to_rgb_when_palette_has_transparency_drops_it():
    image = Image.fromarray(noise(6, 5, 3)).convert("P")
    image.info["transparency"] = bytes(range(256))
    assert to_rgb(image).shape == (6, 5, 3)


def test_to_rgb_when_png_has_16_bits_scales_to_8(tmp_path):
    Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    frame = next(read_frames(tmp_path / "a.png"))
    np.testing.assert_array_equal(frame, np.repeat([[[0], [1], [128], [255]]], 3, axis=-1))


def test_to_rgb_when_range_is_unknown_raises():
    with pytest.raises(ValueError, match="frame 4 is a PIL image of mode F"):
        to_rgb(Image.fromarray(np.zeros((2, 2), np.float32)), index=4)
    with pytest.raises(ValueError, match=r"values in \[-1, 70000\]: 16 bits hold 0 to 65535"):
        to_rgb(Image.fromarray(np.array([[-1, 70000]], np.int32)))


def test_to_rgb_when_tensor_is_half_precision_or_needs_grad_keeps_all_levels():
    levels = torch.arange(256, dtype=torch.float32).reshape(1, 16, 16).repeat(3, 1, 1)
    frame = to_rgb((levels / 255).half().requires_grad_())
    np.testing.assert_array_equal(frame[..., 0], levels[0].numpy())


def test_resize_frame_bilinear_is_opencv_default():
    frame = noise(48, 64, 3)
    got = resize_frame(frame, (20, 90), interpolation="bilinear")
    np.testing.assert_array_equal(got, cv2.resize(frame, (90, 20)))
    assert resize_frame(frame, (48, 64), interpolation="area") is frame


def test_resize_frame_area_averages_where_it_shrinks():
    frame = noise(48, 64, 3)
    got = resize_frame(frame, (24, 128), interpolation="area")
    halved = cv2.resize(frame, (64, 24), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(got, cv2.resize(halved, (128, 24)))
    np.testing.assert_array_equal(resize_frame(frame, (24, 64), interpolation="area"), halved)


def test_resize_frame_bicubic_widens_the_cubic_kernel_where_it_shrinks():
    stripes = np.zeros((6, 64, 3), np.uint8)
    stripes[:, 1::2] = 200  # a plain cubic would see single stripes, or ripples of them
    assert np.abs(resize_frame(stripes, (6, 16), interpolation="bicubic")[:, 2:-2].astype(int) - 100).max() <= 1
    frame = noise(9, 12, 3)
    got = resize_frame(frame, (18, 12), interpolation="bicubic")  # the new row 8 lies a quarter above the old row 4
    inner = [1.5 * d**3 - 2.5 * d**2 + 1 for d in (0.25, 0.75)]
    outer = [-0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 for d in (1.25, 1.75)]
    rows = frame.astype(float)
    expected = outer[1] * rows[2] + inner[1] * rows[3] + inner[0] * rows[4] + outer[0] * rows[5]
    np.testing.assert_allclose(got[8], expected.clip(0, 255), atol=1)
    assert resize_frame(frame, (9, 12), interpolation="bicubic") is frame


def test_resize_frame_when_arguments_are_wrong_raises():
    with pytest.raises(ValueError, match=r"size is \(0, 5\): it must be"):
        resize_frame(noise(4, 4, 3), (0, 5), interpolation="area")
    with pytest.raises(ValueError, match="interpolation is 'cubic': it must be 'area', 'bilinear' or 'bicubic'"):
        resize_frame(noise(4, 4, 3), (5, 5), interpolation="cubic")
    with pytest.raises(ValueError, match=r"frame must be \(H, W, 3\)"):
        resize_frame(noise(4, 4), (5, 5), interpolation="area")
