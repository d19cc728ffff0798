import cv2
import numpy as np
import pytest
from PIL import Image

from siammae.cli import main
from siammae.frames import pyav_reader
from siammae.frames.readers import open_reader
from tests.videos import cover, encode, numbered

NEW_FFMPEG = int(cv2.getBuildInformation().split("avcodec:")[1].split("(")[1].split(".")[0]) >= 62


def command(name, folder):
    """A command that reads ``folder/clip.mp4``."""
    video, output = str(folder / "clip.mp4"), folder / "out"
    Image.fromarray(np.ones((96, 128), np.uint8)).save(folder / "mask.png")
    (folder / "points.csv").write_text("name,x,y\nhead,20,20\n")
    return {
        "propagate": ["propagate", video, "--mask", str(folder / "mask.png"), "-o", str(output)],
        "track": ["track", video, "--points", str(folder / "points.csv"), "-o", f"{output}.csv"],
        "extract": ["extract", video, "-o", f"{output}.safetensors"],
        "reconstruct": ["reconstruct", video, "-o", f"{output}.png"],
        "attend": ["attend", video, "-o", str(output)],
        "shard": ["shard", video, "-o", str(output)],
    }[name]


@pytest.mark.skipif(not NEW_FFMPEG, reason="FFmpeg before 8 converts interlaced frames")
@pytest.mark.parametrize("name", ["propagate", "track", "extract", "reconstruct", "attend", "shard"])
def test_every_command_reads_by_the_reader_asked_for(tmp_path, capsys, name):
    encode(tmp_path / "clip.mp4", numbered(3), options={"flags": "+ildct+ilme"})
    assert main([*command(name, tmp_path), "--reader", "opencv"]) == 1
    assert "cannot be read by OpenCV: frame 0 (codec h264) does not become RGB" in capsys.readouterr().err
    assert not any(path.is_file() for path in tmp_path.rglob("*.png") if path.name != "mask.png")


@pytest.mark.parametrize("name", ["propagate", "track", "extract", "reconstruct", "attend"])
def test_every_command_refuses_a_cover_picture_in_one_line(tmp_path, capsys, name):
    cover(tmp_path / "clip.mp4", numbered(1)[0])
    assert main(command(name, tmp_path)) == 1
    error = capsys.readouterr().err
    assert "it is sound with a cover picture" in error
    assert len(error.splitlines()) <= 2  # a bar may come before it


def test_auto_is_pyav(tmp_path):
    assert isinstance(open_reader(encode(tmp_path / "clip.mp4", numbered(3))), pyav_reader.PyAVReader)
