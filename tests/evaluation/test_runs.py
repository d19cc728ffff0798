import re
import subprocess
import sys

import numpy as np
import pytest

from siammae.errors import DatasetError
from siammae.evaluation.runs import Tree, choose, write_masks
from siammae.outputs import whole


def test_choose_when_the_split_is_long_shows_its_beginning():
    listed = [f"clip{i}" for i in range(70)]
    assert choose(listed, None, kind="clips", split="val") == listed
    assert choose(listed, ["clip3", "clip1", "clip3"], kind="clips", split="val") == ["clip3", "clip1"]
    with pytest.raises(ValueError, match=r"unknown clips \['a'\]: val has clip0, .*, clip59 and 10 more\."):
        choose(listed, ["clip1", "a"], kind="clips", split="val")
    with pytest.raises(ValueError, match="clips is empty: name at least one, or pass None"):
        choose(listed, [], kind="clips", split="val")


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "..", ".", "", "a/", "a//b", "./a", "..\\evil", "a\0b"]
)
def test_choose_when_a_name_leads_out_of_its_folder_refuses(name):
    message = re.escape(f"val lists {name!r}: a name becomes a path, so it must be one that stays inside a folder")
    for wanted in (None, ["good"]):
        with pytest.raises(DatasetError, match=message):
            choose(["good", name], wanted, kind="videos", split="val")


def test_choose_takes_names_with_a_folder_points_and_spaces():
    listed = ["brush_hair/April_09_u_nm_np1_ba_goo_0", "a..b", "...", "a b"]
    assert choose(listed, None, kind="videos", split="val") == listed


def test_tree_finds_images_in_order_and_draws_itself_where_there_are_none(tmp_path):
    tree = Tree("TOY", "root\n└── images", "images")
    with pytest.raises(DatasetError, match=r"no .*/a/0\.png: TOY is expected as\nroot\n└── images\nGive the folder ab"):
        tree.images(tmp_path / "a", "0.png")
    for name in ("2.png", "1.png", "._1.png", "1.jpg"):
        (tmp_path / name).touch()
    assert [path.name for path in tree.images(tmp_path, "0.png")] == ["1.png", "2.png"]


def test_whole_when_the_block_fails_leaves_nothing(tmp_path):
    def half():
        with whole(tmp_path / "new" / "file") as part:
            part.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        half()
    assert list((tmp_path / "new").iterdir()) == []


def test_whole_until_the_block_ends_shows_nothing(tmp_path):
    with whole(tmp_path / "file") as part:
        part.write_text("all")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_text() == "all"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_write_masks_when_there_are_too_few_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_masks([tmp_path / "video"], ["0.png", "1.png"], [[np.zeros((2, 3), np.uint8)]])
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_of_a_video_goes_when_it_is_written_again(tmp_path):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from siammae.evaluation.runs import write_masks\n"
        "masks = (os.kill(os.getpid(), 9) for _ in range(1))\n"
        "write_masks([Path(sys.argv[1], 'model', 'video')], ['0.png'], masks)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = (tmp_path / "model").iterdir()
    assert left.name.startswith(".video.")
    write_masks([tmp_path / "model" / "video"], ["0.png"], [[np.zeros((2, 3), np.uint8)]])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0.png", "model", "video"]
