import json
import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from siammae.config import PropagationConfig
from siammae.evaluation import EvaluationResult
from siammae.evaluation.results import claim_folder

RESULT = EvaluationResult(
    dataset="DAVIS-2017",
    scores={"J&F": 61.25, "J": 60.0, "F": 62.5, "J-Recall": 70.0},
    per_video={"bear": {"J&F": 100.0, "J": 100.0, "F": 100.0}, "bmx-trees": {"J&F": 22.5, "J": 20.0, "F": math.nan}},
    config=PropagationConfig(top_k=3, resize=(480, 880)),
    details={"split": "val", "frames": 70},
)


class Extractor:
    """An extractor that wraps a network, as most do."""

    patch_size = 8

    def __init__(self, seed=0, dtype=torch.float32):
        torch.manual_seed(seed)
        self.network = torch.nn.Linear(3, 2).to(dtype)


def test_table_aligns_columns_and_ends_with_scores_of_the_split():
    assert RESULT.table() == (
        "DAVIS-2017    J&F      J      F\n"
        "-------------------------------\n"
        "bear        100.0  100.0  100.0\n"
        "bmx-trees    22.5   20.0      -\n"
        "-------------------------------\n"
        "mean         61.2   60.0   62.5"
    )


def test_table_when_videos_have_different_columns_marks_the_gaps():
    result = EvaluationResult(dataset="d", scores={"head": 1.0}, per_video={"a": {"head": 1.0}, "b": {"hand": 2.0}})
    lines = result.table().splitlines()
    assert lines[0].split() == ["d", "head", "hand"]
    assert lines[3].split() == ["b", "-", "2.0"]
    assert lines[-1].split() == ["mean", "1.0", "-"]


def test_table_when_there_are_no_videos_shows_the_scores():
    result = EvaluationResult(dataset="VIP", scores={"mIoU": 12.34}, per_video={})
    assert result.table() == "VIP   mIoU\nmean  12.3"


def test_save_then_load_when_config_is_set_returns_the_same_result(tmp_path):
    path = tmp_path / "new" / "folder" / "result.json"
    RESULT.save(path)
    loaded = EvaluationResult.load(str(path))
    assert loaded.config == RESULT.config
    assert loaded.scores == RESULT.scores
    assert loaded.details == RESULT.details
    assert loaded.table() == RESULT.table()
    assert math.isnan(loaded.per_video["bmx-trees"]["F"])
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_save_then_load_when_ready_results_were_scored_keeps_none(tmp_path):
    result = EvaluationResult(dataset="VIP", scores={"mIoU": 1.5}, per_video={})
    result.save(tmp_path / "result.json")
    assert EvaluationResult.load(tmp_path / "result.json") == result


def test_save_when_a_score_is_nan_writes_standard_json(tmp_path):
    RESULT.save(tmp_path / "result.json")

    def refuse(constant):
        raise AssertionError(constant)

    values = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
    assert values["per_video"]["bmx-trees"]["F"] is None


def test_save_when_details_are_not_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(TypeError, match="not JSON serializable"):
        EvaluationResult(dataset="VIP", scores={}, per_video={}, details={"model": object()}).save(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        EvaluationResult(dataset="VIP", scores={}, per_video={}, details={"loss": math.nan}).save(path)
    assert path.read_text() == "old"


def test_save_when_writing_fails_leaves_the_old_file_and_no_other(tmp_path, full_disk):
    path = tmp_path / "result.json"
    path.write_text("old")
    with full_disk(10), pytest.raises(OSError, match=r"File too large: '.*result\.json'"):
        RESULT.save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_load_when_file_is_missing_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"result\.json"):
        EvaluationResult.load(tmp_path / "result.json")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"dataset": "x", "scores": {}, "per_video": 3}', "null"])
def test_load_when_file_is_something_else_names_it(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is not a saved evaluation result"):
        EvaluationResult.load(path)


def test_load_when_config_has_unknown_field_names_it(tmp_path):
    path = tmp_path / "result.json"
    RESULT.save(path)
    path.write_text(path.read_text().replace('"top_k"', '"top_q"'))
    with pytest.raises(ValueError, match=r"result\.json is not a saved evaluation result.*top_q"):
        EvaluationResult.load(path)


def test_result_is_frozen():
    with pytest.raises(FrozenInstanceError, match="dataset"):
        RESULT.dataset = "VIP"


def test_claim_folder_when_the_run_is_the_same_accepts_it_again(tmp_path):
    folder, config = tmp_path / "out", PropagationConfig(resize=(16, 24))
    claim_folder(folder, Extractor(), config, {"dataset": "x"}, ["bear"])
    (folder / "bear").mkdir()
    claim_folder(folder, Extractor(), config, {"dataset": "x"}, ["bear"])
    stored = json.loads((folder / "config.json").read_text())
    assert stored["dataset"] == "x"
    assert stored["model"] == "Extractor"
    assert PropagationConfig.from_dict(stored["config"]) == config


@pytest.mark.parametrize(
    ("extractor", "config", "source"),
    [
        (Extractor(seed=1), PropagationConfig(), {"dataset": "x"}),
        (Extractor(dtype=torch.bfloat16), PropagationConfig(), {"dataset": "x"}),
        (torch.nn.Linear(3, 2), PropagationConfig(), {"dataset": "x"}),
        (Extractor(), PropagationConfig(top_k=2), {"dataset": "x"}),
        (Extractor(), PropagationConfig(), {"dataset": "y"}),
    ],
    ids=["weights", "dtype", "class", "config", "dataset"],
)
def test_claim_folder_when_anything_differs_refuses(tmp_path, extractor, config, source):
    extractor.patch_size = 8
    claim_folder(tmp_path, Extractor(), PropagationConfig(), {"dataset": "x"}, [])
    with pytest.raises(ValueError, match=r"holds results of another model or setting .* choose another output"):
        claim_folder(tmp_path, extractor, config, source, [])


def test_claim_folder_with_overwrite_deletes_what_the_other_run_left_and_nothing_else(tmp_path):
    claim_folder(tmp_path, Extractor(), PropagationConfig(), {"dataset": "x"}, [])
    for name in ("bear/00000.png", "480x880/bear/00000.png", "jump/a.csv", "scores.json", "global_results-val.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("theirs")
    (tmp_path / "bear/notes.txt").write_text("mine")
    other = (tmp_path, Extractor(), PropagationConfig(top_k=2), {"dataset": "x"}, [])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"notes\.txt that no evaluation wrote"):
        claim_folder(*other, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "bear/notes.txt").unlink()
    claim_folder(*other, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["config.json"]
    claim_folder(*other)


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON"])
def test_claim_folder_with_overwrite_keeps_a_strangers_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"a config\.json that no evaluation wrote"):
        claim_folder(tmp_path, Extractor(), PropagationConfig(), {}, [], overwrite=True)
    assert (tmp_path / "config.json").read_text() == text


def test_claim_folder_when_results_have_no_stamp_refuses(tmp_path):
    (tmp_path / "bear").mkdir()
    with pytest.raises(ValueError, match=r"holds bear but no config\.json: its origin is unknown"):
        claim_folder(tmp_path, Extractor(), PropagationConfig(), {}, ["ant", "bear"])
    claim_folder(tmp_path, Extractor(), PropagationConfig(), {}, ["ant"])  # other folders are none of its business


FULL = EvaluationResult(
    dataset="DAVIS-2017 at 480x880",
    scores={
        "J&F": 61.25,
        "J": 60.0,
        "F": 62.5,
        "J-Recall": 70.0,
        "J-Decay": -3.14,
        "F-Recall": 1.0,
        "F-Decay": 12.3456,
    },
    per_video={"bear": {"J&F": 61.25, "J": 60.0, "F": 62.5}},
    details={"split": "val", "per_object": {"bear_1": {"J": 12.34, "F": 100.0}, "bear_2": {"J": 0.0, "F": 5.0}}},
)


def test_markdown_has_the_table_and_that_of_the_objects():
    assert FULL.scored_at == "480x880"
    assert FULL.markdown().splitlines()[:6] == [
        "| DAVIS-2017 at 480x880 | J&F | J | F | J-Recall | J-Decay | F-Recall | F-Decay |",
        "| - | -: | -: | -: | -: | -: | -: | -: |",
        "| bear | 61.2 | 60.0 | 62.5 | - | - | - | - |",
        "| mean | 61.2 | 60.0 | 62.5 | 70.0 | -3.1 | 1.0 | 12.3 |",
        "",
        "| object | J | F |",
    ]
    joints = EvaluationResult(dataset="VIP", scores={"mIoU": 1.0}, per_video={}, details={"per_class": {"0": 99.0}})
    assert joints.markdown().splitlines()[-3:] == ["| class | IoU |", "| - | -: |", "| 0 | 99.0 |"]


def test_write_makes_the_two_files_of_the_official_tool(tmp_path):
    written = FULL.write(tmp_path / "out")
    names = ["scores.json", "scores.md", "global_results-val.csv", "per-sequence_results-val.csv"]
    assert written == [tmp_path / "out" / name for name in names]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert written[2].read_text().splitlines() == [
        "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay",
        "0.613,0.600,0.700,-0.031,0.625,0.010,0.123",
    ]
    assert written[3].read_text().splitlines() == ["Sequence,J-Mean,F-Mean", "bear_1,0.123,1.000", "bear_2,0.000,0.050"]
    assert EvaluationResult.load(written[0]).scores == FULL.scores


def test_write_of_another_data_set_has_no_official_files(tmp_path):
    result = EvaluationResult(dataset="VIP", scores={"mIoU": 1.0}, per_video={}, details={"split": "val"})
    assert [path.name for path in result.write(tmp_path)] == ["scores.json", "scores.md"]


def test_tables_show_names_that_would_command_the_terminal_or_break_a_line():
    result = EvaluationResult(dataset="VIP", scores={"mIoU": 50.0}, per_video={"a\n\x1b]0;b\x07": {"mIoU": 50.0}})
    shown = r"a\n\x1b]0;b\x07"
    assert f"{shown}  50.0" in result.table().splitlines()
    assert f"| {shown} | 50.0 |" in result.markdown().splitlines()
