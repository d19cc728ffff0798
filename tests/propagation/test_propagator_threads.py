"""A propagator follows one video: calls of two threads at once are refused, and the first goes on unharmed."""

import copy
import threading

import numpy as np
import pytest

from siammae.features import PixelExtractor
from siammae.propagation.propagator import KeypointPropagator, Propagator
from tests.helpers import moving_square


class Waiting(PixelExtractor):
    """Waits in the middle of a frame."""

    def __init__(self):
        super().__init__(8)
        self.inside, self.go = threading.Event(), threading.Event()

    def extract(self, frames, **options):
        self.inside.set()
        assert self.go.wait(30)
        return super().extract(frames, **options)


@pytest.mark.parametrize("kind", [Propagator, KeypointPropagator])
def test_propagator_refuses_a_second_thread_during_a_step(kind):
    video, masks = moving_square(2)
    first = {"mask": masks[0]} if kind is Propagator else {"keypoints": np.array([[16.0, 16.0]])}
    extractor = Waiting()
    propagator = kind(extractor)
    results = []
    thread = threading.Thread(target=lambda: results.append(propagator.step(video[0], **first)))
    thread.start()
    assert extractor.inside.wait(30)
    for call in (lambda: propagator.step(video[0], **first), propagator.reset):
        with pytest.raises(RuntimeError, match="is at work in another thread: it follows one video"):
            call()
    extractor.go.set()
    thread.join()
    assert len(results) == 1
    propagator.step(video[1])
    propagator.reset()


def test_propagator_is_free_again_after_an_error_and_can_be_copied():
    video, masks = moving_square(2)
    propagator = Propagator(PixelExtractor(8), kernels="reference")
    with pytest.raises(RuntimeError, match="no mask yet"):
        propagator.step(video[0])
    propagator.step(video[0], mask=masks[0])
    other = copy.deepcopy(propagator)
    np.testing.assert_array_equal(propagator.step(video[1]).label_map(), other.step(video[1]).label_map())
