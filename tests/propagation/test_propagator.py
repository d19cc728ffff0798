"""Masks followed one frame a call: the context, corrections in mid-stream, refusals that change nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siammae.config import PropagationConfig
from siammae.errors import KernelUnavailableError
from siammae.features import PixelExtractor
from siammae.metrics import region_similarity
from siammae.propagation.context import recommended_config
from siammae.propagation.propagator import Propagator

SIZE = (24, 40)


def moving_squares(frames=8, size=SIZE, side=8, ids=(1,), step=2):
    """Textured squares, one a band of rows, that move right over a textured background; their masks."""
    random = np.random.default_rng(0)
    background = random.integers(0, 80, (*size, 3), dtype=np.uint8)
    textures = {i: random.integers(120, 256, (side, side, 3), dtype=np.uint8) for i in ids}
    video, masks = np.repeat(background[None], frames, axis=0), np.zeros((frames, *size), np.uint8)
    for t in range(frames):
        for band, object_id in enumerate(ids):
            place = slice(2 + band * (side + 2), 2 + band * (side + 2) + side), slice(4 + step * t, 4 + step * t + side)
            video[t][place], masks[t][place] = textures[object_id], object_id
    return video, masks


def propagator(**changes):
    return Propagator(PixelExtractor(2), PropagationConfig(**{"radius": 5, "queue_length": 3, **changes}))


def run(video, mask, **changes):
    follow = propagator(**changes)
    return [follow.step(frame, mask=mask if t == 0 else None) for t, frame in enumerate(video)]


class Broken(PixelExtractor):
    """Returns NaN while told to."""

    broken = False

    def extract(self, frames, **options):
        features = super().extract(frames, **options)
        if self.broken:
            features[..., 1, 2] = np.nan
        return features


@pytest.mark.parametrize("ids", [(1,), (7, 3)])
def test_propagator_follows_moving_squares(ids):
    video, masks = moving_squares(ids=ids)
    for result, truth in zip(run(video, masks[0], top_k=2, temperature=0.05), masks, strict=True):
        assert result.object_ids == tuple(sorted(ids))
        for object_id in ids:
            assert region_similarity(result.label_map() == object_id, truth == object_id) > 0.9


def test_propagator_gives_results_that_fit_together():
    video, masks = moving_squares(frames=3, ids=(4, 9))
    for index, result in enumerate(run(video, masks[0])):
        labels = result.label_map()
        assert result.frame_index == index
        assert result.frame_size == result.input_size == SIZE
        assert (labels.dtype, labels.shape) == (np.uint8, SIZE)
        assert result.scores.shape == (3, 12, 20)
        assert result.scores.dtype == torch.float32
        torch.testing.assert_close(result.scores.sum(dim=0), torch.ones(12, 20))
        assert result.masks().dtype == bool
        assert np.array_equal(result.masks(), np.stack([labels == 4, labels == 9]))


def test_propagator_takes_numpy_torch_and_pil_frames_alike():
    video, masks = moving_squares(frames=4)
    runs = [
        run(video, masks[0]),
        run(torch.from_numpy(video).permute(0, 3, 1, 2), torch.from_numpy(masks[0])),
        run(torch.from_numpy(video).permute(0, 3, 1, 2) / 255, masks[0].astype(bool)),
        run([Image.fromarray(frame) for frame in video], Image.fromarray(masks[0])),
    ]
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert torch.equal(one.scores, two.scores)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"queue_length": 3}, [1, 2, 3, 4, 4, 4]),
        ({"queue_length": 0}, [1, 1, 1, 1, 1, 1]),
        ({"queue_length": 3, "pin_first": False}, [1, 2, 3, 3, 3, 3]),
        ({"queue_length": 3, "pad_queue": True}, [4, 4, 4, 4, 4, 4]),
        ({"queue_length": 2, "pad_queue": True, "pin_first": False}, [2, 2, 2, 2, 2, 2]),
        ({"queue_length": 3, "queue_pinned": True}, [2, 3, 4, 4, 4, 4]),
        ({"queue_length": 3, "queue_pinned": True, "pad_queue": True}, [4, 4, 4, 4, 4, 4]),
        ({"queue_length": 3, "queue_pinned": True, "pin_first": False}, [1, 2, 3, 3, 3, 3]),
        ({"queue_length": 0, "queue_pinned": True}, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_propagator_context_has_the_size_that_the_rules_say(changes, expected):
    video, masks = moving_squares(frames=6)
    follow, sizes = propagator(**changes), []
    for t, frame in enumerate(video):
        follow.step(frame, mask=masks[0] if t == 0 else None)
        sizes.append(len(follow._stream.queue))
    assert sizes == expected


@pytest.mark.parametrize(("pin_first", "kept"), [(True, [0, 3, 4, 5]), (False, [3, 4, 5])])
def test_propagator_keeps_the_first_frame_when_the_queue_is_full(pin_first, kept):
    video, masks = moving_squares(frames=6)
    follow = propagator(pin_first=pin_first)
    results = [follow.step(frame, mask=masks[0] if t == 0 else None) for t, frame in enumerate(video)]
    labels = follow._stream.queue.labels()
    assert torch.equal(labels, torch.stack([results[t].scores for t in kept]))
    assert follow._stream.queue.pinned == int(pin_first)


def test_propagator_with_a_padded_queue_forgets_one_copy_of_frame_0_a_step():
    video, masks = moving_squares(frames=6)
    follow, copies = propagator(pad_queue=True), []
    first = follow.step(video[0], mask=masks[0]).scores
    for frame in video[1:]:
        copies.append(sum(torch.equal(labels, first) for labels in follow._stream.queue.labels()))
        follow.step(frame)
    assert copies == [4, 3, 2, 1, 1]


def test_propagator_memory_is_bounded_over_a_long_stream():
    video, masks = moving_squares(frames=8, size=(12, 24), side=6)
    follow = propagator()
    follow.step(video[0], mask=masks[0])
    for t in range(1, 200):
        follow.step(video[t % 8])
        assert len(follow._stream.queue) == min(t, 3) + 1
    assert follow.step(video[0]).frame_index == 200


def test_propagator_restricts_pinned_frames_when_told_to():
    coarse = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    video = np.stack([coarse, coarse[:, ::-1]]).repeat(2, 1).repeat(2, 2)  # most patches jump further than the window
    mask = np.zeros((16, 32), np.uint8)
    mask[:, :8] = 1
    free = run(video, mask, radius=3, top_k=1, restrict_first=False)[1].label_map()
    held = run(video, mask, radius=3, top_k=1, restrict_first=True)[1].label_map()
    assert np.array_equal(free, mask[:, ::-1])
    assert not held[:, 16:].any()


@pytest.mark.parametrize(("first_output", "given"), [("given", True), ("rendered", False)])
def test_propagator_returns_the_first_mask_or_its_rendering(first_output, given):
    video, _ = moving_squares(frames=1)
    mask = np.zeros(SIZE, np.uint8)
    mask[5, 7] = 3  # a quarter of a patch, which rendering loses
    assert run(video, mask, first_output=first_output)[0].label_map().any() == given


def test_propagator_with_void_in_the_first_mask_gives_void_no_label():
    video, masks = moving_squares(frames=3)
    masks[0][:, 30:] = 255
    for result in run(video, masks[0]):
        assert result.object_ids == (1,)
        assert set(np.unique(result.label_map())) == {0, 1}
    assert (run(video, masks[0])[0].scores[:, :, 15:] == 0).all()


def test_propagator_takes_255_alone_for_the_object():
    video, masks = moving_squares(frames=2)
    results = run(video, np.where(masks[0] == 1, 255, 0).astype(np.uint8))
    assert results[0].object_ids == (1,)
    assert np.array_equal(results[0].label_map(), masks[0])


def test_propagator_takes_boolean_stacks_with_object_ids():
    video, masks = moving_squares(frames=2, ids=(4, 9))
    follow = propagator()
    result = follow.step(video[0], mask=np.stack([masks[0] == 9, masks[0] == 4]), object_ids=[9, 4])
    assert result.object_ids == follow.object_ids == (9, 4)
    assert np.array_equal(result.label_map(), masks[0])
    assert np.array_equal(follow.step(video[1]).masks()[0], follow.step(video[1]).label_map() == 9)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_propagator_keeps_an_object_that_fills_the_frame_under_the_dino_preset(kernels):
    config = PropagationConfig.preset("dino").replace(resize=SIZE, size_multiple=None, radius=3)
    follow = Propagator(PixelExtractor(4), config, kernels=kernels)
    video, _ = moving_squares(frames=2)
    follow.step(video[0], mask=np.full(SIZE, 2, np.uint8))
    assert (follow.step(video[1]).label_map() == 2).all()


def test_propagator_after_reset_begins_a_new_video():
    video, masks = moving_squares(frames=3)
    follow = propagator()
    before = [follow.step(frame, mask=masks[0] if t == 0 else None).scores for t, frame in enumerate(video)]
    follow.reset()
    assert follow.object_ids == ()
    with pytest.raises(RuntimeError, match="no mask yet"):
        follow.step(video[0])
    follow.step(np.ascontiguousarray(video[0][:12]), mask=masks[0][:12])  # another size
    follow.reset()
    after = [follow.step(frame, mask=masks[0] if t == 0 else None) for t, frame in enumerate(video)]
    assert after[0].frame_index == 0
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one, two.scores)


def test_propagator_uses_the_rules_its_extractor_recommends():
    extractor = PixelExtractor(2)
    assert recommended_config(extractor) == Propagator(extractor).config == PropagationConfig()
    extractor.propagation = PropagationConfig(top_k=3)
    assert Propagator(extractor).config.top_k == 3
    assert Propagator(extractor, PropagationConfig(top_k=4)).config.top_k == 4


@pytest.mark.parametrize(("std", "options"), [(None, {}), ((0.2, 0.2, 0.2), {"pixel_std": (0.2, 0.2, 0.2)})])
def test_propagator_passes_pixel_std_only_where_the_rules_fix_it(std, options):
    seen = []

    class Plain(PixelExtractor):
        def extract(self, frames, **got):
            seen.append(got)
            return super().extract(frames, **got)

    video, masks = moving_squares(frames=1)
    Propagator(Plain(2), PropagationConfig(pixel_std=std)).step(video[0], mask=masks[0])
    assert seen == [options]


def mask_like(value, shape=SIZE):
    return np.full(shape, value, np.uint8)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"mask": mask_like(0)}, r"the first mask is empty: it must hold at least one object \(an id from 1 to 254\)"),
        ({"mask": mask_like(1, (24, 41))}, r"first_mask is \(24, 41\) but the video is \(24, 40\). Resize it with nea"),
        ({"mask": np.zeros((*SIZE, 3), np.uint8)}, r"a mask must be an integer or bool map"),
        ({"mask": np.ones((2, *SIZE), bool)}, r"objects 1 and 2 overlap on 960 pixels"),
        ({"mask": mask_like(1).astype(np.int64) * 300}, r"the mask has the values \[300\]"),
        ({"mask": mask_like(3), "object_ids": [2]}, r"the mask holds ids \[3\] that object_ids \(2,\) lacks"),
        ({"mask": mask_like(3), "object_ids": [3, 3]}, r"object_ids are \(3, 3\): they must be distinct, 1 to 254"),
        ({"mask": mask_like(3), "object_ids": [3, 0]}, r"object_ids are \(3, 0\): they must be distinct, 1 to 254"),
        ({"mask": mask_like(3), "object_ids": [3, 300]}, r"object_ids are \(3, 300\): they must be distinct"),
        ({"object_ids": [1]}, r"object_ids are \(1,\) but there is no mask for them to describe: pass one"),
        ({"frame": np.zeros((*SIZE, 4), np.uint8)}, r"frame 0 must be \(H, W, 3\) uint8 RGB"),
    ],
)
def test_propagator_refuses_a_first_step_and_stays_as_it_was(step, message):
    video, masks = moving_squares(frames=2)
    follow = propagator()
    with pytest.raises(ValueError, match=message):
        follow.step(step.pop("frame", video[0]), **step)
    assert follow.object_ids == ()
    follow.step(video[0], mask=masks[0])
    assert torch.equal(follow.step(video[1]).scores, run(video, masks[0])[1].scores)


def test_propagator_refuses_a_step_before_any_mask():
    with pytest.raises(RuntimeError, match=r"no mask yet: give a mask on the first frame, step\(frame, mask=...\)"):
        propagator().step(moving_squares(frames=1)[0][0])


def test_propagator_refuses_kernels_that_cannot_run_at_once(monkeypatch):
    monkeypatch.setattr("siammae.kernels.available_kernels", lambda: {"triton": "no GPU", "reference": "available"})
    with pytest.raises(KernelUnavailableError, match="no triton kernels here: no GPU"):
        Propagator(PixelExtractor(2), kernels="triton")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"mask": mask_like(0)}, r"the mask names no object: pass object_ids=\[...\] to say which objects are gone"),
        ({"mask": mask_like(1, (8, 8))}, r"^mask is \(8, 8\) but the video is \(24, 40\)"),
        ({"mask": mask_like(3), "object_ids": [1]}, r"the mask holds ids \[3\] that object_ids \(1,\) lacks"),
        ({"frame": np.zeros((24, 44, 3), np.uint8)}, r"frame 2 is \(24, 44\) but the frames before are \(24, 40\)"),
        ({"broken": True}, r"the features of frame 2 have NaN or infinite values: check the weights"),
        ({"broken": True, "mask": mask_like(6)}, r"the features of frame 2 have NaN"),
    ],
)
def test_propagator_refuses_a_later_step_and_stays_as_it_was(step, message):
    video, masks = moving_squares(frames=5)
    extractor = Broken(2)
    follow = Propagator(extractor, PropagationConfig(radius=5, queue_length=3))
    results = []
    for t, frame in enumerate(video):
        if t == 2:
            extractor.broken = step.pop("broken", False)
            with pytest.raises(ValueError, match=message):
                follow.step(step.pop("frame", frame), **step)
            extractor.broken = False
        results.append(follow.step(frame, mask=masks[0] if t == 0 else None))
    for got, undisturbed in zip(results, run(video, masks[0]), strict=True):
        assert (got.frame_index, got.object_ids) == (undisturbed.frame_index, (1,))
        assert torch.equal(got.scores, undisturbed.scores)


@pytest.mark.slow
def test_propagator_resident_memory_is_flat_over_2000_frames():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")
    video, masks = moving_squares(frames=8)
    follow, pages = propagator(queue_length=7), {}
    for t in range(2001):
        follow.step(video[t % 8], mask=masks[0] if t == 0 else None).label_map()
        if t in (200, 2000):
            pages[t] = int(statm.read_text().split()[1])
    assert (pages[2000] - pages[200]) * 4096 < 10e6
