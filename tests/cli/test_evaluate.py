"""``siammae evaluate`` on VIP and JHMDB, and DAVIS at two sizes; what DAVIS shares with them is in test_cli.py."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

import siammae
from siammae.cli import main
from siammae.config.presets import PRESETS
from siammae.evaluation import comparison
from siammae.evaluation.jhmdb.evaluation import JOINTS

TINY = siammae.ModelConfig(
    patch_size=8, image_size=32, embed_dim=32, depth=1, num_heads=2, decoder_dim=32, decoder_depth=1, decoder_heads=2
)
RECOMMENDED = siammae.PropagationConfig(queue_length=2, radius=4)
CLIP = "catch/Throw_f_0"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = siammae.SiamMAE(TINY, propagation=RECOMMENDED)
    return str(model.save_pretrained(tmp_path_factory.mktemp("weights")))


def write_image(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A square that moves, as a class in VIP's layout and with joints on it in JHMDB's."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    background, square = random.integers(0, 255, (32, 40, 3)), random.integers(0, 255, (16, 16, 3))
    for index in range(3):
        frame, labels = background.copy(), np.zeros((32, 40))
        inside = np.s_[8:24, 8 + 4 * index : 24 + 4 * index]
        frame[inside], labels[inside] = square, 3
        labels[:, -2:] = 11
        write_image(root / "VIP" / "Images" / "videos1" / f"{index + 1:012d}.jpg", frame)
        write_image(root / "VIP" / "Annotations" / "Category_ids" / "videos1" / f"{index + 1:012d}.png", labels)
        write_image(root / "JHMDB" / "Rename_Images" / CLIP / f"{index + 1:05d}.png", frame)
        write_image(root / "DAVIS" / "JPEGImages" / "480p" / "square" / f"{index:05d}.jpg", frame)
        write_image(root / "DAVIS" / "Annotations" / "480p" / "square" / f"{index:05d}.png", (labels == 3) * 1)
    for folder, name, text in (
        ("VIP", "lists/val_videos.txt", "videos1"),
        ("JHMDB", "splits/catch_test_split1.txt", f"{CLIP[6:]}.avi 2"),
        ("DAVIS", "ImageSets/2017/val.txt", "square"),
    ):
        (root / folder / name).parent.mkdir(parents=True)
        (root / folder / name).write_text(text + "\n")
    joints = random.uniform(9, 23, (2, len(JOINTS), 1)) + np.array([[[0, 4, 8]], [[0, 0, 0]]])
    (root / "JHMDB" / "joint_positions" / CLIP).mkdir(parents=True)
    savemat(root / "JHMDB" / "joint_positions" / CLIP / "joint_positions.mat", {"pos_img": joints})
    return root


def evaluate(capsys, *argv):
    """Run ``siammae evaluate``; returns the printed lines."""
    assert main(["evaluate", *map(str, argv), "--quiet", "--overwrite"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


@pytest.mark.parametrize(("dataset", "score"), [("vip", "mIoU"), ("jhmdb", "PCK@0.1")])
def test_evaluate_prints_a_table_writes_json_and_results_that_score_the_same(
    trees, weights, tmp_path, capsys, dataset, score
):
    root, out = trees / dataset.upper(), tmp_path / "out"
    extra = ["-o", out, "--json", tmp_path / "scores.json", "--set", "queue_length=1"]
    table = evaluate(capsys, dataset, root, "--model", weights, *extra)
    assert score in table[0]
    assert table[-1] == f"scores written to {tmp_path / 'scores.json'}"
    values = json.loads((tmp_path / "scores.json").read_text())
    assert values["config"]["queue_length"] == 1
    assert values["config"]["radius"] == RECOMMENDED.radius
    assert table[-2].split()[1] == f"{values['scores'][score]:.1f}"
    assert evaluate(capsys, dataset, root, "--results", out) == table[:-1]


@pytest.mark.parametrize(("dataset", "argument", "name"), [("vip", "videos", "videos1"), ("jhmdb", "clips", CLIP)])
def test_evaluate_equals_the_library_call(trees, weights, tmp_path, capsys, dataset, argument, name):
    root = trees / dataset.upper()
    argv = [dataset, root, f"--{argument}", name, "--model", weights, "--json", tmp_path / "scores.json"]
    evaluate(capsys, *argv)
    function = {"vip": siammae.evaluate_vip, "jhmdb": siammae.evaluate_jhmdb}[dataset]
    expected = function(siammae.SiamMAE.from_pretrained(weights), root)
    assert siammae.EvaluationResult.load(tmp_path / "scores.json").scores == expected.scores


def test_evaluate_vip_when_told_classes_and_void_uses_them(trees, weights, tmp_path, capsys):
    argv = ["vip", trees / "VIP", "--model", weights, "--json", tmp_path / "scores.json"]
    evaluate(capsys, *argv, "--num-classes", 11, "--ignore-index", 11)
    details = json.loads((tmp_path / "scores.json").read_text())["details"]
    assert (details["num_classes"], details["ignore_index"]) == (11, 11)
    assert set(details["per_class"]) == {"0", "3"}


def test_evaluate_jhmdb_when_told_the_rules_of_vfs_uses_them(trees, weights, tmp_path, capsys):
    argv = ["jhmdb", trees / "JHMDB", "--model", weights, "--json", tmp_path / "scores.json"]
    for extra, first, zero in (([], False, True), (["--count-first-frame", "--no-zero-is-visible"], True, False)):
        evaluate(capsys, *argv, *extra)
        details = json.loads((tmp_path / "scores.json").read_text())["details"]
        assert (details["count_first_frame"], details["zero_is_visible"]) == (first, zero)
        assert details["counted"] + details["invisible"] == 15 * (3 if first else 2)


def test_evaluate_jhmdb_when_given_the_preset_takes_that_of_jhmdb(trees, weights, tmp_path, capsys):
    argv = ["jhmdb", trees / "JHMDB", "--model", weights, "--json", tmp_path / "scores.json", "--preset", "siammae"]
    evaluate(capsys, *argv)
    expected = siammae.PropagationConfig.preset("siammae", dataset="jhmdb")
    assert siammae.EvaluationResult.load(tmp_path / "scores.json").config == expected


@pytest.mark.parametrize("dataset", ["vip", "jhmdb"])
def test_evaluate_when_asked_for_baselines_scores_them_beside_the_model(trees, weights, tmp_path, capsys, dataset):
    argv = [dataset, trees / dataset.upper(), "--model", weights, "--json", tmp_path / "scores.json"]
    table = evaluate(capsys, *argv, "--baseline", "rgb", "--baseline", "random")
    assert [line[: len(weights)].strip() for line in table[2:4]] == [weights, "RGB patches of 8"]
    results = siammae.Comparison.load(tmp_path / "scores.json").results
    names = [result.details["model"] for result in results]
    assert names == [siammae.SiamMAE.from_pretrained(weights).name, "PixelExtractor", "random"]
    assert {result.config for result in results} == {RECOMMENDED}


@pytest.mark.parametrize(("dataset", "folder"), [("vip", "Category_ids"), ("jhmdb", "joint_positions")])
def test_evaluate_when_layout_is_wrong_shows_the_expected_one(tmp_path, capsys, weights, dataset, folder):
    assert main(["evaluate", dataset, str(tmp_path), "--model", weights]) == 1
    error = capsys.readouterr().err
    assert "siammae evaluate: error: no " in error
    assert folder in error


def test_evaluate_jhmdb_when_scipy_is_missing_says_what_to_install(trees, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert main(["evaluate", "jhmdb", str(trees / "JHMDB"), "--results", "results"]) == 1
    assert "error: JHMDB annotations are .mat files: pip install siammae[eval]" in capsys.readouterr().err


def test_evaluate_when_there_is_no_such_preset_says_so(trees, weights, capsys):
    assert main(["evaluate", "jhmdb", str(trees / "JHMDB"), "--model", weights, "--preset", "dino"]) == 1
    assert "no preset 'dino' for 'jhmdb'" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["davis", "vip", "jhmdb"])
@pytest.mark.parametrize("name", sorted({name for name, _ in PRESETS}))
def test_evaluate_takes_the_presets_version_of_the_data_set(trees, weights, capsys, monkeypatch, dataset, name):
    asked = []

    def compare_nothing(benchmark, entries, **how):
        asked.extend((entry.rules, entry.config) for entry in entries)
        raise ValueError("enough seen")

    monkeypatch.setattr(comparison, "compare_entries", compare_nothing)
    assert main(["evaluate", dataset, str(trees / dataset.upper()), "--model", weights, "--preset", name]) == 1
    error = capsys.readouterr().err
    if (name, dataset) in PRESETS:
        assert "enough seen" in error
        assert asked == [(name, siammae.PropagationConfig.preset(name, dataset=dataset))]
    else:
        assert f"no preset '{name}' for '{dataset}'" in error


def test_evaluate_when_told_a_short_side_means_that_side_with_every_preset(trees, weights, tmp_path, capsys):
    argv = ["vip", trees / "VIP", "--model", weights, "--json", tmp_path / "scores.json", "--preset", "siammae"]
    printed = evaluate(capsys, *argv, "--short-side", 24, "--set", "size_multiple=8")
    assert "frames enter at 24x24, not as these rules have it" in printed
    config = siammae.EvaluationResult.load(tmp_path / "scores.json").config
    assert (config.resize, config.resize_side, config.top_k) == (24, "short", 10)


def test_evaluate_davis_at_both_sizes_prints_two_tables_and_follows_once(trees, weights, tmp_path, capsys, monkeypatch):
    argv = ["davis", trees / "DAVIS", "--model", weights]
    single = [evaluate(capsys, *argv, *extra) for extra in ([], ["--score-at", "480x880"])]
    steps, step = [], siammae.Propagator.step
    monkeypatch.setattr(siammae.Propagator, "step", lambda *args, **given: steps.append(1) or step(*args, **given))
    for extra in ([], ["-o", tmp_path / "out"]):
        both = evaluate(capsys, *argv, "--score-at", "both", "--json", tmp_path / "scores.json", *extra)
        written = [f"scores written to {tmp_path / name}" for name in ("scores.json", "scores-480x880.json")]
        assert both == [*single[0], "", *single[1], *written]
        assert len(steps) == 3
        steps.clear()
    assert both[0].startswith("DAVIS-2017 ")
    assert single[1][0].startswith("DAVIS-2017 at 480x880 ")
    assert json.loads((tmp_path / "scores-480x880.json").read_text())["details"]["score_at"] == [480, 880]
    assert evaluate(capsys, "davis", trees / "DAVIS", "--results", tmp_path / "out") == single[0]
    results = ["--results", tmp_path / "out" / "480x880", "--score-at", "480x880"]
    assert evaluate(capsys, "davis", trees / "DAVIS", *results) == single[1]
    results = ["--results", tmp_path / "out", "--score-at", "both"]
    assert evaluate(capsys, "davis", trees / "DAVIS", *results)[0] == single[0][0]


def test_evaluate_of_several_presets_and_sizes_prints_one_table_and_writes_all(trees, weights, tmp_path, capsys):
    argv = ["davis", trees / "DAVIS", "--model", weights, "--preset", "crw", "--preset", "vfs", "--short-side", "16,24"]
    files = {name: tmp_path / f"scores.{name}" for name in ("json", "md", "png")}
    extra = ["--json", files["json"], "--markdown", files["md"], "--plot", files["png"], "-o", tmp_path / "out"]
    table = evaluate(capsys, *argv, *extra, "--top-k", 3, "--same-input", "--workers", 2)
    assert [line.split()[1:4] for line in table[2:6]] == [
        [name, "top_k=3*", size] for name in ("crw", "vfs") for size in ("16x16", "24x32")
    ]
    assert table[-3:] == [f"scores written to {path}" for path in files.values()]
    comparison = siammae.Comparison.load(files["json"])
    assert comparison.table().splitlines() == table[:-3]
    assert files["md"].read_text() == comparison.markdown()
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "out").glob("*/square/00001.png"))) == 4


def test_evaluate_when_a_size_is_no_number_exits_with_2(trees, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "davis", str(trees / "DAVIS"), "--short-side", "240,big"])
    assert stop.value.code == 2
    assert "argument --short-side: invalid" in capsys.readouterr().err


def test_evaluate_when_a_picture_cannot_be_drawn_says_so_before_it_scores(trees, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["evaluate", "davis", str(trees / "none"), "--plot", "sizes.png"]) == 1
    assert "pip install siammae[plot]" in capsys.readouterr().err


def test_evaluate_of_ready_results_writes_markdown(trees, weights, tmp_path, capsys):
    evaluate(capsys, "davis", trees / "DAVIS", "--model", weights, "-o", tmp_path / "out")
    argv = ["davis", trees / "DAVIS", "--results", tmp_path / "out", "--workers", 2]
    printed = evaluate(capsys, *argv, "--markdown", tmp_path / "scores.md")
    assert printed[-1] == f"scores written to {tmp_path / 'scores.md'}"
    assert (tmp_path / "scores.md").read_text() == (tmp_path / "out" / "scores.md").read_text()


@pytest.mark.parametrize("dataset", ["davis", "vip", "jhmdb"])
def test_help_of_every_data_set_is_printed(dataset, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", dataset, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: siammae evaluate {dataset}" in printed
    assert "--baseline" in printed
