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
