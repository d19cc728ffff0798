"""GIFs that are whole or not there."""

import numpy as np
import pytest
from PIL import Image

from siammae.frames import write_animation


def frames(count=3, size=(20, 30)):
    return [np.full((*size, 3), (80 * index, 10, 200), np.uint8) for index in range(count)]


def test_write_animation_when_read_back_has_frames_colours_and_times(tmp_path):
    write_animation(tmp_path / "a.gif", frames(), fps=4)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size, image.info["duration"], image.info["loop"]) == (3, (30, 20), 250, 0)
        for index, frame in enumerate(frames()):
            image.seek(index)
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frame).max() <= 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_write_animation_when_there_is_one_frame_is_a_picture(tmp_path):
    write_animation(tmp_path / "a.gif", iter(frames(1)))
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 1


@pytest.mark.parametrize(
    ("name", "given", "fps", "error", "message"),
    [
        ("a.png", frames(), 2, ValueError, r"cannot write a\.png: the name must end in \.gif"),
        ("a.gif", frames(), 0, ValueError, "fps is 0: it must be above 0 and at most 50"),
        ("a.gif", frames(), 60, ValueError, "fps is 60"),
        ("a.gif", [], 2, ValueError, "nothing to write to .*at least one frame"),
        ("a.gif", [*frames(), *frames(size=(9, 9))], 2, ValueError, r"frames have the sizes \[\(9, 9\), \(30, 20\)\]"),
        ("no/a.gif", frames(), 2, FileNotFoundError, "no folder .*: create it first"),
    ],
)
def test_write_animation_when_input_does_not_fit_then_raises(tmp_path, name, given, fps, error, message):
    with pytest.raises(error, match=message):
        write_animation(tmp_path / name, given, fps=fps)
    assert not list(tmp_path.iterdir())
