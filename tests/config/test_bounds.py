import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import siammae
from siammae.annotations.formats.polygons import fill_polygons
from siammae.annotations.model import Annotations, FrameLabels
from siammae.clips.listing import find_clips
from siammae.clips.open_clip import OpenClip
from siammae.config.bounds import BOUNDS, bound
from siammae.convert import convert_checkpoint
from siammae.pretraining.data.sharding import write_shards
from tests.helpers import tiny_model, write_video
from tests.videos import numbered

DOCUMENTED = Path(__file__).parents[2] / "examples" / "bounds.md"


def test_every_bound_is_documented_with_its_value():
    rows = [line for line in DOCUMENTED.read_text().splitlines() if line.startswith("| `SIAMMAE_")]
    assert rows == [f"| `{name}` | {one.most:,} | {one.what} |" for name, one in BOUNDS.items()]


@pytest.mark.parametrize("text", ["1e9", "-1", "many", "٣", "9" * 30])
def test_a_bound_that_is_no_number_is_refused(text, monkeypatch):
    monkeypatch.setenv("SIAMMAE_MAX_TENSORS", text)
    with pytest.raises(ValueError, match=r"SIAMMAE_MAX_TENSORS is .*: it must be a whole number such as 20000"):
        bound("SIAMMAE_MAX_TENSORS")


def checkpoint(folder):
    tiny_model().save_pretrained(folder)
    return lambda: siammae.SiamMAE.from_pretrained(folder)


def foreign(folder):
    torch.save({"model": {f"t{number}": torch.zeros(1000) for number in range(9)}}, folder / "a.pth")
    return lambda: convert_checkpoint(folder / "a.pth", folder / "out")


def packed(folder):
    foreign(folder)
    with zipfile.ZipFile(folder / "a.pth") as source, zipfile.ZipFile(folder / "b.pth", "w", 8) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return lambda: convert_checkpoint(folder / "b.pth", folder / "out")


def labels(folder):
    some = Annotations(lambda: iter([FrameLabels(0, {1: np.ones((4, 6), bool)})]), size=(4, 6))
    siammae.write_annotations(folder / "a.json", some, format="coco")
    return lambda: list(siammae.read_annotations(folder / "a.json"))


def polygon(folder):
    return lambda: fill_polygons([[0, 0, 4, 0, 4, 4, 0, 4]], (8, 8), "here")


def shards(folder):
    write_video(folder / "a.avi", numbered(2))
    write_shards(folder / "a.avi", folder / "shards")
    return lambda: find_clips(folder / "shards")


def clip(folder):
    (one,) = shards(folder)()

    def count():
        with OpenClip(one) as opened:
            return opened.count

    return count


@pytest.mark.parametrize(
    ("name", "make", "least"),
    [
        ("SIAMMAE_MAX_PIXELS", labels, 23),
        ("SIAMMAE_MAX_SIDE", labels, 5),
        ("SIAMMAE_MAX_CONFIG_BYTES", checkpoint, 9),
        ("SIAMMAE_MAX_HEADER_BYTES", checkpoint, 9),
        ("SIAMMAE_MAX_UNPACKED", packed, 1),
        ("SIAMMAE_MAX_TENSORS", foreign, 8),
        ("SIAMMAE_MAX_LABEL_BYTES", labels, 9),
        ("SIAMMAE_MAX_CORNERS", polygon, 3),
        ("SIAMMAE_MAX_INDEX_BYTES", shards, 9),
        ("SIAMMAE_MAX_DESCRIPTION_BYTES", clip, 9),
    ],
)
def test_a_bound_is_what_its_variable_says_and_the_message_names_it(name, make, least, tmp_path, monkeypatch):
    read = make(tmp_path)
    monkeypatch.setenv(name, str(least))
    with pytest.raises((ValueError, OSError, RuntimeError), match=name):
        read()
    monkeypatch.setenv(name, "1000000000")
    if make in (foreign, packed):  # zeros of no network get no further, but so far
        with pytest.raises(siammae.CheckpointError, match="fit no family"):
            read()
    else:
        read()
