"""J and F of real predicted masks on real annotations, against a statement by distance transforms, frame by frame.

All frames of the development sequences: ``pytest -m slow tests/evaluation/test_davis_independent.py``.
"""

import math

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

import siammae
from siammae.evaluation import evaluate_davis
from siammae.features import PixelExtractor
from siammae.metrics import boundary_measure, region_similarity

RULES = siammae.PropagationConfig(resize=120, radius=4, queue_length=2)


def contour(mask):
    """Pixels that differ from the right, lower or lower right one; beyond the border lies what is on it."""
    around = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (around[:-1, 1:] != mask) | (around[1:, :-1] != mask) | (around[1:, 1:] != mask)


def independent_j_and_f(mine, true):
    either = (mine | true).sum()
    j = (mine & true).sum() / either if either else 1.0
    radius = math.ceil(0.008 * np.linalg.norm(true.shape))
    found, wanted = contour(mine), contour(true)
    if not found.any() or not wanted.any():
        return j, float(not found.any() and not wanted.any())
    precision = (distance_transform_edt(~wanted)[found] <= radius).mean()
    recall = (distance_transform_edt(~found)[wanted] <= radius).mean()
    return j, 2 * precision * recall / max(precision + recall, 1e-12)


def check(root, out, extractor, config, sequences):
    """Compare every scored frame of a run, and the run's own scores; returns the number of frames."""
    result = evaluate_davis(extractor, root, year=2016, split="dev", config=config, sequences=sequences, output_dir=out)
    means, frames = [], 0
    for name in result.per_video:
        expected = []
        for path in sorted((root / "Annotations" / "480p" / name).iterdir())[1:-1]:
            true, mine = (np.array(Image.open(file)) > 0 for file in (path, out / name / path.name))
            expected.append(independent_j_and_f(mine, true))
            got = region_similarity(mine, true), boundary_measure(mine, true)
            assert got == pytest.approx(expected[-1], abs=1e-6, rel=0), f"{name}/{path.name}"
        frames += len(expected)
        means.append(100 * np.mean(expected, axis=0))
        assert result.per_video[name]["J"] == pytest.approx(means[-1][0], abs=1e-6)
        assert result.per_video[name]["F"] == pytest.approx(means[-1][1], abs=1e-6)
    j, f = np.mean(means, axis=0)
    assert [result.scores[key] for key in ("J", "F", "J&F")] == pytest.approx([j, f, (j + f) / 2], abs=1e-6)
    assert 5 < result.scores["J&F"] < 95, "the masks are neither empty nor the annotations"
    return frames


@pytest.mark.shared_data
def test_j_and_f_of_real_predictions_equal_the_independent_statement(shared_data, tmp_path):
    root = shared_data / "data" / "DAVIS"
    assert check(root, tmp_path / "out", PixelExtractor(8), RULES, ["rollerblade", "surf"]) == 86


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize("model", ["siammae-ti8", "rgb"])
def test_j_and_f_of_all_frames_equal_the_independent_statement(shared_data, tmp_path, model):
    root = shared_data / "data" / "DAVIS"
    extractor = PixelExtractor(8) if model == "rgb" else siammae.SiamMAE.from_pretrained(model)
    assert check(root, tmp_path / "out", extractor, None, None) == 443 - 2 * 7
