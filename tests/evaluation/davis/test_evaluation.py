import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from siammae import errors
from siammae.config import PropagationConfig
from siammae.evaluation import evaluate_davis, score_davis
from siammae.evaluation.davis import evaluation as davis
from siammae.features import PixelExtractor

SIZE = (24, 40)
FRAMES = 6


def write_png(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i)])
    image.save(path)


def write_video(root, name, masks, *, palette=True):
    """Write frames whose colours follow the ids, and their annotations."""
    for index, labels in enumerate(masks):
        frame = root / "JPEGImages" / "480p" / name / f"{index:05d}.jpg"
        frame.parent.mkdir(parents=True, exist_ok=True)
        colours = np.stack([labels * 90, 255 - labels * 60, labels * 30], axis=-1).astype(np.uint8)
        Image.fromarray(colours).save(frame, quality=95)
        path = root / "Annotations" / "480p" / name / f"{index:05d}.png"
        if palette:
            write_png(path, labels)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels.astype(np.uint8)).save(path)


def write_list(root, year, lines, split="val"):
    path = root / "ImageSets" / str(year) / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def boxes(shift=0, frames=FRAMES, second=True):
    """Two boxes that move right by ``shift`` pixels a frame."""
    masks = np.zeros((frames, *SIZE), np.uint8)
    for index, labels in enumerate(masks):
        labels[2:10, 4 + shift * index : 12 + shift * index] = 1
        if second:
            labels[12:22, 8 + shift * index : 20 + shift * index] = 2
    return masks


@pytest.fixture
def davis_2017(tmp_path):
    """Two sequences: two objects with void at the side and a third object from frame 2 on, and one object."""
    root = tmp_path / "DAVIS"
    pair = boxes(shift=1)
    pair[:, :, -3:] = 255
    pair[2:, :2, 30:34] = 3  # appears late: never scored
    write_video(root, "pair", pair)
    write_video(root, "solo", boxes(shift=2, second=False))
    write_list(root, 2017, ["pair", "solo", ""])
    return root


@pytest.fixture
def davis_2016(tmp_path):
    root = tmp_path / "DAVIS-2016"
    for name, shift in (("bear", 1), ("bmx-bumps", 2)):
        write_video(root, name, boxes(shift, second=False) * 255, palette=False)
    lines = [
        f"/JPEGImages/480p/{name}/{i:05d}.jpg /Annotations/480p/{name}/{i:05d}.png"
        for name in ("bear", "bmx-bumps")
        for i in range(FRAMES)
    ]
    write_list(root, 2016, lines)
    return root


class StillPropagator:
    """Repeats the first mask; ``fail_at`` counts frames over all sequences."""

    fail_at = math.inf
    frames = 0
    calls: list  # one entry for each propagator: extractor, config, kernels

    def __init__(self, extractor, config, *, kernels):
        self.mask = None
        type(self).calls.append((extractor, config, kernels))

    def step(self, frame, *, mask=None):
        assert frame.shape == (*SIZE, 3)
        assert frame.dtype == np.uint8
        assert (mask is None) == (self.mask is not None), "the mask comes with the first frame, and only there"
        if type(self).frames >= self.fail_at:
            raise RuntimeError("out of memory")
        type(self).frames += 1
        self.mask = self.mask if mask is None else np.asarray(mask)
        return SimpleNamespace(label_map=lambda: self.mask)


@pytest.fixture
def still(monkeypatch):
    """Put a propagator in place that costs nothing and whose answers are known."""
    fake = type("Still", (StillPropagator,), {"calls": []})
    monkeypatch.setattr(davis, "Propagator", fake)
    return fake


def without_seconds(result):
    return result.scores, result.per_video, {k: v for k, v in result.details.items() if k != "seconds"}


def box_j(height, width, dx):
    """J of a box with its copy ``dx`` to the right."""
    inside = height * max(width - dx, 0)
    return 100 * inside / (2 * height * width - inside)


def test_score_davis_when_truth_is_the_result_gives_100(davis_2017):
    write_ids(davis_2017, "results")
    result = score_davis(davis_2017 / "results", davis_2017)
    assert result.dataset == "DAVIS-2017"
    assert result.config is None
    perfect = {"J&F": 100, "J": 100, "F": 100, "J-Recall": 100, "J-Decay": 0, "F-Recall": 100, "F-Decay": 0}
    assert result.scores == perfect
    assert result.per_video == {"pair": perfect, "solo": perfect}
    assert set(result.details["per_object"]) == {"pair_1", "pair_2", "solo_1"}
    assert result.details["frames"] == 2 * FRAMES


def write_ids(root, folder, change=lambda labels: labels):
    """Write annotations as results, ids 1 and 2 only."""
    for path in sorted((root / "Annotations" / "480p").rglob("*.png")):
        labels = np.array(Image.open(path))
        write_png(root / folder / path.parent.name / path.name, change(np.where(labels > 2, 0, labels)))


def test_evaluate_davis_when_masks_stand_still_has_the_j_of_shifted_boxes(davis_2017, still):
    result = evaluate_davis(PixelExtractor(4), davis_2017)
    # Frames 1 to 4 are scored: the boxes are 1 to 4 pixels off in "pair", 2 to 8 in "solo".
    first = np.mean([box_j(8, 8, dx) for dx in (1, 2, 3, 4)])
    second = np.mean([box_j(10, 12, dx) for dx in (1, 2, 3, 4)])
    alone = np.mean([box_j(8, 8, dx) for dx in (2, 4, 6, 8)])
    assert result.per_video["pair"]["J"] == pytest.approx((first + second) / 2)
    assert result.per_video["solo"]["J"] == pytest.approx(alone)
    assert result.scores["J"] == pytest.approx((first + second + alone) / 3), "the mean is over objects"
    assert result.scores["J&F"] == pytest.approx((result.scores["J"] + result.scores["F"]) / 2)
    assert result.details["per_object"]["pair_2"]["J"] == pytest.approx(second)
    recall = [box_j(8, 8, dx) > 50 for dx in (1, 2, 3, 4)]
    assert result.details["per_object"]["pair_1"]["J-Recall"] == pytest.approx(100 * np.mean(recall))
    # Four frames: cuts at 1, 2, 3, 3, 4 after rounding halves up; first quarter {1, 2}, last {3, 4}.
    decay = (box_j(8, 8, 1) + box_j(8, 8, 2) - box_j(8, 8, 3) - box_j(8, 8, 4)) / 2
    assert result.details["per_object"]["pair_1"]["J-Decay"] == pytest.approx(decay)
    assert result.table().splitlines()[-1].startswith("mean")


def test_evaluate_davis_in_2016_takes_every_nonzero_pixel_as_the_object(davis_2016, still):
    result = evaluate_davis(PixelExtractor(4), davis_2016, year=2016)
    assert result.dataset == "DAVIS-2016"
    expected = [np.mean([box_j(8, 8, s * i) for i in (1, 2, 3, 4)]) for s in (1, 2)]
    assert [row["J"] for row in result.per_video.values()] == pytest.approx(expected)
    assert result.scores["J"] == pytest.approx(np.mean(expected))


def test_list_of_2016_when_it_has_bare_names_gives_the_same(davis_2016, still):
    paths = evaluate_davis(PixelExtractor(4), davis_2016, year=2016)
    write_list(davis_2016, 2016, ["bear", "bmx-bumps"])
    names = evaluate_davis(PixelExtractor(4), davis_2016, year=2016)
    assert without_seconds(paths) == without_seconds(names)


def test_score_davis_in_2016_reads_grey_and_palette_results_alike(davis_2016):
    for path in (davis_2016 / "Annotations" / "480p").rglob("*.png"):
        labels = np.array(Image.open(path))
        write_png(davis_2016 / "palette" / path.parent.name / path.name, labels // 255)
        (davis_2016 / "grey" / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(davis_2016 / "grey" / path.parent.name / path.name)
    for folder in ("palette", "grey"):
        assert score_davis(davis_2016 / folder, davis_2016, year=2016).scores["J&F"] == 100


def test_void_in_the_annotation_is_background(davis_2017):
    # Ids predicted on void are errors, as in the official semi-supervised task: nothing is left out.
    def fill(labels):
        labels = labels.copy()
        labels[:, -3:] = 1
        return labels

    write_ids(davis_2017, "results", fill)
    result = score_davis(davis_2017 / "results", davis_2017, sequences=["pair"])
    assert result.details["per_object"]["pair_1"]["J"] == pytest.approx(100 * 64 / (64 + 3 * SIZE[0]))
    assert result.details["per_object"]["pair_2"]["J"] == 100


def test_first_and_last_frame_are_not_scored(davis_2017):
    write_ids(davis_2017, "results")
    for name in ("pair", "solo"):
        for index in (0, FRAMES - 1):
            (davis_2017 / "results" / name / f"{index:05d}.png").unlink()
    assert score_davis(davis_2017 / "results", davis_2017).scores["J&F"] == 100


def test_propagator_when_called_gets_void_as_background_and_the_settings(davis_2017, still, monkeypatch):
    model, seen = PixelExtractor(4), []
    step = still.step
    monkeypatch.setattr(
        still, "step", lambda self, frame, mask=None: seen.append(np.asarray(mask)) or step(self, frame, mask=mask)
    )
    config = PropagationConfig(top_k=3)
    result = evaluate_davis(model, davis_2017, config=config, kernels="reference", sequences=["pair"])
    assert still.calls == [(model, config, "reference")]
    assert set(np.unique(seen[0])) == {0, 1, 2}
    assert seen[0].dtype == np.uint8
    assert result.config == config


def test_config_when_none_is_the_recommendation_of_the_model(davis_2017, still):
    model = PixelExtractor(4)
    assert evaluate_davis(model, davis_2017).config == PropagationConfig()
    model.propagation = None
    assert evaluate_davis(model, davis_2017).config == PropagationConfig()
    model.propagation = PropagationConfig(top_k=2)
    assert evaluate_davis(model, davis_2017).config == model.propagation


def test_sequences_when_named_are_the_only_ones_scored(davis_2017, still):
    assert list(evaluate_davis(PixelExtractor(4), davis_2017, sequences=["solo", "solo"]).per_video) == ["solo"]


def test_split_and_resolution_choose_other_folders(davis_2017, still):
    write_list(davis_2017, 2017, ["solo"], split="train")
    for kind in ("JPEGImages", "Annotations"):
        (davis_2017 / kind / "480p").rename(davis_2017 / kind / "Full-Resolution")
    result = evaluate_davis(PixelExtractor(4), davis_2017, split="train", resolution="Full-Resolution")
    assert list(result.per_video) == ["solo"]
    assert result.details["split"] == "train"


def test_evaluate_davis_with_real_propagator_follows_moving_boxes(davis_2017):
    config = PropagationConfig(resize=SIZE, temperature=0.05, top_k=1)
    result = evaluate_davis(PixelExtractor(2), davis_2017, config=config, kernels="reference", sequences=["solo"])
    assert result.scores["J"] > 90


def test_output_dir_when_given_changes_no_score_and_can_be_scored_again(davis_2017, still, tmp_path):
    in_memory = evaluate_davis(PixelExtractor(4), davis_2017)
    written = evaluate_davis(PixelExtractor(4), davis_2017, output_dir=tmp_path / "out")
    again = score_davis(tmp_path / "out", davis_2017)
    assert without_seconds(written) == without_seconds(in_memory)
    assert again.scores == in_memory.scores
    assert again.per_video == in_memory.per_video
    names = [f"{i:05d}.png" for i in range(FRAMES)]
    files = ["global_results-val.csv", "per-sequence_results-val.csv", "scores.json", "scores.md"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "pair", "solo", *files}
    assert sorted(path.name for path in (tmp_path / "out" / "pair").iterdir()) == names
    image = Image.open(tmp_path / "out" / "pair" / "00003.png")
    assert image.mode == "P"
    np.testing.assert_array_equal(np.array(image), boxes(shift=1)[0])


def test_output_dir_in_2016_holds_ids_that_score_the_same(davis_2016, still, tmp_path):
    written = evaluate_davis(PixelExtractor(4), davis_2016, year=2016, output_dir=tmp_path / "out")
    assert written.scores == evaluate_davis(PixelExtractor(4), davis_2016, year=2016).scores
    assert set(np.unique(np.array(Image.open(tmp_path / "out" / "bear" / "00001.png")))) == {0, 1}


def test_output_dir_after_failure_has_whole_sequences_only_and_goes_on(davis_2017, still, tmp_path):
    out, still.fail_at = tmp_path / "out", FRAMES + 3
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate_davis(PixelExtractor(4), davis_2017, output_dir=out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "pair"]
    assert len(list((out / "pair").iterdir())) == FRAMES

    still.fail_at, still.frames = math.inf, 0
    resumed = evaluate_davis(PixelExtractor(4), davis_2017, output_dir=out)
    assert still.frames == FRAMES, "the finished sequence is not computed again"
    assert resumed.scores == evaluate_davis(PixelExtractor(4), davis_2017).scores


def test_output_dir_when_setting_or_model_differs_is_refused(davis_2017, still, tmp_path):
    out = tmp_path / "out"
    evaluate_davis(PixelExtractor(4), davis_2017, output_dir=out)
    with pytest.raises(ValueError, match=r"out holds results of another model or setting .* choose another output"):
        evaluate_davis(PixelExtractor(4), davis_2017, output_dir=out, config=PropagationConfig(top_k=2))
    with pytest.raises(ValueError, match="another model or setting"):
        evaluate_davis(PixelExtractor(8), davis_2017, output_dir=out)
    assert json.loads((out / "config.json").read_text())["patch_size"] == 4


def test_output_dir_when_it_has_unknown_results_is_refused(davis_2017, still, tmp_path):
    (tmp_path / "out" / "solo").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"out holds solo but no config\.json"):
        evaluate_davis(PixelExtractor(4), davis_2017, output_dir=tmp_path / "out")


def test_progress_when_true_counts_every_frame_once(davis_2017, still, tmp_path, capsys):
    for _ in range(2):  # the second time all sequences are reused
        evaluate_davis(PixelExtractor(4), davis_2017, output_dir=tmp_path / "out", progress=True)
        shown = capsys.readouterr().err
        assert f"{2 * FRAMES}/{2 * FRAMES}" in shown
        assert "solo" in shown
    evaluate_davis(PixelExtractor(4), davis_2017)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "missing",
    [
        "ImageSets/2017/val.txt",
        "JPEGImages/480p/solo",
        "Annotations/480p/solo",
        "Annotations/480p/pair/00004.png",
    ],
)
def test_layout_when_something_is_missing_names_it_and_draws_the_tree(davis_2017, still, missing):
    (davis_2017 / missing).rename(davis_2017 / "away")
    first = {"JPEGImages/480p/solo": "/00000.jpg", "Annotations/480p/solo": "/00000.png"}.get(missing, "")
    for run in (lambda: evaluate_davis(PixelExtractor(4), davis_2017), lambda: score_davis(davis_2017, davis_2017)):
        with pytest.raises(errors.DatasetError, match=rf"no .*{missing}{first}: DAVIS-2017 is expected as") as caught:
            run()
        assert "├── JPEGImages/480p/<sequence>/00000.jpg" in str(caught.value)
        assert "ImageSets/2017/val.txt" in str(caught.value)
        assert isinstance(caught.value, FileNotFoundError)


def test_layout_when_list_is_empty_says_so(davis_2017, still):
    write_list(davis_2017, 2017, ["", " "])
    with pytest.raises(errors.DatasetError, match=r"val\.txt lists no sequence"):
        evaluate_davis(PixelExtractor(4), davis_2017)


def test_layout_when_sequence_is_too_short_says_so(davis_2017, still):
    write_video(davis_2017, "short", boxes(frames=2))
    write_list(davis_2017, 2017, ["short"])
    with pytest.raises(errors.DatasetError, match="short has 2 frames: 3 are needed"):
        evaluate_davis(PixelExtractor(4), davis_2017)


def test_layout_when_first_annotation_is_empty_says_so(davis_2017, still):
    write_video(davis_2017, "empty", boxes() * 0)
    write_list(davis_2017, 2017, ["empty"])
    with pytest.raises(errors.DatasetError, match=r"00000\.png shows no object"):
        score_davis(davis_2017 / "Annotations" / "480p", davis_2017)


def test_hidden_files_between_the_frames_are_ignored(davis_2017, still):
    expected = evaluate_davis(PixelExtractor(4), davis_2017)
    (davis_2017 / "JPEGImages" / "480p" / "pair" / "._00000.jpg").write_bytes(b"left by macOS")
    assert without_seconds(evaluate_davis(PixelExtractor(4), davis_2017)) == without_seconds(expected)


def test_year_and_sequences_when_unknown_are_refused(davis_2017, still):
    with pytest.raises(ValueError, match="year is 2019: DAVIS years are 2016 and 2017"):
        evaluate_davis(PixelExtractor(4), davis_2017, year=2019)
    with pytest.raises(ValueError, match=r"unknown sequences \['bear'\]: val of 2017 has pair, solo"):
        evaluate_davis(PixelExtractor(4), davis_2017, sequences=["solo", "bear"])
    with pytest.raises(ValueError, match="sequences is empty"):
        evaluate_davis(PixelExtractor(4), davis_2017, sequences=[])


def test_score_davis_when_a_frame_is_missing_names_the_first(davis_2017):
    write_ids(davis_2017, "results")
    for name in ("00004.png", "00003.png"):
        (davis_2017 / "results" / "solo" / name).unlink()
    with pytest.raises(errors.DatasetError, match=r"no .*solo/00003\.png: results need a PNG for every annotation"):
        score_davis(davis_2017 / "results", davis_2017)


def test_score_davis_when_sizes_differ_names_the_frame(davis_2017):
    write_ids(davis_2017, "results", lambda labels: labels[:, :-1])
    with pytest.raises(ValueError, match=r"pair/00001\.png: the result is \(24, 39\) but the annotation is \(24, 40\)"):
        score_davis(davis_2017 / "results", davis_2017)


def test_score_davis_when_result_has_surplus_id_names_it(davis_2017):
    write_ids(davis_2017, "results", lambda labels: np.where(labels == 2, 7, labels))
    with pytest.raises(ValueError, match=r"pair/00001\.png: the result has id 7, the first annotation's largest is 2"):
        score_davis(davis_2017 / "results", davis_2017)


# ---------------------------------------------------------------- real annotations


def near(contour, others, radius):
    """Which contour pixels have one of the others within the radius, by all pairwise distances."""
    points, targets = np.argwhere(contour), np.argwhere(others)
    square = ((points[:, None] - targets[None]) ** 2).sum(-1)
    return (square.min(axis=1) <= radius**2).mean()


def outline(mask):
    """The contour rule on a mask whose border is background: one padded array, three differences."""
    assert not np.concatenate([mask[-1], mask[:, -1]]).any()
    padded = np.pad(mask, ((0, 1), (0, 1)))
    return (padded[:-1, 1:] != mask) | (padded[1:, :-1] != mask) | (padded[1:, 1:] != mask)


def j_and_f(mine, true, radius):
    j = (mine & true).sum() / (mine | true).sum()
    precision, recall = (
        near(outline(mine), outline(true), radius),
        near(outline(true), outline(mine), radius),
    )
    return j, 2 * precision * recall / max(precision + recall, 1e-12)


@pytest.fixture
def hockey(shared_data, tmp_path):
    """Every fifth frame of one real sequence, in the official layout."""
    source, root = shared_data / "data" / "DAVIS", tmp_path / "DAVIS"
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "480p" / "hockey").mkdir(parents=True)
        for path in sorted((source / kind / "480p" / "hockey").iterdir())[::5]:
            (root / kind / "480p" / "hockey" / path.name).symlink_to(path.resolve())
    write_list(root, 2016, ["hockey"], split="dev")
    return root


def shifted(root, folder, dx):
    for path in (root / "Annotations" / "480p" / "hockey").iterdir():
        write_png(root / folder / "hockey" / path.name, np.roll(np.array(Image.open(path)) > 0, dx, axis=1))
    return root / folder


@pytest.mark.shared_data
def test_score_davis_of_real_annotations_against_themselves_is_100(hockey):
    result = score_davis(shifted(hockey, "same", 0), hockey, year=2016, split="dev")
    assert result.scores["J&F"] == result.scores["J-Recall"] == 100
    assert result.details["frames"] == 15


@pytest.mark.shared_data
@pytest.mark.parametrize("dx", [-4, -30])
def test_score_davis_of_shifted_real_annotations_equals_pairwise_distances(hockey, dx):
    result = score_davis(shifted(hockey, "shifted", dx), hockey, year=2016, split="dev")
    expected = []
    for path in sorted((hockey / "Annotations" / "480p" / "hockey").iterdir())[1:-1]:
        truth = np.array(Image.open(path)) > 0
        expected.append(j_and_f(np.roll(truth, dx, axis=1), truth, radius=8))
    j, f = 100 * np.mean(expected, axis=0)
    assert result.scores["J"] == pytest.approx(j)
    assert result.scores["F"] == pytest.approx(f)


def test_evaluate_when_the_list_leads_out_writes_nothing_there(davis_2017, tmp_path):
    write_video(davis_2017, "../evil", boxes())
    for line in ("..", "/a/../b.jpg"):
        write_list(davis_2017, 2017, [line])
        with pytest.raises(errors.DatasetError, match=r"val of 2017 lists '\.\.'"):
            evaluate_davis(PixelExtractor(4), davis_2017, output_dir=tmp_path / "out" / "masks")
    assert not (tmp_path / "out").exists()
