"""Each backend against the dense float64 definition."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from siammae.config import PropagationConfig
from siammae.errors import KernelUnavailableError
from siammae.features import PixelExtractor
from siammae.propagation.affinity import topk_affinity, unit_length
from siammae.propagation.propagator import Propagator
from tests.dense import assert_best, dense_scores, exact_best
from tests.helpers import moving_square
from tests.kernels.deceptive import BETTER, deceptive

SHAPES = [  # C, M, h, w
    (33, 3, 7, 13),
    (16, 2, 1, 11),
    (16, 2, 11, 1),
    (5, 3, 1, 1),
    (12, 1, 9, 9),  # the first frame only
    (8, 2, 20, 35),  # several tiles
]


def features(channels, frames, h, w, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = unit_length(torch.randn(channels, h, w, generator=generator))
    return query, unit_length(torch.randn(frames, channels, h, w, generator=generator))


def match(backend, device, query, context, **options):
    """Call a backend on features as they are; skip where it says that it cannot serve the call."""
    try:
        matches = topk_affinity(query.to(device), context.to(device), **options, normalized=True, kernels=backend)
    except KernelUnavailableError as error:
        pytest.skip(str(error))
    return matches.weights.cpu(), matches.indices.cpu()


def check(backend, device, query, context, *, top_k, temperature=0.2, keep_ties=False, tolerance=1e-5, **window):
    options = {"top_k": top_k, "temperature": temperature, "keep_ties": keep_ties}
    weights, indices = match(backend, device, query, context, **options, **window)
    assert_best(weights, indices, dense_scores(query, context, **window), **options, tolerance=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1, 2, 5, 60, None])
@pytest.mark.parametrize("neighborhood", ["disk", "closed_disk", "square"])
def test_backend_on_any_shape_and_window_is_the_definition(backend, device, shape, radius, neighborhood):
    check(backend, device, *features(*shape), top_k=5, radius=radius, neighborhood=neighborhood)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("free_frames", [1, 2, 9])
@pytest.mark.parametrize("keep_ties", [False, True])
def test_backend_with_free_frames_and_ties_is_the_definition(backend, device, shape, free_frames, keep_ties):
    window = {"radius": 2, "free_frames": free_frames}
    check(backend, device, *features(*shape), top_k=4, keep_ties=keep_ties, **window)


@pytest.mark.parametrize("top_k", [1, 24, 63, 1000])
@pytest.mark.parametrize("radius", [2, None])
def test_backend_with_many_neighbours_is_the_definition(backend, device, top_k, radius):
    check(backend, device, *features(17, 2, 6, 9), top_k=top_k, radius=radius)


@pytest.mark.parametrize("length", [1e-3, 1e3])
def test_backend_on_vectors_of_any_length_is_the_definition(backend, device, length):
    query, context = features(33, 3, 7, 13)
    size = length**2
    check(backend, device, query * length, context * length, top_k=5, temperature=size, tolerance=1e-5 * size, radius=3)


@pytest.mark.parametrize(("temperature", "largest"), [(1e-6, 1.0), (1e6, 0.2)])
def test_backend_at_the_bounds_of_the_temperature_has_finite_weights(backend, device, temperature, largest):
    weights, _ = match(backend, device, *features(33, 3, 7, 13), top_k=5, temperature=temperature, radius=3)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))
    torch.testing.assert_close(weights.amax(dim=1), torch.full((len(weights),), largest), atol=0.02, rtol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("radius", "free_frames"), [(None, 0), (2, 0), (2, 1), (4, 3)])
@pytest.mark.parametrize("top_k", [1, 6, 40])
def test_backend_where_scores_are_equal_takes_the_smaller_index(backend, device, seed, radius, free_frames, top_k):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randint(-2, 3, (5, 3, 9, 18), generator=generator).float()
    draw[3] = draw[1]  # a duplicated frame
    query, context = draw[0], draw[1:]
    window = {"radius": radius, "free_frames": free_frames, "neighborhood": "square"}
    weights, indices = match(backend, device, query, context, top_k=top_k, temperature=5.0, **window)
    wanted = exact_best(dense_scores(query, context, **window), top_k)
    inside = weights > 0
    assert torch.equal(indices[inside], wanted[:, : indices.shape[1]][inside])


@pytest.mark.parametrize("top_k", [1, 7])
def test_backend_on_copies_of_a_frame_takes_the_first_copies(backend, device, top_k):
    query, context = features(32, 1, 10, 12)
    window = {"radius": 4, "neighborhood": "disk"}
    copies = context.expand(12, -1, -1, -1)
    weights, indices = match(backend, device, query, copies, top_k=top_k, temperature=0.1, **window)
    best = dense_scores(query, context, **window).argmax(dim=1)
    assert torch.equal(indices, best[:, None] + 120 * torch.arange(top_k))
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / top_k))


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("radius", [None, 3])
def test_backend_on_constant_features_takes_the_first_patches(backend, device, value, radius):
    query, context = torch.full((4, 12, 20), value), torch.full((3, 4, 12, 20), value)
    weights, indices = match(backend, device, query, context, top_k=5, temperature=0.1, radius=radius)
    wanted = exact_best(dense_scores(query, context, radius=radius), 5)
    assert torch.equal(indices, wanted)
    torch.testing.assert_close(weights, torch.full((240, 5), 0.2))


@settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 12), st.integers(1, 20)),
    top_k=st.integers(1, 30),
    radius=st.none() | st.integers(1, 25),
    neighborhood=st.sampled_from(["disk", "closed_disk", "square"]),
    free_frames=st.integers(0, 5),
    temperature=st.floats(0.05, 2),
    keep_ties=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_backend_with_random_options_is_the_definition(
    backend, device, shape, top_k, radius, neighborhood, free_frames, temperature, keep_ties, seed
):
    query, context = features(*shape, seed=seed)
    window = {"radius": radius, "neighborhood": neighborhood, "free_frames": free_frames}
    options = {"top_k": top_k, "temperature": temperature, "keep_ties": keep_ties}
    try:
        check(backend, device, query, context, **options, **window)
    except pytest.skip.Exception:
        assume(False)


@pytest.mark.parametrize("preset", ["siammae", "crw", "dino"])
def test_propagation_by_any_backend_gives_the_references_labels(backend, device, preset):
    video, masks = moving_square(frames=6, size=(60, 84))
    config = PropagationConfig.preset(preset).replace(resize=(60, 84), size_multiple=None, radius=4)

    def run(kernels, where):
        follow = Propagator(OnDevice(PixelExtractor(4), where), config, kernels=kernels)
        for t, frame in enumerate(video):
            given = masks[0] if t == 0 else np.where(masks[3], 2, 0).astype(np.uint8) if t == 3 else None
            yield follow.step(frame, mask=given).scores.cpu()

    for got, wanted in zip(run(backend, device), run("reference", "cpu"), strict=True):
        close = (got - wanted).abs() < 1e-4
        assert close.double().mean() > 0.99  # flat patches tie but for rounding


class OnDevice:
    """An extractor whose features are on another device."""

    def __init__(self, extractor, device):
        self._extractor, self._device, self.patch_size = extractor, device, extractor.patch_size

    def extract(self, frames, **options):
        return self._extractor.extract(frames, **options).to(self._device)


@pytest.mark.parametrize("kind", ["keys", "query"])
def test_backend_is_not_deceived_by_rounding(backend, device, kind):
    query, context = deceptive(kind)
    assert (dense_scores(query, context).argmax(dim=1) == BETTER).all()
    _, indices = match(backend, device, query, context, top_k=1, temperature=1.0)
    assert (indices == BETTER).all()


def test_backend_gives_top_k_columns_where_windows_hold_fewer(backend, device):
    query, context = features(32, 1, 5, 6)
    weights, indices = match(backend, device, query, context, top_k=9, temperature=0.1, radius=1)
    assert weights.shape == indices.shape == (30, 9)
    assert (weights[:, 1:] == 0).all()


@pytest.mark.parametrize("lengths", [(1, 1e-25), (1e-25, 1), (1, 1e22), (1e22, 1), (1e15, 1e-20), (1e-20, 1e15)])
def test_backend_takes_features_of_any_length(backend, device, lengths):
    """Lengths whose squares or whose rounding errors leave float32; the scores themselves do not."""
    query, context = features(48, 3, 12, 20, seed=6)
    query, context = query * lengths[0], context * lengths[1]
    window = {"radius": 6}
    scale = lengths[0] * lengths[1]
    weights, indices = match(backend, device, query, context, top_k=5, temperature=0.1 * scale, **window)
    options = {"top_k": 5, "temperature": 0.1, "keep_ties": False, "tolerance": 1e-5}
    assert_best(weights, indices, dense_scores(query, context, **window) / scale, **options)
