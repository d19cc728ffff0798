"""What the pixels of a mask's picture say, and when nobody can tell."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from siammae.annotations.mask_images import davis_colours
from siammae.annotations.masks import mask_image, read_mask
from siammae.errors import VideoReadError

IDS = np.array([[0, 1, 1], [2, 0, 2]], np.uint8)
BLACK, WHITE, GREEN, RED, BLUE = (0, 0, 0), (255, 255, 255), (0, 128, 0), (128, 0, 0), (1, 2, 200)


def disk(side=64, radius=20):
    y, x = np.ogrid[:side, :side]
    return (y - side // 2) ** 2 + (x - side // 2) ** 2 < radius**2


def with_palette(values, *colours):
    image = Image.fromarray(np.asarray(values, np.uint8))
    image.putpalette([level for colour in colours for level in colour])
    return image


# --- palettes


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        ((BLACK, RED, GREEN), IDS),  # DAVIS's order
        ((BLACK, BLUE, (9, 9, 9)), IDS),  # the file's own
        ((GREEN, RED, BLACK), [[2, 1, 1], [0, 2, 0]]),  # moved by a tool that quantizes
        ((RED, BLACK, (224, 224, 192)), [[1, 0, 0], [255, 1, 255]]),
        ((BLACK, (1, 1, 1), (2, 2, 2)), IDS),  # grey
    ],
)
def test_read_mask_with_a_palette_compares_it_with_davis_and_grey(tmp_path, colours, expected):
    image = with_palette(IDS, *colours)
    image.save(tmp_path / "a.png")
    for source in (image, tmp_path / "a.png"):
        np.testing.assert_array_equal(read_mask(source), expected)
        np.testing.assert_array_equal(read_mask(source, binary=False), IDS)  # values are ids, the caller says


@pytest.mark.parametrize("colours", [(BLACK, WHITE), (WHITE, BLACK)])
def test_read_mask_with_a_palette_of_black_and_white_takes_white_for_the_object(colours):
    values = np.array([[0, 1, 1]])
    expected = [[0, 1, 1]] if colours[1] == WHITE else [[1, 0, 0]]
    np.testing.assert_array_equal(read_mask(with_palette(values, *colours)), expected)
    np.testing.assert_array_equal(read_mask(with_palette(values, *colours), threshold=1), expected)


def test_read_mask_with_a_palette_of_all_greys_reads_grey():
    image = with_palette([[0, 255, 255]], *[(level,) * 3 for level in range(256)])
    np.testing.assert_array_equal(read_mask(image), [[0, 1, 1]])


def test_read_mask_with_a_palette_and_one_object_takes_its_value():
    np.testing.assert_array_equal(read_mask(with_palette([[0, 1, 1]], BLACK, GREEN)), [[0, 1, 1]])


@pytest.mark.parametrize(
    "colours",
    [
        (BLACK, GREEN, RED),  # 1 is green: DAVIS's id 2, or the file's own colour of 1
        (BLUE, BLACK, GREEN),  # the background is not 0
        (BLUE, RED, GREEN),
        (GREEN, RED, BLUE),
        (BLACK, (100, 100, 100), (200, 200, 200)),
        (BLACK, BLACK, BLACK),
    ],
)
def test_read_mask_with_a_palette_that_can_be_read_in_two_ways_is_refused(colours, tmp_path):
    shown = rf"0: \({colours[0][0]}, {colours[0][1]}, {colours[0][2]}\), 1: "
    with pytest.raises(ValueError, match=rf"palette can be read in two ways: it has the colours {shown}.*write_mask"):
        read_mask(with_palette(IDS, *colours))
    with_palette(IDS, *colours).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: the mask's palette can be read in two ways"):
        read_mask(tmp_path / "a.png")


def test_read_mask_with_a_threshold_refuses_colours():
    with pytest.raises(ValueError, match=r"the palette has the colours 0: \(0, 0, 0\), .* a threshold needs greys"):
        read_mask(with_palette(IDS, BLACK, RED, GREEN), threshold=1)


def test_mask_image_is_read_as_the_ids_it_was_made_of():
    for ids in (IDS, IDS * 255, np.eye(64, dtype=np.uint8) * 255, np.arange(256).reshape(16, 16)):
        np.testing.assert_array_equal(read_mask(mask_image(ids)), ids.astype(np.uint8))
    assert mask_image(IDS).getpalette()[:6] == davis_colours()[:2].ravel().tolist()


# --- modes


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "PA"])
def test_read_mask_of_a_black_and_white_picture_finds_the_object(tmp_path, mode):
    image = Image.fromarray(disk().astype(np.uint8) * 255).convert(mode)
    np.testing.assert_array_equal(read_mask(image), disk())
    if mode != "PA":
        image.save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), disk())


def test_read_mask_of_a_cut_out_takes_what_is_transparent_for_background():
    pixels = np.full((2, 3, 4), 255, np.uint8)
    pixels[0] = (90, 20, 3, 0)  # the colour of nothing
    np.testing.assert_array_equal(read_mask(Image.fromarray(pixels)), [[0, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize(("mode", "color"), [("RGB", (255, 0, 0)), ("RGBA", (1, 2, 3, 255))])
def test_read_mask_of_a_picture_with_colours_is_refused(mode, color):
    with pytest.raises(
        ValueError, match=rf"the mask image has mode {mode} and 1 colours: it must be black and white, or"
    ):
        read_mask(Image.new(mode, (3, 2), color))


@pytest.mark.parametrize("mode", ["F", "CMYK"])
def test_read_mask_of_another_mode_is_refused(mode):
    with pytest.raises(ValueError, match=rf"the mask image has mode {mode}: it must be black and white, or a palette"):
        read_mask(Image.new(mode, (3, 2)))


# --- files


@pytest.mark.parametrize("turn", [2, 3, 6, 8])
def test_read_mask_turns_masks_as_frames_are_turned(tmp_path, turn):
    from siammae.frames import read_frames

    values = np.zeros((4, 6), np.uint8)
    values[0, :2], values[3, 5] = 1, 2
    exif = Image.Exif()
    exif[274] = turn
    mask_image(values).save(tmp_path / "mask.png", exif=exif)
    Image.fromarray(values * 100).convert("RGB").save(tmp_path / "frame.png", exif=exif)
    np.testing.assert_array_equal(
        read_mask(tmp_path / "mask.png"), next(read_frames(tmp_path / "frame.png"))[..., 0] // 100
    )


def test_read_mask_of_several_pages_or_too_many_pixels_is_refused(tmp_path, monkeypatch):
    mask_image(IDS).save(tmp_path / "a.tif", save_all=True, append_images=[mask_image(IDS)])
    with pytest.raises(VideoReadError, match=r"a\.tif has 2 pages: it must have one"):
        read_mask(tmp_path / "a.tif")
    mask_image(IDS).save(tmp_path / "a.png")
    monkeypatch.setenv("SIAMMAE_MAX_PIXELS", "5")
    with pytest.raises(VideoReadError, match=r"a\.png has 3 x 2 pixels: at most 5"):
        read_mask(tmp_path / "a.png")


def test_read_mask_of_a_folder_is_refused(tmp_path):
    with pytest.raises(VideoReadError, match="is a pipe, a socket, a device or a folder"):
        read_mask(tmp_path)


# --- soft masks


def soft(how):
    image = Image.fromarray(disk().astype(np.uint8) * 255)
    if how == "blurred":
        return image.filter(ImageFilter.GaussianBlur(6))
    side, rule = how
    return image.resize((side, side), rule)


SOFT = ["blurred", *((side, rule) for side in (32, 45, 128) for rule in (2, 3, 1))]


@pytest.mark.parametrize("how", SOFT)
def test_read_mask_with_soft_edges_is_refused_with_a_way_out(tmp_path, how):
    image = soft(how)
    image.save(tmp_path / "a.png")
    levels = len(np.unique(np.asarray(image)))
    for source in (image, tmp_path / "a.png", np.asarray(image), image.convert("RGB")):
        name = r".*a\.png: " if isinstance(source, Path) else ""
        with pytest.raises(
            ValueError, match=rf"^{name}the mask has soft edges, {levels} grey levels such as .*--threshold 128.*=128"
        ):
            read_mask(source)
        np.testing.assert_array_equal(read_mask(source, threshold=128), np.asarray(image) >= 128)
        np.testing.assert_array_equal(read_mask(source, binary=True), np.asarray(image) > 0)
        np.testing.assert_array_equal(read_mask(source, binary=False), np.asarray(image))


def test_read_mask_with_several_objects_and_soft_edges_is_refused():
    drawn = np.zeros((64, 64), np.uint8)
    drawn[disk()], drawn[:, :20], drawn[50:, 30:] = 255, 170, 85
    with pytest.raises(ValueError, match="soft edges"):
        read_mask(Image.fromarray(drawn).resize((90, 90), Image.Resampling.BICUBIC))


def test_read_mask_of_a_jpeg_with_ids_is_refused_and_of_two_levels_is_read(tmp_path):
    Image.fromarray(disk().astype(np.uint8) * 2).save(tmp_path / "a.jpg", quality=60)
    with pytest.raises(
        ValueError, match=r"a\.jpg: the mask is a JPEG with \d+ grey levels: its compression changes ids"
    ):
        read_mask(tmp_path / "a.jpg")
    Image.fromarray(disk().astype(np.uint8) * 255).save(tmp_path / "b.jpg", quality=75)
    np.testing.assert_array_equal(read_mask(tmp_path / "b.jpg", threshold=128), disk())


def test_read_mask_of_touching_nested_and_thin_objects_is_no_soft_mask():
    nested = disk(64, 28).astype(np.uint8) + disk(64, 20) + disk(64, 10)
    outlined = disk(64, 20).astype(np.uint8) + disk(64, 19)  # 1 is an outline of 2
    many = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((12, 12), int)).astype(np.uint8)
    void = np.where(disk(64, 24) ^ disk(64, 20), 255, disk()).astype(np.uint8)
    for ids in (nested, outlined, many, void, np.random.default_rng(0).permutation(255)[many].astype(np.uint8)):
        np.testing.assert_array_equal(read_mask(ids), ids)


def test_read_mask_with_16_bits_takes_a_threshold():
    wide = disk().astype(np.uint16) * 65535
    for source in (wide, Image.fromarray(wide)):
        np.testing.assert_array_equal(read_mask(source, threshold=1000), disk())
        np.testing.assert_array_equal(read_mask(source, binary=True), disk())


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 9, "binary": True}])
def test_read_mask_with_a_threshold_that_does_not_fit_raises(options):
    with pytest.raises(ValueError, match="threshold must be at least 1, and binary None"):
        read_mask(IDS, **options)
