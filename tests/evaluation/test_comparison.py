import json
import sys

import pytest
from PIL import Image

import siammae
from siammae.config import PropagationConfig
from siammae.evaluation import Comparison, compare, evaluate_davis
from siammae.features import PixelExtractor
from tests.evaluation.toy import CountingExtractor, write_davis

RULES = {
    "near": PropagationConfig(radius=2, queue_length=1),
    "far": PropagationConfig(radius=6, queue_length=2, size_multiple=16, interpolation="bilinear"),
}
BOTH = ("native", (40, 64))


@pytest.fixture
def root(tmp_path):
    return write_davis(tmp_path / "DAVIS")


def test_compare_equals_one_evaluation_for_each_row(root):
    models = {"eight": PixelExtractor(8), "four": PixelExtractor(4)}
    rows = compare("davis", root, models, RULES, short_sides=[16, 32]).results
    expected = [
        evaluate_davis(model, root, config=config.replace(resize=side))
        for model in models.values()
        for config in RULES.values()
        for side in (16, 32)
    ]
    assert [row.scores for row in rows] == [one.scores for one in expected]
    assert [row.per_video for row in rows] == [one.per_video for one in expected]
    assert [row.config for row in rows] == [one.config for one in expected]


def test_compare_makes_features_once_for_rules_that_share_an_input(root):
    extractor, frames = CountingExtractor(8), 15
    same = {name: PropagationConfig(top_k=k, radius=3) for name, k in (("a", 1), ("b", 3), ("c", 5))}
    compare("davis", root, {"rgb": extractor}, same)
    assert extractor.frames == frames
    extractor.frames = 0
    compare("davis", root, {"rgb": extractor}, RULES, short_sides=[32])
    assert extractor.frames == 2 * frames
    extractor.frames = 0
    comparison = compare("davis", root, {"rgb": extractor}, RULES, short_sides=[32], same_input=True)
    assert extractor.frames == frames
    far = comparison.results[1].config
    assert (far.size_multiple, far.interpolation, far.radius, far.resize) == (None, "area", 6, 32)


def test_compare_at_two_sizes_of_masks_follows_once(root):
    extractor = CountingExtractor(8)
    comparison = compare("davis", root, {"rgb": extractor}, {"near": RULES["near"]}, score_at=BOTH)
    assert extractor.frames == 15
    for result, size in zip(comparison.results, BOTH, strict=True):
        expected = evaluate_davis(PixelExtractor(8), root, config=RULES["near"], score_at=size)
        assert result.scores == expected.scores
    header = comparison.table().splitlines()[0].split("  ")
    assert [cell.strip() for cell in header if cell.strip()] == [
        *("model", "rules", "input", "J&F", "J", "F", "J&F at 40x64", "J at 40x64", "F at 40x64")
    ]


def test_table_shows_inputs_and_marks_those_that_are_not_the_rules_own(root):
    rules = {"own": PropagationConfig(resize=16, radius=2), "other": PropagationConfig(resize=(32, 48), radius=2)}
    comparison = compare("davis", root, {"rgb": PixelExtractor(8)}, rules, short_sides=[16])
    _, rule, own, other, note = comparison.table().splitlines()
    assert set(rule) == {"-"}
    assert own.split()[:4] == ["rgb", "own", "16x24", "(2x3)"]
    assert other.split()[:4] == ["rgb", "other*", "16x24", "(2x3)"]
    assert note == "* frames enter at this size and not as these rules have it"
    scores = [f"{comparison.results[0].scores[name]:.1f}" for name in ("J&F", "J", "F")]
    assert own.split()[-3:] == scores
    assert f"| rgb | own | 16x24 (2x3) | {' | '.join(scores)} |" in comparison.markdown().splitlines()
    assert "*" not in compare("davis", root, {"rgb": PixelExtractor(8)}, rules).table()


def test_table_when_videos_have_many_sizes_shows_two(root):
    for index, size in enumerate(((32, 56), (32, 64), (32, 72))):
        write_davis(root, ((f"more{index}", 3),), split=f"list{index}", size=size)
    (root / "ImageSets" / "2017" / "val.txt").write_text("more0\nmore1\nmore2\n")
    table = compare("davis", root, {"rgb": PixelExtractor(8)}, {"near": RULES["near"]}).table()
    assert "32x56 (4x7), 32x64 (4x8) and 1 more" in table


def test_output_dir_has_a_folder_for_each_row_and_a_second_run_reads_them(root, tmp_path):
    out = tmp_path / "out"
    first = compare("davis", root, {"a/b": PixelExtractor(8)}, RULES, output_dir=out, short_sides=[16, 32])
    folders = {"a-b-near-16", "a-b-near-32", "a-b-far-16", "a-b-far-32"}
    assert {path.name for path in out.iterdir()} == {*folders, "comparison.json", "comparison.md"}
    for name in folders:
        assert {"config.json", "a", "b", "c", "scores.json", "global_results-val.csv"} <= {
            path.name for path in (out / name).iterdir()
        }
    assert Comparison.load(out / "comparison.json").results == first.results
    assert (out / "comparison.md").read_text() == first.markdown()
    extractor = CountingExtractor(8)
    second = compare("davis", root, {"a/b": _named(extractor)}, RULES, output_dir=out, short_sides=[16, 32])
    assert extractor.frames == 0
    assert second.table() == first.table()


def _named(extractor):
    """Call a counting extractor as the class that it extends."""
    extractor.name = "PixelExtractor"
    return extractor


def test_output_dir_when_there_is_one_row_is_its_folder(root, tmp_path):
    compare("davis", root, {"rgb": PixelExtractor(8)}, {"near": RULES["near"]}, output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "a" / "00000.png").is_file()
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_configs_when_none_are_the_recommendation_of_each_model(root):
    extractor = PixelExtractor(8)
    extractor.propagation = RULES["far"]
    plain = PixelExtractor(8)
    comparison = compare("davis", root, {"far": extractor, "plain": plain})
    assert [row.config for row in comparison.results] == [RULES["far"], PropagationConfig()]
    assert [row.details["rules"] for row in comparison.results] == ["recommended"] * 2


def test_plot_is_a_picture_of_scores_against_size(root, tmp_path):
    comparison = compare("davis", root, {"rgb": PixelExtractor(8)}, RULES, short_sides=[16, 24, 32])
    comparison.plot(tmp_path / "new" / "sizes.png")
    with Image.open(tmp_path / "new" / "sizes.png") as image:
        colors = image.convert("RGB").getcolors(2**24)
    assert len(colors) > 50
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sizes.png"]


def test_plot_when_matplotlib_is_missing_says_what_to_install(root, tmp_path, monkeypatch):
    comparison = compare("davis", root, {"rgb": PixelExtractor(8)}, {"near": RULES["near"]}, sequences=["b"])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pictures of scores need matplotlib: pip install siammae\[plot\]"):
        comparison.plot(tmp_path / "sizes.png")


def test_compare_when_there_is_nothing_to_compare_is_refused(root):
    models = {"rgb": PixelExtractor(8)}
    for arguments in (({}, RULES, [16]), (models, {}, [16]), (models, RULES, [])):
        with pytest.raises(ValueError, match="there is nothing to compare: give at least one model"):
            compare("davis", root, *arguments[:2], short_sides=arguments[2])
    with pytest.raises(ValueError, match="same_input is True but there is no short side"):
        compare("davis", root, models, RULES, same_input=True)
    with pytest.raises(ValueError, match="dataset is 'youtube': it must be 'davis', 'vip' or 'jhmdb'"):
        compare("youtube", root, models)


def test_load_when_file_is_something_else_names_it(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"results": [{}]}))
    with pytest.raises(ValueError, match=r"scores\.json is not a saved comparison"):
        siammae.Comparison.load(path)
