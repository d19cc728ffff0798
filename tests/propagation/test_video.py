"""Whole videos in one call: the same as stepping by hand, whatever the source."""

import numpy as np
import pytest
import torch
from PIL import Image

from siammae.annotations.masks import read_mask, write_mask
from siammae.config import PropagationConfig
from siammae.errors import KernelUnavailableError, VideoReadError
from siammae.features import PixelExtractor
from siammae.propagation.keypoint_propagator import KeypointPropagator
from siammae.propagation.propagator import Propagator
from siammae.propagation.video import (
    VideoMasks,
    follow_keypoints,
    follow_masks,
    propagate_keypoints,
    propagate_masks,
)

SIZE = (16, 24)
RULES = {"model": PixelExtractor(2), "config": PropagationConfig(radius=4, queue_length=2)}
POINTS = np.array([[5.0, 6.0], [10.5, 9.0]])


@pytest.fixture
def video():
    """Noise with two squares that move right, and the first frame's mask."""
    frames = np.repeat(np.random.default_rng(0).integers(0, 80, (1, *SIZE, 3), dtype=np.uint8), 5, axis=0)
    for t in range(5):
        frames[t, 2:8, 2 + 2 * t : 8 + 2 * t] = (200, 120, 90)
        frames[t, 9:15, 4 + 2 * t : 10 + 2 * t] = (90, 120, 220)
    return frames


@pytest.fixture
def mask():
    labels = np.zeros(SIZE, np.uint8)
    labels[2:8, 2:8], labels[9:15, 4:10] = 3, 8
    return labels


def by_hand(video, mask):
    follow = Propagator(RULES["model"], RULES["config"])
    return np.stack([follow.step(frame, mask=mask if t == 0 else None).label_map() for t, frame in enumerate(video)])


@pytest.fixture
def sources(video, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for t, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{t}.png")
    return {
        "array": video,
        "tensor": torch.from_numpy(video).permute(0, 3, 1, 2),
        "list": [Image.fromarray(frame) for frame in video],
        "generator": (frame for frame in video),
        "folder": folder,
        "folder name": str(folder),
    }


@pytest.mark.parametrize("source", ["array", "tensor", "list", "generator", "folder", "folder name"])
def test_propagate_masks_of_any_source_is_stepping_by_hand(sources, video, mask, source):
    result = propagate_masks(sources[source], mask, **RULES)
    assert result.object_ids == (3, 8)
    assert result.labels.dtype == np.uint8
    assert np.array_equal(result.labels, by_hand(video, mask))


@pytest.mark.parametrize("source", ["array", "generator", "folder"])
def test_propagate_keypoints_of_any_source_is_stepping_by_hand(sources, video, source):
    result = propagate_keypoints(sources[source], POINTS, **RULES)
    follow = KeypointPropagator(RULES["model"], RULES["config"])
    expected = [follow.step(frame, keypoints=POINTS if t == 0 else None) for t, frame in enumerate(video)]
    assert result.points.shape == (5, 2, 2)
    assert result.confidence.shape == (5, 2)
    assert np.array_equal(result.points, np.stack([points for points, _ in expected]))
    assert np.array_equal(result.confidence, np.stack([confidence for _, confidence in expected]))


def test_follow_masks_yields_each_frame_as_soon_as_it_is_read(video, mask):
    pulls = []

    def frames():
        for t, frame in enumerate(video):
            pulls.append(t)
            yield frame

    results = follow_masks(frames(), mask, **RULES)
    assert pulls == []
    for t, result in enumerate(results):
        assert result.frame_index == t
        assert pulls == list(range(t + 1))
    assert len(pulls) == 5


def test_follow_keypoints_yields_each_frame_as_soon_as_it_is_read(video):
    pulls = []
    results = follow_keypoints((pulls.append(t) or frame for t, frame in enumerate(video)), POINTS, **RULES)
    for t, result in enumerate(results):
        assert result.points.shape == (2, 2)
        assert len(pulls) == t + 1
    assert len(pulls) == 5


def breaking(video):
    yield from video[:3]
    raise VideoReadError("clip.mp4 breaks off at frame 3 of 5", frame_index=3)


@pytest.mark.parametrize(("follow", "propagate"), [(follow_masks, propagate_masks)])
def test_masks_of_a_video_that_breaks_off_come_until_there_and_then_the_error(video, mask, follow, propagate):
    results = follow(breaking(video), mask, **RULES)
    assert np.array_equal(np.stack([next(results).label_map() for _ in range(3)]), by_hand(video[:3], mask))
    with pytest.raises(VideoReadError, match="breaks off at frame 3"):
        next(results)
    with pytest.raises(VideoReadError, match="breaks off at frame 3"):
        propagate(breaking(video), mask, **RULES)


def test_keypoints_of_a_video_that_breaks_off_come_until_there_and_then_the_error(video):
    results = follow_keypoints(breaking(video), POINTS, **RULES)
    assert len([next(results) for _ in range(3)]) == 3
    with pytest.raises(VideoReadError, match="breaks off at frame 3"):
        next(results)


def test_propagate_masks_passes_on_what_the_propagator_refuses(video, mask):
    with pytest.raises(ValueError, match=r"first_mask is \(15, 24\) but the video is \(16, 24\). Resize it with near"):
        propagate_masks(video, mask[:15], **RULES)
    with pytest.raises(ValueError, match="no frame 0 to start at"):
        propagate_masks([], mask, **RULES)
    with pytest.raises(ValueError, match="keypoint 0 is"):
        propagate_keypoints(video, np.array([[99.0, 0.0]]), **RULES)
    with pytest.raises(FileNotFoundError, match="no video at"):
        propagate_masks("no/such/clip.mp4", mask, **RULES)


@pytest.mark.parametrize(
    ("propagate", "first"), [(propagate_masks, np.ones(SIZE, bool)), (propagate_keypoints, POINTS)]
)
def test_propagation_refuses_kernels_that_cannot_run(monkeypatch, video, propagate, first):
    monkeypatch.setattr("siammae.kernels.available_kernels", lambda: {"triton": "no GPU", "reference": "available"})
    with pytest.raises(KernelUnavailableError, match="no triton kernels here"):
        propagate(video, first, **RULES, kernels="triton")


def test_propagation_with_progress_shows_a_bar_on_stderr_only_when_asked(video, mask, capsys):
    propagate_masks(video, mask, **RULES)
    assert capsys.readouterr() == ("", "")
    propagate_masks(video, mask, **RULES, progress=True)
    propagate_keypoints(iter(video), POINTS, **RULES, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err
    assert "5frame" in err


def test_video_masks_save_writes_pngs_that_read_back_equal(tmp_path):
    labels = np.random.default_rng(0).integers(0, 255, (3, *SIZE), dtype=np.uint8)
    sure = np.ones((3, 2), np.float32)
    folder = VideoMasks(labels, (1, 2), sure).save(tmp_path / "new" / "masks")
    assert folder == tmp_path / "new" / "masks"
    assert sorted(path.name for path in folder.glob("*.png")) == ["00000.png", "00001.png", "00002.png"]
    for index, expected in enumerate(labels):
        path = folder / f"{index:05d}.png"
        assert np.array_equal(read_mask(path), expected)
        with Image.open(path) as image:
            assert image.mode == "P"


def test_propagate_masks_takes_a_models_name(loaded, video, mask):
    result = propagate_masks(video, mask, model="owner/name", config=RULES["config"])
    assert np.array_equal(result.labels, by_hand(video, mask))
    assert loaded == ["owner/name"]


def test_video_masks_save_replaces_a_longer_run_whole_or_refuses(tmp_path):
    labels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1) * np.ones((1, 2, 3), np.uint8)
    sure = np.ones((6, 1), np.float32)
    VideoMasks(labels, (1,), sure).save(tmp_path)
    with pytest.raises(ValueError, match=r"holds 00000\.png already"):
        VideoMasks(labels[:2], (1,), sure[:2]).save(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "1.png").touch()  # not ours
    VideoMasks(labels[:2], (1,), sure[:2]).save(tmp_path, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir() if file.name[0] != ".") == [
        "00000.png",
        "00001.png",
        "1.png",
        "notes.txt",
    ]


def test_propagate_masks_takes_a_mask_in_the_folder_for_no_frame(tmp_path, video, mask):
    for index, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"{index}.jpg")
    write_mask(tmp_path / "0.png", mask)
    for progress in (False, True):
        assert len(propagate_masks(tmp_path, tmp_path / "0.png", progress=progress, **RULES).labels) == len(video)
