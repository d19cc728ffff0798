import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import siammae
from siammae.cli import main
from siammae.cli.demo import demo_data
from siammae.cli.inputs import pick_device
from siammae.cli.options import field_help
from siammae.outputs import MARKER

TINY = siammae.ModelConfig(
    patch_size=8, image_size=32, embed_dim=32, depth=2, num_heads=2, decoder_dim=32, decoder_depth=1, decoder_heads=2
)
RECOMMENDED = siammae.PropagationConfig(queue_length=2, radius=4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = siammae.SiamMAE(TINY, propagation=RECOMMENDED)
    return str(model.save_pretrained(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A video of a square that moves, its first mask and two points, in a folder."""
    folder = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(0)
    background, square = rng.integers(0, 255, (48, 64, 3), np.uint8), rng.integers(0, 255, (16, 16, 3), np.uint8)
    (folder / "frames").mkdir()
    with siammae.VideoWriter(folder / "clip.mp4", fps=10) as video:
        for index in range(5):
            frame = background.copy()
            frame[16:32, 8 + 4 * index : 24 + 4 * index] = square
            video.write(frame)
            Image.fromarray(frame).save(folder / "frames" / f"{index}.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[16:32, 8:24] = 3
    siammae.write_mask(folder / "mask.png", mask)
    (folder / "points.csv").write_text("name,x,y\nleft,10,20\nright,20,28\n")
    return folder


def fails(capsys, *argv: object) -> str:
    """Run a command that must fail with one clear line."""
    assert main([str(part) for part in argv]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"siammae {argv[0]}: error: ")
    return error


def test_propagate_when_given_a_video_writes_palette_masks_and_overlay(clip, weights, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["propagate", clip / "clip.mp4", "--mask", clip / "mask.png", "-o", out, "--overlay", "--model", weights]
    assert main([str(part) for part in argv]) == 0
    masks = sorted(out.glob("*.png"))
    assert [mask.name for mask in masks] == [f"{index:05d}.png" for index in range(5)]
    for mask in masks:
        with Image.open(mask) as image:
            assert image.mode == "P"
    np.testing.assert_array_equal(siammae.read_mask(masks[0]), siammae.read_mask(clip / "mask.png"))
    assert len(list(siammae.read_frames(out / "overlay.mp4"))) == 5
    assert "5 masks of objects 3" in capsys.readouterr().out


def test_propagate_with_a_mask_among_the_frames_and_soft_edges(clip, weights, tmp_path, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    for path in (clip / "frames").iterdir():
        Image.open(path).convert("RGB").save(frames / f"{path.stem}.jpg")
    first = Image.fromarray((siammae.read_mask(clip / "mask.png") > 0).astype(np.uint8) * 255)
    first.resize((32, 24)).resize((64, 48), Image.Resampling.BICUBIC).save(frames / "0.png")
    argv = ["propagate", frames, "--mask", frames / "0.png", "-o", tmp_path / "out", "--model", weights]
    assert "soft edges" in fails(capsys, *argv)
    assert main([str(part) for part in [*argv, "--threshold", 128]]) == 0
    assert "5 masks of objects 1 in" in capsys.readouterr().out
    assert "holds 5 .jpg and 1 .png files" in fails(capsys, "extract", frames, "-o", tmp_path / "a.safetensors")


def test_propagate_reads_a_palette_by_the_rule_of_the_library(clip, weights, tmp_path, capsys):
    void = np.where(siammae.read_mask(clip / "mask.png") > 0, 255, 0)
    siammae.write_mask(tmp_path / "void.png", void)  # DAVIS's palette: void, and no object
    error = fails(
        capsys,
        "propagate",
        clip / "clip.mp4",
        "--mask",
        tmp_path / "void.png",
        "-o",
        tmp_path / "o",
        "--model",
        weights,
    )
    assert "the first mask is empty" in error
    with pytest.raises(ValueError, match="the first mask is empty"):
        siammae.propagate_masks(clip / "clip.mp4", tmp_path / "void.png", model=weights)


def test_propagate_equals_the_library_call(clip, weights, tmp_path):
    out = tmp_path / "out"
    argv = ["propagate", clip / "frames", "--mask", clip / "mask.png", "-o", out, "--model", weights, "--quiet"]
    assert main([str(part) for part in argv]) == 0
    expected = siammae.propagate_masks(clip / "frames", clip / "mask.png", model=weights)
    got = [siammae.read_mask(path, binary=False) for path in sorted(out.glob("*.png"))]
    np.testing.assert_array_equal(np.stack(got), expected.labels)


@pytest.mark.parametrize("way", ["--mask", "--masks"])
def test_propagate_from_several_annotated_frames_equals_the_library_call(clip, weights, tmp_path, way):
    (tmp_path / "given").mkdir()
    last = np.zeros((48, 64), np.uint8)
    last[16:32, 20:36] = 3
    given = {1: clip / "mask.png", 4: tmp_path / "given" / "4.png"}
    siammae.write_mask(given[4], last)
    named = ["--mask", f"1={given[1]}", "--mask", f"4={given[4]}"]
    if way == "--masks":
        named = ["--masks", tmp_path / "given"]
        siammae.write_mask(tmp_path / "given" / "00001.png", siammae.read_mask(given[1]))
    argv = ["propagate", clip / "frames", *named, "-o", tmp_path / "out", "--overlay", "--model", weights, "--quiet"]
    assert main([str(part) for part in argv]) == 0
    expected = siammae.propagate_masks(clip / "frames", given, model=weights)
    got = [siammae.read_mask(path, binary=False) for path in sorted((tmp_path / "out").glob("*.png"))]
    np.testing.assert_array_equal(np.stack(got), expected.labels)
    np.testing.assert_array_equal(got[4], last)
    assert len(list(siammae.read_frames(tmp_path / "out" / "overlay.mp4"))) == 5


def test_propagate_writes_how_sure_each_frame_is(clip, weights, tmp_path, capsys):
    mask = siammae.read_mask(clip / "mask.png").copy()
    mask[0:8, 0:8] = 7
    siammae.write_mask(tmp_path / "two.png", mask)
    given = {0: clip / "mask.png", 3: tmp_path / "two.png"}
    argv = ["propagate", clip / "frames", "--mask", given[0], "--mask", f"3={given[3]}", "-o", tmp_path / "out"]
    argv = [str(part) for part in [*argv, "--confidence", tmp_path / "sure.csv", "--model", weights]]
    assert main(argv) == 0
    assert f"confidence: {tmp_path / 'sure.csv'}" in capsys.readouterr().out
    with (tmp_path / "sure.csv").open() as file:
        got = {(int(row["frame"]), int(row["object"])): float(row["confidence"]) for row in csv.DictReader(file)}
    expected = siammae.propagate_masks(clip / "frames", given, model=weights)
    known = np.argwhere(~np.isnan(expected.confidence)).tolist()
    assert sorted(got) == sorted((frame, expected.object_ids[place]) for frame, place in known)
    for frame, place in known:
        sure = got[frame, expected.object_ids[place]]
        assert sure == pytest.approx(expected.confidence[frame, place], abs=6e-4)
    base = ["propagate", clip / "frames", "--mask", given[0], "-o", tmp_path / "new", "--model", weights]
    assert "sure.csv is there already" in fails(capsys, *base, "--confidence", tmp_path / "sure.csv")
    assert "is an input" in fails(capsys, *base, "--confidence", given[0], "--overwrite")


def test_propagate_says_which_frame_to_annotate_next_where_that_helps(clip, weights, tmp_path, capsys):
    argv = ["propagate", clip / "frames", "--mask", clip / "mask.png", "-o", tmp_path / "out", "--model", weights]
    assert main([str(part) for part in argv]) == 0
    result = siammae.propagate_masks(clip / "frames", clip / "mask.png", model=weights)
    frame = siammae.suggest_frame(result, [0])
    assert f"a mask of frame {frame} would help most" in capsys.readouterr().out
    every = [part for index in range(5) for part in ("--mask", f"{index}={clip / 'mask.png'}")]
    argv = ["propagate", clip / "frames", *every, "-o", tmp_path / "all", "--model", weights]
    assert main([str(part) for part in argv]) == 0
    assert "would help" not in capsys.readouterr().out


def test_propagate_refuses_masks_that_are_missing_twice_or_not_numbered(clip, weights, tmp_path, capsys):
    base = ["propagate", clip / "frames", "-o", tmp_path / "out", "--model", weights, "--quiet"]
    mask = clip / "mask.png"
    assert "there is no mask: pass --mask PNG for the first frame" in fails(capsys, *base)
    assert "frame 0 has two masks" in fails(capsys, *base, "--mask", mask, "--mask", f"0={mask}")
    assert "masks are given for frame 9, but the video ends at frame 4" in fails(capsys, *base, "--mask", f"9={mask}")
    assert f"{clip} holds clip.mp4: masks are named by their frames" in fails(capsys, *base, "--masks", clip)
    assert "no mask at nowhere" in fails(capsys, *base, "--masks", "nowhere")


def test_propagate_when_folder_holds_masks_refuses_unless_told(clip, weights, tmp_path, capsys):
    argv = ["propagate", clip / "frames", "--mask", clip / "mask.png", "-o", tmp_path, "--model", weights, "--quiet"]
    siammae.write_mask(tmp_path / "00099.png", np.zeros((48, 64), np.uint8))
    assert "holds 00099.png already: choose another output, or allow that it is replaced" in fails(capsys, *argv)
    assert "00099.png, which siammae did not write" in fails(capsys, *argv, "--overwrite")
    (tmp_path / MARKER).write_text("00099.png\n")
    fails(capsys, *argv, "--overwrite", "--set", "first_labels=none")
    fails(capsys, *argv[:3], clip / "clip.mp4", *argv[4:], "--overwrite")
    wrong_size = tmp_path / "wrong.png"
    siammae.write_mask(wrong_size, np.eye(9, dtype=np.uint8))
    fails(capsys, *argv[:3], wrong_size, *argv[4:], "--overwrite")
    assert (tmp_path / "00099.png").exists()  # nothing old is lost before something new is there
    assert main([str(part) for part in [*argv, "--overwrite"]]) == 0
    assert not (tmp_path / "00099.png").exists()


def test_propagate_when_video_stops_half_way_keeps_whole_masks_and_says_where(clip, weights, tmp_path, capsys):
    with siammae.VideoWriter(tmp_path / "clip.avi") as video:
        for frame in siammae.read_frames(clip / "frames"):
            for _ in range(4):
                video.write(frame)
    cut = tmp_path / "cut.avi"
    whole = (tmp_path / "clip.avi").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])  # an AVI can be read from its beginning, an MP4 not
    out = tmp_path / "out"
    argv = ["propagate", cut, "--mask", clip / "mask.png", "-o", out, "--overlay", "--model", weights, "--quiet"]
    error = fails(capsys, *argv)
    masks = sorted(set(out.iterdir()) - {out / MARKER})
    assert 0 < len(masks) < 20
    assert str(len(masks)) in error
    assert [mask.name for mask in masks] == [f"{index:05d}.png" for index in range(len(masks))]  # no overlay, no parts
    assert all(siammae.read_mask(mask).shape == (48, 64) for mask in masks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--mask": "missing.png"}, "no mask at missing.png"),
        ({"VIDEO": "missing.mp4"}, "missing.mp4"),
        ({"--model": "nonsense"}, "hf-hub:owner/nonsense"),
        ({"--device": "cuda:7"}, "no device 'cuda:7' here"),
        ({"--kernels": "triton"}, "no triton kernels here"),
        ({"--set": "speed=1"}, "unknown PropagationConfig fields"),
        ({"--set": "speed"}, "must be FIELD=VALUE"),
        ({"--set": "top_k=0"}, "top_k is 0"),
        ({"--top-k": "0"}, "top_k is 0"),
        ({"--short-side": "2"}, "at least one patch"),
    ],
)
def test_propagate_when_input_is_wrong_says_so_in_one_line(clip, weights, tmp_path, capsys, change, message):
    video = change.pop("VIDEO", clip / "frames")
    options = {"--mask": clip / "mask.png", "-o": tmp_path / "out", "--model": weights, **change}
    error = fails(capsys, "propagate", video, "--quiet", *(part for option in options.items() for part in option))
    assert message in error
    assert not (tmp_path / "out").exists()


def test_track_writes_names_positions_and_confidence(clip, weights, tmp_path):
    out = tmp_path / "new" / "tracks.csv"
    argv = ["track", clip / "clip.mp4", "--points", clip / "points.csv", "-o", out, "--overlay", "--model", weights]
    assert main([str(part) for part in argv]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5
    assert rows[0] == {"frame": "0", "name": "left", "x": "10.00", "y": "20.00", "confidence": "1.000"}
    assert {row["name"] for row in rows} == {"left", "right"}
    assert sorted(path.name for path in out.parent.iterdir()) == ["tracks.csv", "tracks.mp4"]


def test_track_takes_keypoints_of_several_frames(clip, weights, tmp_path, capsys):
    (tmp_path / "later.csv").write_text("name,x,y\nright,36,28\nleft,-1,-1\nlate,30,20\n")
    argv = ["track", clip / "frames", "--points", clip / "points.csv", "--points", f"4={tmp_path / 'later.csv'}"]
    out = tmp_path / "tracks.csv"
    assert main([str(part) for part in [*argv, "-o", out, "--overlay", "--model", weights]]) == 0
    assert "3 keypoints in 5 frames, 2 of them given" in capsys.readouterr().out
    with out.open() as file:
        rows = {(int(row["frame"]), row["name"]): (row["x"], row["y"]) for row in csv.DictReader(file)}
    assert len(rows) == 3 * 5
    nowhere = ("-1.00", "-1.00")
    assert rows[0, "left"] == ("10.00", "20.00")
    assert rows[4, "right"] == ("36.00", "28.00")
    assert rows[4, "left"] == rows[3, "left"] == rows[0, "late"] == nowhere
    assert rows[1, "left"] != nowhere
    assert rows[1, "late"] != nowhere  # followed back from frame 4
    frames = [str(part) for part in ["--points", out, "-o", tmp_path / "again.csv", "--model", weights]]
    assert main(["track", str(clip / "frames"), *frames]) == 1
    assert "the points are of all 5 frames, so there is nothing to follow" in capsys.readouterr().err
    assert not (tmp_path / "again.csv").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be name,x,y"),
        ("a,b\n1,2\n", "the first line must be name,x,y"),
        ("name,x,y\n", "holds no keypoint"),
        ("name,x,y\nnose,1,2\near,one,2\n", "line 3: x is 'one'"),
        ("x,y\n1,nan\n", "line 2: .*they must be finite"),
        ("x,y\n1\n", "line 2: .*None"),
        ("x,y\n1,2\n900,2\n", "keypoint 1 is"),
    ],
)
def test_track_when_points_are_wrong_names_the_line(clip, weights, tmp_path, capsys, text, message):
    (tmp_path / "points.csv").write_text(text)
    argv = ["track", clip / "frames", "--points", tmp_path / "points.csv", "-o", tmp_path / "out.csv"]
    error = fails(capsys, *argv, "--model", weights, "--quiet")
    assert re.search(message, error)
    assert [path.name for path in tmp_path.iterdir()] == ["points.csv"]


def test_track_when_output_is_no_csv_refuses(clip, capsys):
    assert "must end in .csv" in fails(capsys, "track", "a.mp4", "--points", "b.csv", "-o", "out.txt")


def test_extract_writes_what_the_library_returns(clip, weights, tmp_path, capsys):
    out = tmp_path / "features.safetensors"
    argv = ["extract", clip / "frames", "-o", out, "--model", weights, "--short-side", 32]
    assert main([str(part) for part in argv]) == 0
    model = siammae.SiamMAE.from_pretrained(weights)
    expected = model.extract(clip / "frames", resize=32, batch_size=4)
    torch.testing.assert_close(load_file(out)["features"], expected, rtol=0, atol=0)
    assert "(5, 32, 4, 5)" in capsys.readouterr().out
    assert main([str(part) for part in [*argv, "--half", "--overwrite"]]) == 0
    assert load_file(out)["features"].dtype == torch.float16
    assert "the encoder has 2 blocks" in fails(
        capsys, *argv, "--layer", 7, "--overwrite"
    )  # on a line of its own, under the bar
    assert "must end in .safetensors" in fails(capsys, "extract", clip / "frames", "-o", tmp_path / "features.npy")


@pytest.fixture
def davis(clip, tmp_path) -> Path:
    """The moving square in DAVIS-2016's layout."""
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / kind / "480p" / "square").mkdir(parents=True)
    for index in range(5):
        frame = Image.open(clip / "frames" / f"{index}.png")
        frame.save(tmp_path / "JPEGImages" / "480p" / "square" / f"{index:05d}.jpg", quality=95)
        mask = np.zeros((48, 64), np.uint8)
        mask[16:32, 8 + 4 * index : 24 + 4 * index] = 255
        Image.fromarray(mask).save(tmp_path / "Annotations" / "480p" / "square" / f"{index:05d}.png")
    (tmp_path / "ImageSets" / "2016").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2016" / "dev.txt").write_text("square\n")
    return tmp_path


def test_evaluate_davis_prints_a_table_and_writes_json_and_masks(davis, weights, capsys):
    argv = ["evaluate", "davis", davis, "--year", 2016, "--split", "dev", "--model", weights]
    extra = ["-o", davis / "masks", "--json", davis / "scores.json", "--set", "queue_length=1"]
    assert main([str(part) for part in [*argv, *extra]]) == 0
    table = capsys.readouterr().out
    assert "J&F" in table
    scores = json.loads((davis / "scores.json").read_text())
    assert scores["config"]["queue_length"] == 1
    assert scores["config"]["radius"] == RECOMMENDED.radius
    assert main([str(part) for part in [*argv[:7], "--results", davis / "masks"]]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == table.splitlines()[-2]


@pytest.mark.parametrize("baseline", ["rgb", "hog", "random"])
def test_evaluate_davis_when_asked_for_a_baseline_scores_it_beside_the_model(davis, weights, capsys, baseline):
    argv = ["evaluate", "davis", davis, "--year", 2016, "--split", "dev", "--model", weights, "--quiet"]
    assert main([str(part) for part in [*argv, "--baseline", baseline]]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows[0][0] == weights
    # the fixture's weights are that very random network
    assert (rows[0][-3:] == rows[1][-3:]) == (baseline == "random")


def test_evaluate_davis_when_layout_is_wrong_shows_the_expected_one(tmp_path, capsys, weights):
    assert main(["evaluate", "davis", str(tmp_path), "--model", weights]) == 1
    assert "JPEGImages" in capsys.readouterr().err


def test_pretrain_and_resume_give_weights_that_load(clip, tmp_path, capsys):
    out = tmp_path / "run"
    network = ["--size", "tiny", "--patch-size", 8, "--image-size", 16, "--decoder-dim", 32, "--decoder-depth", 1]
    recipe = ["--frame-gap", 1, 3, "--samples-per-video", 4, "--batch-size", 4, "--epochs", 3, "--warmup-epochs", 1]
    argv = [str(part) for part in ["pretrain", clip, "-o", out, *network, *recipe, "--device", "cpu", "--quiet"]]
    assert main([*argv, "--max-steps", "1"]) == 0
    assert "use them with --model" in capsys.readouterr().out
    assert "holds a run already" in fails(capsys, *argv)
    assert main(["pretrain", str(clip), "-o", str(out), "--resume", "--device", "cpu", "--quiet"]) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 3]
    model = siammae.SiamMAE.from_pretrained(out / "model")
    assert (model.config.patch_size, model.config.decoder_dim) == (8, 32)
    more = [*argv[:2], "-o", str(tmp_path / "more"), *argv[4:], "--init", str(out / "model"), "--max-steps", "1"]
    assert main(more) == 0
    assert "init='" in fails(capsys, *more[:3], str(tmp_path / "other"), *more[4:], "--decoder-dim", 64)


def test_pretrain_when_there_is_nothing_to_resume_says_so(clip, tmp_path, capsys):
    assert "nothing to resume" in fails(capsys, "pretrain", clip, "-o", tmp_path / "run", "--resume")


def test_pretrain_when_interrupted_saves_and_exits_with_130(clip, tmp_path):
    out = tmp_path / "run"
    network = ["--size", "tiny", "--patch-size", "8", "--image-size", "16", "--decoder-dim", "32"]
    recipe = ["--frame-gap", "1", "3", "--batch-size", "2", "--epochs", "100000", "--device", "cpu", "--quiet"]
    command = [sys.executable, "-m", "siammae", "pretrain", str(clip), "-o", str(out), *network, *recipe]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the state is saved" in stderr
    assert "Traceback" not in stderr
    assert list((out / "states").iterdir())


def test_info_names_checkpoint_and_kernels(weights, capsys):
    assert main(["info", weights, "--card"]) == 0
    out = capsys.readouterr().out
    assert "reference  available" in out
    assert "triton" in out
    assert "width 32, depth 2" in out
    assert "queue_length=2" in out
    assert "# SiamMAE checkpoint" in out


def test_cards_folders_and_errors_cannot_command_the_terminal(weights, tmp_path, capsys):
    folder = tmp_path / "w\x1b]52;c;aGk=\x07"
    shutil.copytree(weights, folder)
    (folder / "README.md").write_text("# A card\n\tof \x1b[2Jtwo lines\x9b8m\n")
    assert main(["info", str(folder), "--card"]) == 0
    out = capsys.readouterr().out
    assert out.count(r"w\x1b]52;c;aGk=\x07") == 2
    assert "\n# A card\n\tof \\x1b[2Jtwo lines\\x9b8m\n" in out
    assert "\x1b" not in out
    assert r"\x1b[2J.mp4" in fails(capsys, "extract", tmp_path / "\x1b[2J.mp4", "-o", tmp_path / "a.safetensors")


def test_demo_writes_masks_overlay_and_contact_sheet(weights, tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "-o", str(out), "--model", weights, "--short-side", "64", "--quiet"]) == 0
    count = sum(1 for _ in siammae.read_frames(demo_data() / "walkers.mp4"))
    assert len(list((out / "masks").glob("*.png"))) == count
    assert sum(1 for _ in siammae.read_frames(out / "overlay.mp4")) == count
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 600
    assert str(out / "contact_sheet.png") in capsys.readouterr().out


def test_demo_data_when_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("siammae.cli.demo.__file__", str(tmp_path / "siammae" / "cli" / "demo.py"))
    with pytest.raises(FileNotFoundError, match="no demo clip"):
        demo_data()


def test_demo_data_stays_small():
    assert sum(path.stat().st_size for path in demo_data().iterdir()) <= 500_000


def test_error_when_traceback_is_asked_for_is_raised(monkeypatch):
    monkeypatch.setenv("SIAMMAE_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"must end in \.csv"):
        main(["track", "a.mp4", "--points", "b.csv", "-o", "out.txt"])


@pytest.mark.parametrize("argv", [[], ["fly"], ["propagate"], ["evaluate"], ["info", "--colour"]])
def test_command_line_when_it_is_malformed_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage: siammae" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["demo", "propagate", "track", "extract", "evaluate davis", "sweep", "shard", "models", "pretrain", "info"],
)
def test_help_of_every_command_is_printed(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"usage: siammae {command}" in capsys.readouterr().out


@pytest.mark.parametrize("settings", [siammae.ModelConfig, siammae.PropagationConfig, siammae.PretrainConfig])
def test_field_help_explains_every_field(settings):
    assert list(field_help(settings)) == list(settings.__dataclass_fields__)
    assert all(len(text) > 8 for text in field_help(settings).values())


def test_help_is_the_same_without_docstrings():
    code = "from siammae.cli import main; main()"
    texts = [
        subprocess.run(
            [sys.executable, *flag, "-c", code, "pretrain", "--help"], capture_output=True, text=True, check=True
        )
        for flag in ([], ["-OO"])
    ]
    assert texts[0].stdout == texts[1].stdout
    assert "batch_size" in texts[0].stdout or "--batch" in texts[0].stdout


def test_field_help_without_docstrings_and_sources_is_empty(monkeypatch):
    made = dataclasses.make_dataclass("Made", ["field"])
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    assert field_help(made) == {}


def test_pick_device_when_auto_finds_one():
    assert pick_device("auto") in ("cpu", "cuda", "mps")
    assert pick_device("cpu") == "cpu"


def test_output_that_nobody_reads_to_its_end_stops_quietly():
    command = [sys.executable, "-m", "siammae", "info", "--card"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
