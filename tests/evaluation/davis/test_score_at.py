"""DAVIS scored at another size than the annotations', against pairwise distances at that size."""

import math

import numpy as np
import pytest
from PIL import Image

from siammae.config import PropagationConfig
from siammae.evaluation import evaluate_davis, score_davis
from siammae.evaluation.davis import evaluation as davis
from siammae.features import PixelExtractor
from siammae.propagation.propagator import Propagator
from tests.evaluation.davis.test_evaluation import boxes, j_and_f, write_ids, write_list, write_png, write_video

FAMILY = (480, 880)


def enlarged(labels, size):
    """Nearest neighbour by pixel centres."""
    rows, columns = [
        [(2 * i + 1) * old // (2 * new) for i in range(new)] for old, new in zip(labels.shape, size, strict=True)
    ]
    return labels[rows][:, columns]


@pytest.fixture
def root(tmp_path):
    """One sequence of 4 frames with a moving box, 24 x 40."""
    path = tmp_path / "DAVIS"
    write_video(path, "solo", boxes(shift=1, frames=4, second=False))
    write_list(path, 2017, ["solo"])
    return path


def truth_at(root, size):
    paths = sorted((root / "Annotations" / "480p" / "solo").iterdir())
    return [enlarged(np.array(Image.open(path)), size) for path in paths]


@pytest.mark.parametrize("dx", [0, 2])
@pytest.mark.parametrize("size", [FAMILY, (30, 37)])
def test_score_davis_at_a_size_resizes_both_by_nearest_neighbour(root, size, dx):
    write_ids(root, "results", lambda labels: np.roll(labels, dx, axis=1))
    result = score_davis(root / "results", root, score_at=size)
    moved = [enlarged(np.roll(labels, dx, axis=1), size) == 1 for labels in boxes(1, 4, second=False)[1:-1]]
    radius = math.ceil(0.008 * math.sqrt(size[0] ** 2 + size[1] ** 2))
    expected = [j_and_f(mine, true == 1, radius) for mine, true in zip(moved, truth_at(root, size)[1:-1], strict=True)]
    assert [result.scores["J"], result.scores["F"]] == pytest.approx(list(100 * np.mean(expected, axis=0)))
    assert result.details["score_at"] == list(size)
    assert result.dataset == f"DAVIS-2017 at {size[0]}x{size[1]}"


@pytest.mark.parametrize(("dx", "matched"), [(9, True), (10, False)])
def test_score_davis_at_480x880_lets_a_boundary_be_9_pixels_off(root, dx, matched):
    for index, labels in enumerate(truth_at(root, FAMILY)):
        write_png(root / "results" / "solo" / f"{index:05d}.png", np.roll(labels, dx, axis=1))
    result = score_davis(root / "results", root, score_at=FAMILY)
    assert (result.scores["F"] == 100) == matched
    with pytest.raises(
        ValueError, match=r"the result is \(480, 880\) but the annotation is \(24, 40\): sizes must agr"
    ):
        score_davis(root / "results", root)


def test_score_davis_when_a_result_has_neither_size_names_both(root):
    write_ids(root, "results", lambda labels: labels[:-1])
    message = r"is \(23, 40\) but the annotation is \(24, 40\): .* or the result have that of score_at, \(30, 37\)"
    with pytest.raises(ValueError, match=message):
        score_davis(root / "results", root, score_at=(30, 37))


@pytest.mark.parametrize("score_at", ["480x880", (480,), (480, 0), [480, 880]])
def test_score_at_when_it_is_no_size_is_refused(root, score_at):
    message = r"score_at is .*: it must be 'native' or \(H, W\), each at least 1"
    with pytest.raises(ValueError, match=message):
        evaluate_davis(PixelExtractor(4), root, score_at=score_at)
    with pytest.raises(ValueError, match=message):
        score_davis(root / "results", root, score_at=score_at)


@pytest.mark.parametrize("upsample_to", ["input", "frame"])
def test_evaluate_davis_at_a_size_renders_there(root, upsample_to):
    size = (48, 88)
    config = PropagationConfig(resize=size, radius=4, first_labels="bilinear", upsample_to=upsample_to)
    result = evaluate_davis(PixelExtractor(4), root, config=config, score_at=size)
    follow, expected, resized = Propagator(PixelExtractor(4), config), [], []
    for index, true in enumerate(truth_at(root, size)):
        frame = np.array(Image.open(root / "JPEGImages" / "480p" / "solo" / f"{index:05d}.jpg"))
        masks = follow.step(frame, mask=boxes(1, 4, second=False)[0] if index == 0 else None)
        if index in (1, 2):
            expected.append(j_and_f(masks.label_map(size) == 1, true == 1, radius=1)[0])
            resized.append(j_and_f(enlarged(masks.label_map(), size) == 1, true == 1, radius=1)[0])
    assert result.scores["J"] == pytest.approx(100 * np.mean(expected))
    assert expected != resized, "a rendering is finer than a resized one"


def test_evaluate_davis_at_a_size_keeps_both_renderings_and_reads_them_again(root, tmp_path, monkeypatch):
    config, out = PropagationConfig(resize=(48, 88), radius=4), tmp_path / "out"
    run = {"config": config, "output_dir": out}
    plain = [evaluate_davis(PixelExtractor(4), root, config=config, score_at=at).scores for at in ("native", (48, 88))]
    assert evaluate_davis(PixelExtractor(4), root, score_at=(48, 88), **run).scores == plain[1]
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_dir()) == [
        *("48x88", "48x88/solo", "solo")
    ]
    assert np.array(Image.open(out / "48x88" / "solo" / "00001.png")).shape == (48, 88)
    assert np.array(Image.open(out / "solo" / "00001.png")).shape == (24, 40)
    monkeypatch.setattr(davis.Propagator, "step", lambda *_: pytest.fail("the video is followed again"))
    assert evaluate_davis(PixelExtractor(4), root, **run).scores == plain[0]
    assert evaluate_davis(PixelExtractor(4), root, score_at=(48, 88), **run).scores == plain[1]
    assert score_davis(out / "48x88", root, score_at=(48, 88)).scores == plain[1]


def test_evaluate_davis_when_the_native_rendering_is_there_adds_the_other(root, tmp_path):
    run = {"config": PropagationConfig(resize=(48, 88), radius=4), "output_dir": tmp_path / "out"}
    evaluate_davis(PixelExtractor(4), root, **run)
    before = (tmp_path / "out" / "solo" / "00001.png").stat().st_mtime_ns
    added = evaluate_davis(PixelExtractor(4), root, score_at=(48, 88), **run)
    assert score_davis(tmp_path / "out" / "48x88", root, score_at=(48, 88)).scores == added.scores
    assert (tmp_path / "out" / "solo" / "00001.png").stat().st_mtime_ns == before
