import numpy as np
import pytest
from PIL import Image

from siammae.annotations.files import read_annotations, write_annotations

STACK = np.uint16([[[0, 1, 255], [300, 300, 65535]], [[0, 0, 0], [0, 0, 7]]])


def assert_is_the_stack(labels, stack=STACK):
    assert (labels.size, labels.frame_count) == (stack.shape[1:], len(stack))
    for frame, ids in zip(labels, stack, strict=True):
        assert sorted(frame.masks) == sorted(set(ids.ravel().tolist()) - {0})
        for key, mask in frame.masks.items():
            np.testing.assert_array_equal(mask, ids == key)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint8, np.bool_])
def test_npy_stack_is_read(tmp_path, dtype):
    np.save(tmp_path / "f.npy", STACK.astype(dtype))
    assert_is_the_stack(read_annotations(tmp_path / "f.npy"), STACK.astype(dtype).astype(np.int64))
    np.save(tmp_path / "g.npy", STACK[0].astype(dtype))
    assert_is_the_stack(read_annotations(tmp_path / "g.npy"), STACK[:1].astype(dtype).astype(np.int64))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint8])
def test_tiff_stack_is_read(tmp_path, dtype):
    pages = [Image.fromarray(page.astype(dtype)) for page in STACK]
    pages[0].save(tmp_path / "f.tif", save_all=True, append_images=pages[1:])
    assert_is_the_stack(read_annotations(tmp_path / "f.tif"), STACK.astype(dtype).astype(np.int64))


def test_stacks_refuse_what_holds_no_ids(tmp_path):
    np.save(tmp_path / "float.npy", np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match=r"has \(2, 2, 2\) float64: it must be integers"):
        read_annotations(tmp_path / "float.npy")
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="is no NPY of numbers"):
        read_annotations(tmp_path / "object.npy")
    np.save(tmp_path / "low.npy", np.full((1, 2, 2), -1))
    with pytest.raises(ValueError, match="ids go down to -1"):
        list(read_annotations(tmp_path / "low.npy"))
    whole = (tmp_path / "low.npy").read_bytes()
    (tmp_path / "lie.npy").write_bytes(whole.replace(b"(1, 2, 2)", b"(9, 9, 9)"))
    with pytest.raises(ValueError, match="is no NPY of numbers"):
        read_annotations(tmp_path / "lie.npy")
    Image.fromarray(np.ones((2, 2, 3), np.uint8)).save(tmp_path / "rgb.tif")
    with pytest.raises(ValueError, match="has pages of the mode RGB"):
        read_annotations(tmp_path / "rgb.tif")
    (tmp_path / "no.tif").write_bytes(b"II*\0")
    with pytest.raises(ValueError, match="is no TIFF"):
        read_annotations(tmp_path / "no.tif")
    Image.fromarray(np.ones((64, 64), np.uint8)).save(tmp_path / "cut.tif")
    cut = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(cut[:2000])
    with pytest.raises(ValueError, match=r"does not decode|is no TIFF"):
        list(read_annotations(tmp_path / "cut.tif"))


def test_stacks_are_not_written(tmp_path):
    np.save(tmp_path / "f.npy", STACK)
    with pytest.raises(ValueError, match="npy is read but not written"):
        write_annotations(tmp_path / "g.npy", read_annotations(tmp_path / "f.npy"), format="npy")
