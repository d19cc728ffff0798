import itertools
import json

import pytest

import siammae
from siammae.cli import main
from siammae.config import PropagationConfig
from siammae.evaluation import evaluate_davis, sweep
from siammae.features import PixelExtractor
from tests.evaluation.toy import CountingExtractor, write_davis
from tests.helpers import tiny_model

BASE = PropagationConfig(radius=3, queue_length=1)
GRID = {"top_k": (1, 5), "temperature": (0.05, 1.0), "radius": (1, None)}
PARTS = {"choose": {"sequences": ["a", "b"]}, "report": {"sequences": ["c"]}}


@pytest.fixture
def root(tmp_path):
    return write_davis(tmp_path / "DAVIS")


def test_sweep_scores_every_combination_and_reports_the_best_elsewhere(root):
    extractor = CountingExtractor(8)
    found = sweep("davis", root, extractor, GRID, config=BASE, **PARTS)
    assert extractor.frames == 9 + 6, "features are made once a frame"
    combinations = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    assert sorted(map(str, found.changes)) == sorted(map(str, combinations))
    for trial, changes in zip(found.trials, found.changes, strict=True):
        expected = evaluate_davis(PixelExtractor(8), root, config=BASE.replace(**changes), sequences=["a", "b"])
        assert trial.scores == expected.scores
    scores = [trial.scores["J&F"] for trial in found.trials]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    assert found.config == BASE.replace(**found.changes[0])
    for result, config in ((found.best, found.config), (found.base, BASE)):
        assert result.scores == evaluate_davis(PixelExtractor(8), root, config=config, sequences=["c"]).scores


def test_sweep_when_combinations_are_equal_takes_the_first(root):
    found = sweep("davis", root, PixelExtractor(8), {"keypoint_top_k": (3, 9, 1)}, config=BASE, **PARTS)
    assert [change["keypoint_top_k"] for change in found.changes] == [3, 9, 1]


def test_table_and_json_hold_all_trials(root, tmp_path):
    found = sweep("davis", root, PixelExtractor(8), {"top_k": (1, 5)}, config=BASE, **PARTS)
    lines = found.table().splitlines()
    assert lines[0].split() == ["top_k", "J&F", "to", "choose"]
    assert [line.split() for line in lines[2:4]] == [
        [str(change["top_k"]), f"{trial.scores['J&F']:.1f}"]
        for trial, change in zip(found.trials, found.changes, strict=True)
    ]
    best, base = (f"{result.scores['J&F']:.1f}" for result in (found.best, found.base))
    assert lines[-1] == f"J&F on the other videos: {best} with the best rules, {base} with the unchanged ones"
    found.save(tmp_path / "sweep.json")
    values = json.loads((tmp_path / "sweep.json").read_text())
    assert [trial["changes"] for trial in values["trials"]] == list(found.changes)
    assert values["best"]["scores"] == found.best.scores


def test_sweep_when_a_video_is_in_both_lists_refuses_unless_told(root):
    parts = {"choose": {"sequences": ["a", "b"]}, "report": {"split": "val"}}
    with pytest.raises(ValueError, match="2 videos are in both lists, a among them: rules must not be reported on"):
        sweep("davis", root, PixelExtractor(8), {"top_k": (1, 5)}, **parts)
    found = sweep("davis", root, PixelExtractor(8), {"top_k": (1, 5)}, config=BASE, allow_overlap=True, **parts)
    assert list(found.best.per_video) == ["a", "b", "c"]


def test_sweep_when_the_grid_is_wrong_is_refused(root):
    for grid in ({}, {"top_k": ()}):
        with pytest.raises(ValueError, match=r"grid is .*: give at least one field with at least one value"):
            sweep("davis", root, PixelExtractor(8), grid, **PARTS)
    with pytest.raises(ValueError, match="top_k is 0: it must be at least 1"):
        sweep("davis", root, PixelExtractor(8), {"top_k": (1, 0)}, **PARTS)


def test_sweep_on_the_command_line_prints_the_best_rules_ready_to_use(root, tmp_path, capsys):
    weights = str(tiny_model().save_pretrained(tmp_path / "weights"))
    argv = ["sweep", "davis", str(root), "--model", weights, "--quiet", "--choose-split", "val", "--choose", "a", "b"]
    argv += ["--try", "top_k=1,5", "--try", "radius=2,none", "--set", "queue_length=1"]
    assert main([*argv, "--report", "c", "--json", str(tmp_path / "sweep.json")]) == 0
    printed = capsys.readouterr().out.splitlines()
    best = json.loads((tmp_path / "sweep.json").read_text())["trials"][0]["changes"]
    assert f"  config.replace(top_k={best['top_k']}, radius={best['radius']})" in printed
    radius = "null" if best["radius"] is None else best["radius"]
    line = f"  --set top_k={best['top_k']} --set radius={radius}"
    assert line in printed
    settings = ["--set", "queue_length=1", *line.split(), "--sequences", "c", "--json", str(tmp_path / "one.json")]
    assert main(["evaluate", "davis", str(root), "--model", weights, "--quiet", *settings]) == 0
    values = json.loads((tmp_path / "sweep.json").read_text())["best"]
    assert siammae.EvaluationResult.load(tmp_path / "one.json").scores == values["scores"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top_k", "--try top_k: it must be FIELD=A,B"),
        ("min_max=true", "with a field out of top_k, radius, queue_length, temperature"),
        ("top_k=1,many", "the values must be numbers, or none for a radius"),
        ("top_k=none", "the values must be numbers, or none for a radius"),
    ],
)
def test_sweep_when_values_are_malformed_says_so(root, capsys, text, message):
    assert main(["sweep", "davis", str(root), "--try", text]) == 1
    assert message in capsys.readouterr().err
