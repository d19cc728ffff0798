from pathlib import Path

import pytest

from siammae import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.VideoReadError, OSError),
        (errors.CheckpointError, RuntimeError),
        (errors.KernelUnavailableError, RuntimeError),
        (errors.DatasetError, FileNotFoundError),
    ],
)
def test_error_is_both_ours_and_the_builtin_callers_expect(error, builtin):
    assert issubclass(error, errors.SiamMAEError)
    assert issubclass(error, builtin)
    with pytest.raises(builtin, match="what went wrong"):
        raise error("what went wrong")
    assert str(error("what went wrong")) == "what went wrong"


def test_video_read_error_carries_the_frame_it_reached():
    assert errors.VideoReadError("stopped", frame_index=7).frame_index == 7


@pytest.mark.parametrize(
    ("text", "keep", "expected"),
    [
        ("plain näme 走, a b.mp4", "", "plain näme 走, a b.mp4"),
        ("\x1b]52;c;aGk=\x07", "", r"\x1b]52;c;aGk=\x07"),  # writes to the clipboard
        ("\x9b2J\x7f\0", "", r"\x9b2J\x7f\x00"),  # one-byte escapes of eight bits
        ("name\r\nsiammae: all is well", "", r"name\r\nsiammae: all is well"),
        ("two\nlines\r", "\n", "two\nlines\\r"),
        ("gpj.\u202eexe\u2028", "", r"gpj.\u202eexe\u2028"),  # written from right to left
        ("latin\udcfc.mp4", "", r"latin\udcfc.mp4"),  # a file name that is no UTF-8, as os.fsdecode gives it
        (Path("a\x1b"), "", r"a\x1b"),
    ],
)
def test_printable_shows_what_would_command_the_terminal(text, keep, expected):
    assert errors.printable(text, keep=keep) == expected
