import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from siammae import errors
from siammae.config import PropagationConfig
from siammae.evaluation import evaluate_vip, score_vip
from siammae.evaluation.vip import evaluation as vip
from siammae.features import PixelExtractor

SIZE = (12, 20)
NAMES = ("000000000001", "000000000004", "000000000010")  # official frames are numbered with gaps


def write_png(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)


def write_video(root, name, masks):
    for stem, labels in zip(NAMES, masks, strict=True):
        frame = root / "Images" / name / f"{stem}.jpg"
        frame.parent.mkdir(parents=True, exist_ok=True)
        colours = np.stack([labels * 60, 255 - labels * 50, labels * 20], axis=-1).astype(np.uint8)
        Image.fromarray(colours).save(frame, quality=95)
        write_png(root / "Annotations" / "Category_ids" / name / f"{stem}.png", labels)


def write_list(root, names, split="val"):
    (root / "lists").mkdir(parents=True, exist_ok=True)
    (root / "lists" / f"{split}_videos.txt").write_text("\n".join(names) + "\n")


def parts(shift, late=None):
    """A hat (1) and trousers (8) that move right by ``shift`` a frame; ``late`` is an id from the second frame on."""
    masks = np.zeros((len(NAMES), *SIZE), np.uint8)
    for index, labels in enumerate(masks):
        labels[1:4, 2 + shift * index : 7 + shift * index] = 1
        labels[5:11, 3 + shift * index : 9 + shift * index] = 8
        if late and index:
            labels[5:9, 16:19] = late
    return masks


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "VIP"
    write_video(root, "videos102", parts(1, late=9))
    write_video(root, "videos12", parts(3))
    write_list(root, ["videos102", "videos12", ""])
    return root


class StillPropagator:
    """Repeats the first mask, void as background; ``fail_at`` counts frames over all videos."""

    fail_at = math.inf
    frames = 0
    masks: list  # first masks
    calls: list  # extractor, config, kernels

    def __init__(self, extractor, config, *, kernels):
        self.mask = None
        type(self).calls.append((extractor, config, kernels))

    def step(self, frame, *, mask=None):
        assert frame.shape == (*SIZE, 3)
        assert (mask is None) == (self.mask is not None), "the mask comes with the first frame, and only there"
        if type(self).frames >= self.fail_at:
            raise RuntimeError("out of memory")
        type(self).frames += 1
        if mask is not None:
            mask = np.asarray(mask)
            type(self).masks.append(mask)
            self.mask = np.where(mask == 255, np.uint8(0), mask)
        return SimpleNamespace(label_map=lambda: self.mask)


@pytest.fixture
def still(monkeypatch):
    """Put a propagator in place that costs nothing and whose answers are known."""
    fake = type("Still", (StillPropagator,), {"calls": [], "masks": []})
    monkeypatch.setattr(vip, "Propagator", fake)
    return fake


def loop_ious(pairs, num_classes, ignore=None):
    """IoU of every class over all pixels of all (prediction, truth), one pixel at a time; None where undefined."""
    inside, either = np.zeros(num_classes), np.zeros(num_classes)
    for prediction, truth in pairs:
        for mine, true in zip(prediction.ravel(), truth.ravel(), strict=True):
            if true == ignore:
                continue
            for label in {int(mine), int(true)}:
                either[label] += 1
                inside[label] += mine == true
    return [100 * i / e if e and c != ignore else None for c, (i, e) in enumerate(zip(inside, either, strict=True))]


def mean(values):
    kept = [value for value in values if value is not None]
    return sum(kept) / len(kept)


def repeat_first(masks, ids):
    first = np.where(np.isin(masks[0], ids), masks[0], 0)
    return [(first, truth) for truth in masks]


def without_seconds(result):
    return result.scores, result.per_video, {k: v for k, v in result.details.items() if k != "seconds"}


def test_score_vip_when_truth_is_the_result_gives_100(tree):
    result = score_vip(tree / "Annotations" / "Category_ids", tree)
    assert result.dataset == "VIP"
    assert result.config is None
    assert result.scores == {"mIoU": 100}
    assert result.per_video == {"videos102": {"mIoU": 100}, "videos12": {"mIoU": 100}}
    assert result.details["per_class"] == {"0": 100, "1": 100, "8": 100, "9": 100}
    assert result.details["frames"] == 2 * len(NAMES)


def test_evaluate_vip_when_masks_stand_still_equals_pixel_loop_over_all_videos(tree, still):
    result = evaluate_vip(PixelExtractor(4), tree)
    videos = {"videos102": repeat_first(parts(1, late=9), [1, 8]), "videos12": repeat_first(parts(3), [1, 8])}
    expected = loop_ious([pair for pairs in videos.values() for pair in pairs], 20)
    assert result.scores["mIoU"] == pytest.approx(mean(expected))
    assert expected[9] == 0, "a class that appears late cannot be predicted and counts"
    seen = {str(i): iou for i, iou in enumerate(expected) if iou is not None}
    assert result.details["per_class"] == pytest.approx(seen)
    for name, pairs in videos.items():
        assert result.per_video[name]["mIoU"] == pytest.approx(mean(loop_ious(pairs, 20)))
    assert result.scores["mIoU"] != pytest.approx(np.mean([row["mIoU"] for row in result.per_video.values()]))


def test_first_frame_counts(tree, tmp_path):
    results = tmp_path / "results"
    for name, masks in (("videos102", parts(1, late=9)), ("videos12", parts(3))):
        for stem, labels in zip(NAMES, masks, strict=True):
            write_png(results / name / f"{stem}.png", labels)
    write_png(results / "videos12" / f"{NAMES[0]}.png", np.zeros(SIZE))
    assert score_vip(results, tree).per_video["videos12"]["mIoU"] < 100


def test_ignore_index_when_given_is_neither_followed_nor_counted(tree, still):
    result = evaluate_vip(PixelExtractor(4), tree, ignore_index=8)
    assert {int(i) for mask in still.masks for i in np.unique(mask)} == {0, 1, 255}
    pairs = repeat_first(parts(1, late=9), [1]) + repeat_first(parts(3), [1])
    expected = loop_ious(pairs, 20, ignore=8)
    assert result.scores["mIoU"] == pytest.approx(mean(expected))
    assert set(result.details["per_class"]) == {"0", "1", "9"}


def test_ignore_index_when_ready_results_predict_it_makes_errors_but_no_class(tree, tmp_path):
    truth = {"videos102": parts(1, late=9), "videos12": parts(3)}
    pairs = []
    for name, masks in truth.items():
        for stem, labels in zip(NAMES, masks, strict=True):
            prediction = np.where(labels == 1, 9, labels).astype(np.uint8)
            write_png(tmp_path / "results" / name / f"{stem}.png", prediction)
            pairs.append((prediction, labels))
    result = score_vip(tmp_path / "results", tree, ignore_index=9)
    expected = loop_ious(pairs, 20, ignore=9)
    assert expected[1] == 0
    assert result.scores["mIoU"] == pytest.approx(mean(expected))


def test_ignore_index_of_255_is_void(tree, still):
    void = parts(1)
    void[:, :, -4:] = 255
    write_video(tree, "videos12", void)
    result = evaluate_vip(PixelExtractor(4), tree, videos=["videos12"], ignore_index=255)
    expected = loop_ious(repeat_first(void, [1, 8]), 256, ignore=255)
    assert result.scores["mIoU"] == pytest.approx(mean(expected))


def test_scores_when_every_pixel_is_ignored_are_nan(tree, still):
    write_video(tree, "videos12", np.full((len(NAMES), *SIZE), 11, np.uint8))
    result = evaluate_vip(PixelExtractor(4), tree, videos=["videos12"], ignore_index=11)
    assert math.isnan(result.scores["mIoU"])
    assert math.isnan(result.per_video["videos12"]["mIoU"])


def test_video_when_first_frame_shows_background_only_is_predicted_as_that(tree, still):
    masks = parts(1)
    masks[0] = 0
    write_video(tree, "videos12", masks)
    result = evaluate_vip(PixelExtractor(4), tree, videos=["videos12"])
    assert still.frames == 0
    assert result.scores["mIoU"] == pytest.approx(mean(loop_ious([(masks[0], truth) for truth in masks], 20)))


def test_score_vip_when_sizes_differ_resizes_by_nearest_neighbour(tree, tmp_path):
    pairs = []
    for stem, labels in zip(NAMES, parts(3), strict=True):
        small = labels[::2, ::2]
        write_png(tmp_path / "results" / "videos12" / f"{stem}.png", small)
        pairs.append((np.repeat(np.repeat(small, 2, axis=0), 2, axis=1), labels))
    result = score_vip(tmp_path / "results", tree, videos=["videos12"])
    assert result.scores["mIoU"] == pytest.approx(mean(loop_ious(pairs, 20)))
    assert result.scores["mIoU"] < 100


def test_propagator_when_called_gets_the_settings(tree, still):
    model, config = PixelExtractor(4), PropagationConfig(top_k=3)
    result = evaluate_vip(model, tree, config=config, kernels="reference", videos=["videos12", "videos12"])
    assert still.calls == [(model, config, "reference")]
    assert still.masks[0].dtype == np.uint8
    assert result.config == config
    assert list(result.per_video) == ["videos12"]


def test_config_when_none_is_the_recommendation_of_the_model(tree, still):
    model = PixelExtractor(4)
    assert evaluate_vip(model, tree).config == PropagationConfig()
    model.propagation = PropagationConfig(top_k=2)
    assert evaluate_vip(model, tree).config == model.propagation


def test_evaluate_vip_with_real_propagator_follows_moving_parts(tree):
    config = PropagationConfig(resize=SIZE, temperature=0.05, top_k=1)
    result = evaluate_vip(PixelExtractor(2), tree, config=config, kernels="reference", videos=["videos12"])
    assert result.scores["mIoU"] > 65
    assert result.details["model"] == "PixelExtractor"


def test_output_dir_when_given_changes_no_score_and_can_be_scored_again(tree, still, tmp_path):
    in_memory = evaluate_vip(PixelExtractor(4), tree)
    written = evaluate_vip(PixelExtractor(4), tree, output_dir=tmp_path / "out")
    assert without_seconds(written) == without_seconds(in_memory)
    assert score_vip(tmp_path / "out", tree).scores == in_memory.scores
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("config.json", "scores.json", "scores.md", "videos102", "videos12")
    ]
    assert sorted(path.stem for path in (tmp_path / "out" / "videos12").iterdir()) == list(NAMES)


def test_output_dir_after_failure_has_whole_videos_only_and_goes_on(tree, still, tmp_path):
    out, still.fail_at = tmp_path / "out", len(NAMES) + 2
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate_vip(PixelExtractor(4), tree, output_dir=out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "videos102"]
    still.fail_at, still.frames = math.inf, 0
    resumed = evaluate_vip(PixelExtractor(4), tree, output_dir=out)
    assert still.frames == len(NAMES), "the finished video is not computed again"
    assert resumed.scores == evaluate_vip(PixelExtractor(4), tree).scores


def test_output_dir_when_setting_or_void_differs_is_refused(tree, still, tmp_path):
    evaluate_vip(PixelExtractor(4), tree, output_dir=tmp_path)
    with pytest.raises(ValueError, match="another model or setting"):
        evaluate_vip(PixelExtractor(4), tree, output_dir=tmp_path, ignore_index=8)
    with pytest.raises(ValueError, match="another model or setting"):
        evaluate_vip(PixelExtractor(4), tree, output_dir=tmp_path, config=PropagationConfig(top_k=2))


def test_progress_when_true_counts_every_frame_once(tree, still, capsys):
    evaluate_vip(PixelExtractor(4), tree, progress=True)
    assert f"{2 * len(NAMES)}/{2 * len(NAMES)}" in capsys.readouterr().err
    evaluate_vip(PixelExtractor(4), tree)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("lists/val_videos.txt", ""),
        ("Images/videos12", "/000000000001.jpg"),
        ("Annotations/Category_ids/videos12", "/000000000001.png"),
        ("Annotations/Category_ids/videos102/000000000010.png", ""),
    ],
)
def test_layout_when_something_is_missing_names_it_and_draws_the_tree(tree, still, missing, named):
    (tree / missing).rename(tree / "away")
    for run in (lambda: evaluate_vip(PixelExtractor(4), tree), lambda: score_vip(tree, tree)):
        with pytest.raises(errors.DatasetError, match=rf"no .*{missing}{named}: VIP is expected as") as caught:
            run()
        assert "├── Annotations/Category_ids/<video>/*.png" in str(caught.value)
        assert "lists/val_videos.txt" in str(caught.value)


def test_layout_when_list_is_empty_says_so(tree):
    write_list(tree, [""], split="train")
    with pytest.raises(errors.DatasetError, match=r"train_videos\.txt lists no video"):
        score_vip(tree, tree, split="train")


def test_options_when_out_of_range_are_refused(tree):
    with pytest.raises(ValueError, match="num_classes is 0: it must be 1 to 255"):
        score_vip(tree, tree, num_classes=0)
    with pytest.raises(ValueError, match="ignore_index is 256: it must be 0 to 255, or None"):
        evaluate_vip(PixelExtractor(4), tree, ignore_index=256)
    with pytest.raises(ValueError, match=r"unknown videos \['videos1'\]: val has videos102, videos12"):
        score_vip(tree, tree, videos=["videos1"])
    with pytest.raises(ValueError, match="videos is empty"):
        score_vip(tree, tree, videos=[])


def test_score_vip_when_a_frame_is_missing_names_the_first(tree):
    with pytest.raises(errors.DatasetError, match=r"no .*results/videos102/000000000001\.png: results need a PNG"):
        score_vip(tree / "results", tree)


def test_ids_when_out_of_range_name_the_frame_and_the_options(tree, tmp_path):
    truth = tree / "Annotations" / "Category_ids"
    place = r"videos102/000000000004\.png: truth has label 9: allowed are 0 to 8.*Set num_classes and ignore_index"
    with pytest.raises(ValueError, match=place):
        score_vip(truth, tree, num_classes=9)
    for path in (truth / "videos12").iterdir():
        write_png(tmp_path / "results" / "videos12" / path.name, np.full(SIZE, 255))
    with pytest.raises(ValueError, match=r"videos12/000000000001\.png: prediction has label 255"):
        score_vip(tmp_path / "results", tree, videos=["videos12"])


# ---------------------------------------------------------------- real annotations


@pytest.fixture
def street(shared_data, tmp_path):
    """Every twelfth of the real frames, in the official layout; ids 0 to 11, of which 11 is void."""
    source, root = shared_data / "data" / "CamVid-as-VIP", tmp_path / "CamVid"
    for kind in ("Images", "Annotations/Category_ids"):
        (root / kind / "videos1").mkdir(parents=True)
        for path in sorted((source / kind / "videos1").iterdir())[::12]:
            (root / kind / "videos1" / path.name).symlink_to(path.resolve())
    write_list(root, ["videos1"])
    return root


@pytest.mark.shared_data
def test_score_vip_of_real_annotations_against_themselves_is_100(street):
    result = score_vip(street / "Annotations" / "Category_ids", street, num_classes=12)
    assert result.scores["mIoU"] == 100
    assert len(result.details["per_class"]) == 12


@pytest.mark.shared_data
def test_evaluate_vip_of_real_video_gives_plausible_scores_that_score_again(street, tmp_path):
    config, rules = PropagationConfig(resize=48), {"num_classes": 11, "ignore_index": 11}
    result = evaluate_vip(PixelExtractor(8), street, config=config, output_dir=tmp_path / "out", **rules)
    assert 10 < result.scores["mIoU"] < 90
    again = score_vip(tmp_path / "out", street, **rules)
    assert again.scores == result.scores
    # The same from first principles, with sets of pixels for each class.
    mine, true = (
        np.stack([np.array(Image.open(path)) for path in sorted(folder.iterdir())])
        for folder in (tmp_path / "out" / "videos1", street / "Annotations" / "Category_ids" / "videos1")
    )
    kept = true != 11
    either = [((mine == i) | (true == i))[kept].sum() for i in range(11)]
    inside = [((mine == i) & (true == i))[kept].sum() for i in range(11)]
    expected = [100 * i / e for i, e in zip(inside, either, strict=True) if e]
    assert result.scores["mIoU"] == pytest.approx(np.mean(expected))


def test_evaluate_when_the_list_leads_out_writes_nothing_there(tree, tmp_path):
    write_video(tree, "../evil", parts(1))
    write_list(tree, ["videos12", "../evil"])
    with pytest.raises(errors.DatasetError, match=r"val lists '\.\./evil'"):
        evaluate_vip(PixelExtractor(4), tree, output_dir=tmp_path / "out" / "masks")
    assert not (tmp_path / "out").exists()


def test_evaluate_when_the_list_is_no_text_names_it(tree):
    (tree / "lists" / "val_videos.txt").write_bytes(b"videos12\n\xff\n")
    with pytest.raises(ValueError, match=r"val_videos\.txt is no UTF-8 text \(invalid start byte\): save it as UTF-8"):
        evaluate_vip(PixelExtractor(4), tree)
