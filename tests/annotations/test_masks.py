import numpy as np
import pytest
import torch
from PIL import Image

from siammae.annotations.mask_images import davis_colours
from siammae.annotations.masks import check_frame_size, mask_ids, mask_name, read_mask, stack_masks, write_mask
from siammae.errors import VideoReadError

IDS = np.array([[0, 1, 1], [7, 254, 255]], np.uint8)
OBJECT = np.array([[0, 255, 255], [0, 0, 255]], np.uint8)  # as DAVIS-2016 draws its one object


def palette_image(values):
    image = Image.fromarray(values)
    image.putpalette(davis_colours().tobytes())
    return image


def layers(*rows):
    """One 1-pixel-high layer a string: ``"X."`` is True, False."""
    return np.array([[[pixel == "X" for pixel in row]] for row in rows])


# --- reading


def test_read_mask_keeps_ids_and_void_from_every_container(tmp_path):
    palette_image(IDS).save(tmp_path / "palette.png")
    Image.fromarray(IDS).save(tmp_path / "grey.png")
    Image.fromarray(IDS.astype(np.uint16)).save(tmp_path / "wide.png")
    files = [str(tmp_path / "palette.png"), tmp_path / "grey.png", tmp_path / "wide.png"]
    arrays = [IDS, IDS.astype(np.int64), torch.from_numpy(IDS), torch.from_numpy(IDS).long(), palette_image(IDS)]
    for source in [*files, *arrays]:
        mask = read_mask(source)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, IDS)


def test_read_mask_returns_a_copy():
    mask = read_mask(IDS)
    mask[:] = 9
    assert IDS[0, 0] == 0


def test_read_mask_when_grey_holds_only_0_and_255_takes_255_for_the_object(tmp_path):
    Image.fromarray(OBJECT).save(tmp_path / "davis2016.png")
    for source in (tmp_path / "davis2016.png", OBJECT, torch.from_numpy(OBJECT).int()):
        np.testing.assert_array_equal(read_mask(source), OBJECT // 255)


def test_read_mask_when_palette_holds_255_takes_it_for_void():
    np.testing.assert_array_equal(read_mask(palette_image(OBJECT)), OBJECT)


def test_read_mask_when_binary_is_given_follows_it():
    np.testing.assert_array_equal(read_mask(OBJECT, binary=False), OBJECT)
    np.testing.assert_array_equal(read_mask(palette_image(OBJECT), binary=True), OBJECT // 255)
    np.testing.assert_array_equal(read_mask(IDS, binary=True), IDS > 0)


def test_read_mask_when_mask_is_boolean_gives_id_1(tmp_path):
    Image.fromarray(OBJECT > 0).save(tmp_path / "bit.png")
    with Image.open(tmp_path / "bit.png") as image:
        assert image.mode == "1"
    for source in (tmp_path / "bit.png", OBJECT > 0, torch.from_numpy(OBJECT > 0)):
        for binary in (None, True, False):
            np.testing.assert_array_equal(read_mask(source, binary=binary), OBJECT // 255)


def test_read_mask_when_mask_is_empty_gives_background():
    for source in (np.zeros((2, 3), int), np.zeros((2, 3), bool), np.zeros((0, 2, 3), bool)):
        np.testing.assert_array_equal(read_mask(source), np.zeros((2, 3)))


def test_read_mask_when_stack_is_given_numbers_the_layers():
    stack = layers("X...", "..X.", "...X")
    assert read_mask(stack).tolist() == [[1, 0, 2, 3]]
    assert read_mask(torch.from_numpy(stack), object_ids=(9, 254, 3)).tolist() == [[9, 0, 254, 3]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-1, 2, 300]]), r"the mask has the values \[-1, 300\]: ids must be 0 to 254, void 255"),
        (np.zeros((2, 3), np.float32), r"got \(2, 3\) float32. Round floats"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), r"got \(2, 3\) torch.bfloat16. Round floats"),
        (np.zeros((1, 2, 3), np.uint8), r"got \(1, 2, 3\) uint8. Take one channel"),
        (np.zeros((0, 3), np.uint8), r"got \(0, 3\) uint8. Take one channel"),
    ],
)
def test_read_mask_when_array_is_no_id_map_raises(values, message):
    with pytest.raises(ValueError, match=message):
        read_mask(values)


def test_read_mask_when_source_is_none_of_the_known_raises():
    with pytest.raises(TypeError, match="or a PNG path or PIL image, got list"):
        read_mask([[0, 1]])


def test_read_mask_when_file_is_missing_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no mask at .*gone\.png"):
        read_mask(tmp_path / "gone.png")


@pytest.mark.parametrize("kept", [0, 20, 60])
def test_read_mask_when_file_is_broken_raises(tmp_path, kept):
    path = tmp_path / "00000.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (40, 40), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(VideoReadError, match=r"00000\.png cannot be read as a mask"):
        read_mask(path)


def test_read_mask_when_object_ids_come_without_a_stack_raises():
    with pytest.raises(ValueError, match=r"object_ids \[1\] need a boolean stack \(O, H, W\), got \(2, 3\) uint8"):
        read_mask(IDS, object_ids=[1])


# --- stacks, ids, sizes


@pytest.mark.parametrize(
    ("stack", "ids", "message"),
    [
        (layers("XX..", "..X.", ".XXX"), (5, 6, 7), "objects 5 and 7 overlap on 1 pixels"),
        (layers("X...", ".XX.", ".XX."), None, "objects 2 and 3 overlap on 2 pixels"),
        (np.zeros((255, 1, 1), bool), None, "the stack has 255 objects: an id map holds at most 254"),
        (layers("X.", ".X"), (1,), "1 object_ids for 2 masks"),
        (layers("X.", ".X"), (4, 4), r"object_ids repeat \[4\]: they must be distinct"),
        (layers("X.", ".X"), (0, 255), r"object_ids hold \[0, 255\]: they must be 1 to 254"),
        (IDS, None, r"a stack of masks must be \(O, H, W\) bool, got \(2, 3\) uint8"),
    ],
)
def test_stack_masks_when_layers_or_ids_do_not_fit_raises(stack, ids, message):
    with pytest.raises(ValueError, match=message):
        stack_masks(stack, ids)


def test_stack_masks_when_254_objects_are_given_keeps_them_all():
    stack = np.eye(254, dtype=bool)[:, None]  # (254, 1, 254)
    assert stack_masks(stack).tolist() == [list(range(1, 255))]


def test_mask_ids_leaves_out_background_and_void():
    assert mask_ids(IDS) == (1, 7, 254)
    assert mask_ids(np.zeros((2, 2), np.uint8)) == ()


def test_check_frame_size_when_sizes_differ_names_both():
    check_frame_size(IDS, (2, 3))
    message = r"^first_mask is \(2, 3\) but the video is \(3, 2\)\. Resize it with nearest neighbour; masks are never"
    with pytest.raises(ValueError, match=message):
        check_frame_size(IDS, (3, 2))
    with pytest.raises(ValueError, match=r"mask is \(2, 3\)"):
        check_frame_size(IDS, (3, 2), name="mask")


# --- writing


def test_davis_colours_start_with_the_colours_of_pascal_voc():
    colours = davis_colours()
    assert colours[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert colours[[8, 20, 255]].tolist() == [[64, 0, 0], [0, 64, 128], [224, 224, 192]]
    assert len(np.unique(colours, axis=0)) == 256


@pytest.mark.parametrize("mask", [IDS, IDS.astype(np.int64), torch.from_numpy(IDS), OBJECT, IDS > 1, np.uint8([[3]])])
def test_write_mask_when_read_back_gives_the_same_ids(tmp_path, mask):
    path = tmp_path / "00000.png"
    path.write_bytes(b"old")
    write_mask(path, mask)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert bytes(image.getpalette()) == davis_colours().tobytes()
    np.testing.assert_array_equal(read_mask(path), np.asarray(mask))
    assert list(tmp_path.iterdir()) == [path]


def test_write_mask_when_it_cannot_write_raises(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write a mask to a\.jpg: the name must end in \.png"):
        write_mask(tmp_path / "a.jpg", IDS)
    with pytest.raises(FileNotFoundError, match=r"no folder .*create it first"):
        write_mask(tmp_path / "b" / "a.png", IDS)
    with pytest.raises(ValueError, match=r"the mask has the values \[256\]"):
        write_mask(tmp_path / "a.png", IDS.astype(int) + 1)
    with pytest.raises(TypeError, match="got str"):
        write_mask(tmp_path / "a.png", "mask")
    (tmp_path / "c.png").mkdir()
    with pytest.raises(OSError, match=r"c\.png"):
        write_mask(tmp_path / "c.png", IDS)
    assert [file.name for file in tmp_path.iterdir()] == ["c.png"]


@pytest.mark.shared_data
def test_write_mask_when_davis_annotation_is_written_again_keeps_the_object(shared_data, tmp_path):
    annotations = sorted((shared_data / "data" / "DAVIS" / "Annotations").rglob("*.png"))[::25]
    assert annotations
    for annotation in annotations:
        write_mask(tmp_path / "again.png", read_mask(annotation))
        with Image.open(annotation) as before, Image.open(tmp_path / "again.png") as after:
            np.testing.assert_array_equal(np.asarray(after), np.asarray(before) > 0)


def test_mask_name_sorts_in_the_order_of_frames():
    assert [mask_name(7), mask_name(7, 100_000), mask_name(99_999, 100_001)] == ["00007.png", "00007.png", "099999.png"]
    names = [mask_name(index, 100_001) for index in (0, 9, 99_999, 100_000)]
    assert sorted(names) == names
