"""Lists of videos on the command line: features, masks and keypoints of each, and one manifest."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import siammae
from siammae.cli import main
from siammae.corpus.manifest import MANIFEST, read_manifest
from tests.helpers import moving_square, tiny_model, write_video

RULES = ["--short-side", "32", "--set", "queue_length=1", "--quiet", "--device", "cpu"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    for seed in range(3):
        video, masks = moving_square(4 + seed, (32, 48), 12, (4, 4), seed=seed)
        write_video(folder / f"v{seed}.mp4", video)
        siammae.write_mask(folder / f"m{seed}.png", masks[0])
        (folder / f"p{seed}.csv").write_text("name,x,y\na,8,10\nb,12,9\n")
    (folder / "masks.csv").write_text("video,mask\n" + "".join(f"v{seed}.mp4,m{seed}.png\n" for seed in range(3)))
    (folder / "points.csv").write_text("video,points\n" + "".join(f"v{seed}.mp4,p{seed}.csv\n" for seed in range(3)))
    tiny_model().save_pretrained(folder / "model")
    return folder


def run(inputs, *argv):
    return main([str(part) for part in [*argv, "--model", inputs / "model"]])


def fails(capsys, inputs, *argv):
    capsys.readouterr()
    assert run(inputs, *argv) == 1
    return capsys.readouterr().err


def by_name(out):
    return {Path(record.path).name: record for record in read_manifest(out / MANIFEST)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("result.json", ".siammae")}


def test_masks_of_a_list_are_those_of_each_video(inputs, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(inputs, "propagate", "--list", inputs / "masks.csv", "-o", out, *RULES, "--workers", 1) == 0
    assert "3 videos done, 0 were there, 0 failed" in capsys.readouterr().out
    for seed in range(3):
        single = tmp_path / f"single{seed}"
        video, mask = inputs / f"v{seed}.mp4", inputs / f"m{seed}.png"
        assert run(inputs, "propagate", video, "--mask", mask, "-o", single, *RULES) == 0
        record = by_name(out)[f"v{seed}.mp4"]
        assert (record.status, record.frames) == ("done", 4 + seed)
        assert contents(out / record.file) == contents(single)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert run(inputs, "propagate", "--list", inputs / "masks.csv", "-o", out, *RULES, "--workers", 1) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before


def test_keypoints_of_a_list_in_shares_are_those_of_each_video(inputs, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--workers", 1, "--format", "tracks", "--format", "coco"]
    for share in ("1/2", "2/2"):
        command = ["track", "--list", inputs / "points.csv", "-o", out, *RULES, *options, "--shard", share]
        assert run(inputs, *command) == 0
    assert main(["extract", "--merge", str(out)]) == 0
    assert "0 videos done, 3 were there, 0 failed" in capsys.readouterr().out
    single = tmp_path / "single.csv"
    assert run(inputs, "track", inputs / "v1.mp4", "--points", inputs / "p1.csv", "-o", single, *RULES) == 0
    found = out / by_name(out)["v1.mp4"].file
    assert (found / "tracks.csv").read_bytes() == single.read_bytes()
    assert json.loads((found / "tracks.coco.json").read_text())["annotations"]


def test_another_mask_makes_another_result_and_what_is_wrong_is_named(inputs, tmp_path, capsys):
    here, out = shutil.copytree(inputs, tmp_path / "here"), tmp_path / "out"
    command = ["propagate", "--list", here / "masks.csv", "-o", out, *RULES, "--workers", 1, "--max-failed", 0.5]
    assert run(inputs, *command) == 0
    mask = np.zeros((32, 48), np.uint8)
    mask[10:20, 10:20] = 3
    siammae.write_mask(here / "m0.png", mask)
    (here / "m1.png").unlink()
    capsys.readouterr()
    assert run(inputs, *command) == 0
    said = capsys.readouterr().out
    assert "1 videos done, 1 were there, 1 failed" in said
    assert "v1.mp4: " in said
    assert "m1.png" in said
    masks = out / by_name(out)["v0.mp4"].file
    assert set(np.unique(siammae.read_mask(masks / "00000.png"))) == {0, 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,mask\nv0.mp4,m0.png\n", "has no column video: the first line must be video,mask"),
        ("video,mask\nv0.mp4,\n", "line 2 lacks the video or its mask"),
        ("video,mask\nv0.mp4,m0.png\nv0.mp4,m1.png\n", "line 3 lists 'v0.mp4' again"),
        ("video,mask\n../v0.mp4,m0.png\n", "which leaves"),
        ("video,mask\nv0.mp4,/etc/passwd\n", "which leaves"),
    ],
)
def test_malformed_table_is_refused(inputs, tmp_path, capsys, text, message):
    (tmp_path / "table.csv").write_text(text)
    out = tmp_path / "out"
    assert message in fails(capsys, inputs, "propagate", "--list", tmp_path / "table.csv", "-o", out, *RULES)
    assert not out.exists()


def test_options_that_contradict_a_list_are_refused(inputs, tmp_path, capsys):
    table, out = inputs / "masks.csv", tmp_path / "out"
    for argv, message in (
        (["propagate", inputs / "v0.mp4", "--list", table], "leave out VIDEO"),
        (["propagate", "--list", table, "--mask", inputs / "m0.png"], "leave out --mask"),
        (["propagate", "--list", table, "--confidence", tmp_path / "c.csv"], "leave out --confidence"),
        (["propagate", "--list", inputs / "gone.csv"], "it must be a CSV with the header video,mask"),
        (["propagate"], "there is no video: name one, or --list TABLE.csv for many"),
        (["track", inputs / "v0.mp4"], "there are no points: pass --points FILE"),
        (["track", "--list", table], "has no column points"),
        (["propagate", "--list", table, "--top-k", "0"], "top_k is 0"),
    ):
        assert message in fails(capsys, inputs, *argv, "-o", out, *RULES)
    assert not out.exists()


def test_features_of_a_folder_and_of_one_file(inputs, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["extract", inputs, "-o", out, "--quiet", "--workers", 1, "--store", "int8", "--device", "cpu"]
    assert run(inputs, *argv) == 0
    assert "3 videos done, 0 were there, 0 failed, " in capsys.readouterr().out
    assert siammae.open_features(out)["v2.mp4"].shape == (6, 32, 4, 6)
    for argv, message in (
        (["extract"], "VIDEOS and -o OUT are needed, or --merge OUT alone"),
        (["extract", inputs, "--merge", out], "--merge OUT needs neither VIDEOS nor -o"),
        (["extract", "--merge", tmp_path], "run siammae extract --shard I/N first"),
        (
            ["extract", inputs / "v0.mp4", "-o", tmp_path / "a.safetensors", "--workers", "2"],
            "--workers is for many videos, but the output",
        ),
        (["extract", inputs, "-o", tmp_path / "new", "--shard", "3/2"], "the shard is '3/2': it must be I/N"),
        (["extract", inputs, "-o", tmp_path / "new", "--every", "0"], "every is 0: it must be at least 1"),
    ):
        assert message in fails(capsys, inputs, *argv)
    assert (
        main(["extract", str(inputs / "v0.mp4"), "-o", str(tmp_path / "v.zarr"), "--short-side", "32", "--pool", "cls"])
        == 0
    )
    assert "features (4, 192) float32 (frames, channels)" in capsys.readouterr().out
