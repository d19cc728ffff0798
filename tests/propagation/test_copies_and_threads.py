"""A propagator under way can be copied and pickled, and lets one thread in at a time."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

from siammae import HogExtractor, KeypointPropagator, PropagationConfig, Propagator
from siammae.kernels import FrameFeatures, available_kernels
from tests.helpers import moving_square

FRAMES, MASKS = moving_square(6, (48, 64))
POINTS = np.array([[14.0, 15.0], [20.5, 18.25]])
CONFIG = PropagationConfig(radius=4)


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
@pytest.mark.parametrize("kernels", ["native", "cpu", "reference"])
def test_a_copy_under_way_goes_on_as_the_original_does(duplicate, kernels):
    if available_kernels()[kernels] != "available":
        pytest.skip(f"no {kernels} kernels here")
    masks = Propagator(HogExtractor(8), CONFIG, kernels=kernels)
    points = KeypointPropagator(HogExtractor(8), CONFIG, kernels=kernels)
    for i, frame in enumerate(FRAMES[:3]):
        masks.step(frame, mask=MASKS[0] if i == 0 else None)
        points.step(frame, keypoints=POINTS if i == 0 else None)
    twins = [duplicate(masks), duplicate(points)]
    expected = [(masks.step(frame).scores, points.step(frame).points) for frame in FRAMES[3:]]
    got = [(twins[0].step(frame).scores, twins[1].step(frame).points) for frame in FRAMES[3:]]
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert np.array_equal(mine[1], theirs[1])


def test_a_shallow_copy_shares_the_extractor_and_nothing_else():
    propagator = Propagator(HogExtractor(8), CONFIG)
    propagator.step(FRAMES[0], mask=MASKS[0])
    twin = copy.copy(propagator)
    assert twin._stream.extractor is propagator._stream.extractor
    twin.reset()
    assert propagator.object_ids == (1,)
    propagator.step(FRAMES[1])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_copied_features_leave_out_what_backends_made_of_them(duplicate):
    frame = FrameFeatures(torch.rand(4, 3, 5))
    frame.form("reference")
    twin = duplicate(frame)
    assert torch.equal(twin.tensor, frame.tensor)
    assert twin._forms == {}
    assert twin.grid == (3, 5)
    assert frame._forms


class Waiting(HogExtractor):
    """Stops within a step until it is told to go on."""

    def __init__(self):
        super().__init__(8)
        self.inside, self.go_on = threading.Event(), threading.Event()

    def extract(self, *args, **options):
        self.inside.set()
        assert self.go_on.wait(30)
        return super().extract(*args, **options)


@pytest.mark.parametrize(
    ("kind", "first", "call"),
    [
        (Propagator, {"mask": MASKS[0]}, lambda it: it.step(FRAMES[1])),
        (Propagator, {"mask": MASKS[0]}, lambda it: it.reset()),
        (Propagator, {"mask": MASKS[0]}, lambda it: it.remove_object(1)),
        (KeypointPropagator, {"keypoints": POINTS}, lambda it: it.step(FRAMES[1])),
        (KeypointPropagator, {"keypoints": POINTS}, lambda it: it.reset()),
    ],
    ids=["step", "reset", "remove_object", "keypoints step", "keypoints reset"],
)
def test_a_second_thread_is_refused_while_one_is_at_work(kind, first, call):
    extractor = Waiting()
    propagator, done = kind(extractor, CONFIG), []
    thread = threading.Thread(target=lambda: done.append(propagator.step(FRAMES[0], **first)))
    thread.start()
    try:
        assert extractor.inside.wait(30)
        with pytest.raises(RuntimeError, match="at work in another thread: it follows one stream"):
            call(propagator)
    finally:
        extractor.go_on.set()
        thread.join()
    assert len(done) == 1
    call(propagator)  # one after the other they may


def test_a_propagator_is_free_again_after_an_error():
    propagator = Propagator(HogExtractor(8), CONFIG)
    with pytest.raises(RuntimeError, match="no mask yet"):
        propagator.step(FRAMES[0])
    done = []
    thread = threading.Thread(target=lambda: done.append(propagator.step(FRAMES[0], mask=MASKS[0])))
    thread.start()
    thread.join()
    assert len(done) == 1
