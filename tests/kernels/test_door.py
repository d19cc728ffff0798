"""The door to the kernels: which backend serves a call, what is refused, and that a frame is laid out once."""

import pickle
import sys

import pytest
import torch

from siammae.config import PropagationConfig
from siammae.errors import KernelUnavailableError
from siammae.features import PixelExtractor
from siammae.kernels import reference
from siammae.propagation.affinity import (
    FrameFeatures,
    available_kernels,
    choose_kernels,
    kernel_details,
    match_frames,
    topk_affinity,
)
from siammae.propagation.propagator import Propagator


def features(channels, frames, h, w):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(channels, h, w, generator=generator)
    return query, torch.randn(frames, channels, h, w, generator=generator)


def test_available_kernels_gives_every_backend_a_status():
    status = available_kernels()
    assert list(status) == ["triton", "native", "cpu", "reference"]
    assert status["reference"] == "available"
    assert all(status.values())


def test_kernel_details_speak_of_available_backends_only(monkeypatch):
    monkeypatch.setattr("siammae.kernels.available_kernels", lambda: {"cpu": "no", "reference": "available"})
    monkeypatch.setattr("siammae.kernels.reference.detail", lambda: "slow")
    assert kernel_details() == {"reference": "slow"}


@pytest.mark.parametrize(
    ("environment", "wish", "chosen"),
    [
        (None, "auto", "auto"),
        ("auto", "auto", "auto"),
        ("reference", "auto", "reference"),
        ("nonsense", "reference", "reference"),
        ("triton", "reference", "reference"),
    ],
)
def test_choose_kernels_lets_the_environment_stand_in_for_auto_only(monkeypatch, environment, wish, chosen):
    monkeypatch.delenv("SIAMMAE_KERNELS", raising=False)
    if environment is not None:
        monkeypatch.setenv("SIAMMAE_KERNELS", environment)
    assert choose_kernels(wish) == chosen


def test_choose_kernels_refuses_an_unknown_name_in_the_environment(monkeypatch):
    monkeypatch.setenv("SIAMMAE_KERNELS", "cuda")
    with pytest.raises(ValueError, match="kernels is 'cuda': it must be one of"):
        choose_kernels()


@pytest.mark.parametrize("by_environment", [False, True])
def test_topk_affinity_never_falls_back_from_kernels_that_cannot_run(monkeypatch, by_environment):
    status = {"triton": "no such device", "reference": "available"}
    monkeypatch.setattr("siammae.kernels.available_kernels", lambda: status)
    if by_environment:
        monkeypatch.setenv("SIAMMAE_KERNELS", "triton")
    query, context = features(4, 2, 3, 3)
    with pytest.raises(KernelUnavailableError, match=r'no triton kernels here: no such device. Use kernels="auto"'):
        topk_affinity(query, context, top_k=1, temperature=1.0, kernels="auto" if by_environment else "triton")


class Fussy:
    """A backend that counts the frames it lays out and refuses what the test says."""

    def __init__(self, status="available", reason=None):
        self.prepared, self._status, self._reason = 0, status, reason

    def status(self):
        return self._status

    def refusal(self, query, **rules):
        return self._reason

    def prepare(self, features):
        self.prepared += 1
        return features

    def topk_affinity(self, query, context, **options):
        weights, indices = reference.topk_affinity(query, context, **options)
        return weights, indices + 0


@pytest.fixture
def plug_in(monkeypatch):
    """Make a backend the only one besides the reference."""

    def plug(backend):
        monkeypatch.setitem(sys.modules, "fussy", backend)
        monkeypatch.setattr("siammae.kernels._MODULES", {"cpu": "fussy", "reference": reference.__name__})
        return backend

    return plug


RULES = {
    "top_k": 2,
    "temperature": 0.1,
    "radius": None,
    "neighborhood": "disk",
    "free_frames": 0,
    "keep_ties": False,
}


def test_auto_takes_the_fastest_backend_that_serves_the_call(plug_in):
    query, context = features(4, 2, 3, 3)
    fast = plug_in(Fussy())
    topk_affinity(query, context, top_k=2, temperature=0.1)
    assert fast.prepared == 2


@pytest.mark.parametrize("trouble", [{"reason": "it has no ties"}, {"status": "no compiler"}])
def test_auto_passes_over_a_backend_that_refuses_or_cannot_run(plug_in, trouble):
    query, context = features(4, 2, 3, 3)
    fast = plug_in(Fussy(**trouble))
    assert topk_affinity(query, context, top_k=2, temperature=0.1).weights.shape == (9, 2)
    assert fast.prepared == 0


def test_topk_affinity_never_falls_back_from_kernels_that_refuse_the_call(plug_in):
    plug_in(Fussy(reason="it has no ties"))
    query, context = features(4, 2, 3, 3)
    with pytest.raises(KernelUnavailableError, match=r"cpu kernels cannot serve this call: it has no ties. Use kern"):
        topk_affinity(query, context, top_k=1, temperature=1.0, kernels="cpu")


def test_match_frames_lays_a_frame_out_once(plug_in):
    query, context = features(4, 3, 3, 3)
    fast, frames = plug_in(Fussy()), [FrameFeatures(frame) for frame in context]
    for count in (1, 2, 3, 3):
        match_frames(FrameFeatures(query), frames[:count], **RULES, kernels="auto")
        assert fast.prepared == count


def test_a_part_of_a_frame_is_that_part_and_laid_out_once(plug_in):
    fast = plug_in(Fussy())
    frame = FrameFeatures(features(4, 1, 5, 6)[0])
    for region, prepared in [((1, 2, 4, 6), 1), ((1, 2, 4, 6), 1), ((0, 0, 5, 6), 2), ((1, 2, 4, 6), 3)]:
        top, left, bottom, right = region
        part = frame.within(region)
        assert torch.equal(part.tensor, frame.tensor[:, top:bottom, left:right])
        part.form("cpu")
        assert fast.prepared == prepared
    assert torch.equal(pickle.loads(pickle.dumps(frame)).within((1, 2, 4, 6)).tensor, part.tensor)


def test_propagator_refuses_rules_that_its_kernels_lack_on_the_first_frame(plug_in):
    plug_in(Fussy(reason="it has no ties"))
    follow = Propagator(PixelExtractor(2), PropagationConfig(keep_ties=True), kernels="cpu")
    with pytest.raises(KernelUnavailableError, match="cannot serve this call: it has no ties"):
        follow.step(torch.zeros(3, 4, 4, dtype=torch.uint8), mask=torch.ones(4, 4, dtype=torch.uint8).numpy())
    assert follow.object_ids == ()


def test_propagator_lays_each_frame_out_once(plug_in):
    fast = plug_in(Fussy())
    follow = Propagator(PixelExtractor(2), PropagationConfig(queue_length=3), kernels="cpu")
    mask = torch.ones(4, 4, dtype=torch.uint8).numpy()
    for t in range(8):
        follow.step(torch.full((3, 4, 4), 20 * t, dtype=torch.uint8), mask=mask if t == 0 else None)
    assert fast.prepared == 7  # the last frame has not been context yet
