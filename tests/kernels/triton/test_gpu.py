"""The Triton kernels against independent float64 statements, on a CUDA device.

``test_interpreter.py`` runs this file a second time in Triton's interpreter, which needs no device. On a machine
that has one::

    SIAMMAE_REQUIRE_GPU=1 python -m pytest tests/kernels/triton/test_gpu.py        # a skip would be a failure
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \\
        python -m pytest tests/kernels/triton/test_gpu.py -k "not full_size"

The other tools are racecheck, initcheck and synccheck. Without the caching allocator each tensor has an allocation of
its own, so that memcheck sees a read beyond its end.
"""

import os
import random

import numpy as np
import pytest
import torch

from siammae.kernels import reference
from siammae.kernels.triton import ops as triton_ops

if (problem := triton_ops._no_triton()) is not None:
    pytest.skip(problem, allow_module_level=True)

from siammae.kernels.triton import labels as triton_labels
from siammae.kernels.triton import loss as triton_loss

pytestmark = pytest.mark.gpu
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(33, 3, 7, 13), (8, 2, 1, 9), (8, 2, 9, 1), (4, 3, 1, 1), (70, 2, 9, 17), (130, 1, 2, 2)]  # C, M, h, w


@pytest.fixture(autouse=True)
def add_up_in_one_order(monkeypatch):
    """Let the interpreter's products sum every column alike, as a GPU does: some BLAS make copies of a frame differ."""

    def matmul(a, b, dtype):
        a, b = a.astype(dtype), b.astype(dtype)
        return sum((a[:, c : c + 1] * b[c : c + 1] for c in range(1, a.shape[1])), start=a[:, :1] * b[:1])

    if INTERPRETED:
        monkeypatch.setattr(np, "matmul", matmul)


@pytest.fixture(autouse=True)
def fill_new_tensors_with_nan():
    """Make torch.empty return NaN, and the largest whole number: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.ones(1, device=DEVICE).new_empty(9).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def unit_features(shape, seed, dtype):
    """Return a query ``(C, h, w)`` and a context ``(M, C, h, w)`` whose last frame repeats the first."""
    channels, frames, h, w = shape
    values = torch.randn(1 + frames, channels, h, w, generator=torch.Generator().manual_seed(seed))
    values[-1] = values[1]
    values = torch.nn.functional.normalize(values, dim=1).to(dtype)
    return values[0], values[1:]


def naive(query, context, *, top_k, temperature, radius, neighborhood, free_frames):
    """Score all pairs in float64, sort them all: weights and indices ``(h*w, k)``, -1 where there is no candidate.

    Channel after channel: a BLAS may add up in another order from column to column, so that copies of a frame differ.
    """
    frames, channels, h, w = context.shape
    queries = query.double().numpy().reshape(channels, -1, 1)
    keys = context.double().numpy().swapaxes(0, 1).reshape(channels, 1, -1)
    scores = sum(queries[c] * keys[c] for c in range(channels))
    y, x = np.divmod(np.arange(h * w), w)
    dy, dx = y[:, None] - y, x[:, None] - x
    if radius is None:
        near = np.full((h * w, h * w), True)
    elif neighborhood == "square":
        near = np.maximum(abs(dy), abs(dx)) <= radius
    else:
        distance = np.hypot(dy, dx)
        near = distance < radius if neighborhood == "disk" else distance <= radius
    near = np.concatenate([np.full_like(near, True) if m < free_frames else near for m in range(frames)], axis=1)
    scores = np.where(near, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    best = np.take_along_axis(scores, order, axis=1)
    shares = np.exp((best - best[:, :1]) / temperature)
    return shares / shares.sum(axis=1, keepdims=True), np.where(np.isfinite(best), order, -1)


def match(query, context, **options):
    frames = [triton_ops.prepare(frame.to(DEVICE)) for frame in context]
    weights, indices = triton_ops.topk_affinity(query.to(DEVICE), frames, keep_ties=False, **options)
    assert weights.dtype == torch.float32
    assert indices.dtype == torch.int64
    return weights.cpu().numpy(), indices.cpu().numpy()


def assert_is_naive(query, context, atol=2e-6, **options):
    weights, indices = match(query, context, **options)
    expected_weights, expected_indices = naive(query, context, **options)
    assert weights.shape == expected_weights.shape
    np.testing.assert_allclose(weights, expected_weights, atol=atol, rtol=0)
    np.testing.assert_array_equal(np.where(expected_indices < 0, 0, indices), expected_indices.clip(0))
    assert indices.min() >= 0
    assert indices.max() < len(context) * query.shape[1] * query.shape[2]


def some_options(seed):
    draw = random.Random(seed)
    return {
        "top_k": draw.choice([1, 3, 5, 20]),
        "temperature": draw.choice([0.07, 0.7]),
        "radius": draw.choice([1, 2, 4, 50, None]),
        "neighborhood": draw.choice(["disk", "closed_disk", "square"]),
        "free_frames": draw.choice([0, 1, 3]),
    }


@pytest.mark.parametrize("seed", range(14))
def test_topk_affinity_with_any_options_is_the_dense_statement(seed):
    shape, dtype = SHAPES[seed % 2 and seed % len(SHAPES)], DTYPES[seed % 3]
    assert_is_naive(*unit_features(shape, seed, dtype), **some_options(seed))


@pytest.mark.parametrize("neighborhood", ["disk", "closed_disk", "square"])
@pytest.mark.parametrize("radius", [1, 3])
def test_topk_affinity_in_each_window_is_the_dense_statement(radius, neighborhood):
    options = {"top_k": 5, "temperature": 0.1, "radius": radius, "neighborhood": neighborhood, "free_frames": 1}
    assert_is_naive(*unit_features((33, 2, 7, 13), 1, torch.float32), **options)


@pytest.mark.parametrize("number", range(len(triton_ops._CONFIGS)))
def test_topk_affinity_in_each_configuration_is_the_dense_statement(number, monkeypatch):
    monkeypatch.setattr(triton_ops, "_CONFIGS", triton_ops._CONFIGS[number : number + 1])
    dtype = DTYPES[number % 3]
    options = {"top_k": 7, "temperature": 0.1, "radius": 3, "neighborhood": "disk", "free_frames": 1}
    assert_is_naive(*unit_features((70, 2, 3, 17), 2, dtype), **options)


@pytest.mark.parametrize("parts", [1, 7])
def test_topk_affinity_in_any_number_of_parts_is_the_dense_statement(parts, monkeypatch):
    plan = triton_ops.plan

    def divided(*arguments):
        task = plan(*arguments)
        steps = task.parts * task.steps_per_part
        return task._replace(parts=parts, steps_per_part=-(-steps // parts))

    monkeypatch.setattr(triton_ops, "plan", divided)
    options = {"top_k": 5, "temperature": 0.1, "radius": 2, "neighborhood": "square", "free_frames": 1}
    assert_is_naive(*unit_features((16, 3, 9, 18), 3, torch.float16), **options)


@pytest.mark.parametrize(
    ("radius", "free_frames", "dtype"), [(None, 0, DTYPES[0]), (2, 0, DTYPES[1]), (2, 1, DTYPES[2])]
)
def test_topk_affinity_when_similarities_are_equal_prefers_the_smaller_index(radius, free_frames, dtype):
    draw = torch.randint(-2, 3, (4, 4, 5, 18), generator=torch.Generator().manual_seed(4)).to(dtype)
    draw[-1] = draw[1]
    options = {"top_k": 4, "temperature": 3.0, "radius": radius, "free_frames": free_frames}
    assert_is_naive(draw[0], draw[1:], neighborhood="square", **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_affinity_of_constant_features_keeps_the_first_patches(dtype):
    query = torch.full((16, 5, 19), 0.25, dtype=dtype)
    options = {"top_k": 3, "temperature": 0.1, "radius": None, "neighborhood": "disk", "free_frames": 0}
    weights, indices = match(query, query.repeat(2, 1, 1, 1), **options)
    assert (indices == [0, 1, 2]).all()
    np.testing.assert_allclose(weights, 1 / 3, atol=1e-7)


def test_topk_affinity_of_zero_and_opposite_vectors_takes_minus_zero_for_zero():
    query, context = unit_features((16, 2, 3, 4), 5, torch.float32)
    query[:, 1, 2] = 0
    context[:, :, 0, 0] *= -0.0
    options = {"top_k": 9, "temperature": 0.1, "radius": None, "neighborhood": "disk", "free_frames": 0}
    assert_is_naive(query, context, **options)


@pytest.mark.parametrize("scale", [100.0, 1e-4])
def test_topk_affinity_of_other_lengths_is_the_dense_statement(scale):
    query, context = unit_features((33, 2, 4, 5), 6, torch.float32)
    options = {"top_k": 5, "temperature": scale**2, "radius": 3, "neighborhood": "disk", "free_frames": 0}
    assert_is_naive(query * scale, context * scale, atol=1e-5, **options)


def test_float32_features_are_laid_out_with_22_bits():
    features = unit_features((70, 1, 5, 6), 7, torch.float32)[0].to(DEVICE)
    features[0, 0, 0] = 1e-6
    halves = triton_ops.prepare(features)
    assert halves.shape == (5, 6, 2, 128)
    assert halves.is_contiguous()
    whole = halves[:, :, 0].double() + halves[:, :, 1].double() / 2048
    torch.testing.assert_close(whole[..., :70].permute(2, 0, 1), features.double(), rtol=2**-21, atol=2**-36)
    assert not whole[..., 70:].any()


def test_topk_affinity_compiles_to_one_operator():
    query, context = unit_features((8, 2, 3, 4), 8, torch.float32)
    frames = [triton_ops.prepare(frame.to(DEVICE)) for frame in context]
    options = {"temperature": 0.1, "radius": 2, "neighborhood": "disk", "free_frames": 1, "keep_ties": False}
    nodes = []

    def look(graph, inputs):
        nodes.extend(str(node.target) for node in graph.graph.nodes if "siammae" in str(node.target))
        return graph.forward

    def run(query):
        return triton_ops.topk_affinity(query, frames, top_k=2, **options)

    torch.use_deterministic_algorithms(False)
    compiled = torch.compile(run, backend=look, fullgraph=True)(query.to(DEVICE))
    assert nodes == ["siammae.topk_affinity.default"]
    for got, wanted in zip(compiled, run(query.to(DEVICE)), strict=True):
        assert torch.equal(got, wanted)


def test_topk_affinity_passes_the_checks_of_custom_operators():
    query, context = unit_features((8, 2, 3, 4), 9, torch.float32)
    frames = [triton_ops.prepare(frame.to(DEVICE)) for frame in context]
    torch.library.opcheck(
        torch.ops.siammae.topk_affinity.default, (triton_ops.prepare(query.to(DEVICE)), frames, 3, 0.1, 2, "disk", 1)
    )


def test_topk_affinity_of_patches_too_long_for_the_device_is_refused():
    query = torch.zeros(1 << 17, 1, 1, dtype=torch.float16, device=DEVICE)
    frame = triton_ops.prepare(query)
    options = {"temperature": 0.1, "radius": 2, "neighborhood": "disk", "free_frames": 1, "keep_ties": False}
    with pytest.raises(ValueError, match="a patch of 262144 bytes does not fit: ask refusal"):
        triton_ops.topk_affinity(query, [frame], top_k=2, **options)


def loss_and_gradient(loss, prediction, target, hidden, norm_pix):
    prediction = prediction.detach().clone().requires_grad_()
    value = loss(prediction[:, 1:], target, hidden, norm_pix)  # a view: rows of an image are contiguous, images not
    (3 * value).backward()
    return value.detach(), prediction.grad


def loss_inputs(values, dtype):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(3, 8, values, generator=generator).to(DEVICE, dtype)
    target = torch.rand(3, 7, values, generator=generator).to(DEVICE, dtype)
    target[0, 0] = 0.5  # a patch of one colour: only the 1e-6 keeps it finite
    hidden = torch.rand(3, 7, generator=generator).to(DEVICE) < 0.7
    hidden[0, 0], hidden[2, 6] = True, False
    return prediction, target, hidden


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("values", [3, 75, 192])
@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_patch_loss_and_its_gradient_are_those_of_float64(norm_pix, values, dtype):
    prediction, target, hidden = loss_inputs(values, dtype)
    value, gradient = loss_and_gradient(triton_loss.masked_patch_loss, prediction, target, hidden, norm_pix)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype

    def statement(prediction, target, hidden, norm_pix):
        if norm_pix:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (prediction - target)[hidden].square().mean()

    expected, slope = loss_and_gradient(statement, prediction.double(), target.double(), hidden, norm_pix)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    assert not gradient[:, 1:][~hidden].any()


def test_masked_patch_loss_is_the_reference_also_when_patches_are_not_contiguous():
    prediction, target, hidden = loss_inputs(12, torch.float32)
    target = target.transpose(1, 2).contiguous().transpose(1, 2)
    got = loss_and_gradient(triton_loss.masked_patch_loss, prediction, target, hidden, True)
    wanted = loss_and_gradient(
        lambda *inputs: reference.masked_patch_loss(*inputs[:3], norm_pix=inputs[3]), prediction, target, hidden, True
    )
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_masked_patch_loss_passes_the_checks_of_custom_operators():
    prediction, target, hidden = loss_inputs(12, torch.float32)
    inputs = (prediction[:, 1:].detach().requires_grad_(), target, hidden, True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")  # the fourth warns of views
    torch.library.opcheck(torch.ops.siammae.masked_patch_loss.default, inputs, test_utils=checks)


@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.float32), (3, torch.bfloat16)])
def test_gather_labels_is_the_dense_statement(channels, dtype):
    generator = torch.Generator().manual_seed(1)
    labels = torch.rand(2, channels, 10, 17, generator=generator).to(dtype)
    weights = torch.rand(170, 5, generator=generator)
    weights[3, 4] = 0
    indices = torch.randint(0, 340, (170, 5), generator=generator)
    dense = torch.zeros(170, 340, dtype=torch.float64).scatter_add_(1, indices, weights.double())
    expected = dense @ labels.double().permute(0, 2, 3, 1).reshape(340, channels)
    inputs = (weights.to(DEVICE), indices.to(DEVICE), labels.to(DEVICE))
    mixed = triton_labels.gather_labels(*inputs)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.cpu().double().reshape(channels, 170).T, expected, atol=1e-6, rtol=1e-6)
    torch.library.opcheck(torch.ops.siammae.gather_labels.default, inputs)


@pytest.mark.skipif(INTERPRETED, reason="too slow for the interpreter")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("grid", "frames", "radius", "top_k", "neighborhood"),
    [
        ((30, 55), 8, 12, 5, "square"),
        ((60, 110), 21, 20, 7, "disk"),
    ],
)
def test_topk_affinity_at_full_size_has_the_scores_of_the_reference(dtype, grid, frames, radius, top_k, neighborhood):
    """Compare scores and not indices: among millions of pairs some are equal but for the last bit."""
    query, context = unit_features((384, frames, *grid), 10, dtype)
    options = {"top_k": top_k, "temperature": 0.1, "radius": radius, "neighborhood": neighborhood, "free_frames": 1}
    weights, indices = match(query, context, **options)
    flat = context.double().permute(0, 2, 3, 1).reshape(-1, 384).to(DEVICE)
    rows = query.double().reshape(384, -1).T.to(DEVICE)
    scores = torch.einsum("pc,pkc->pk", rows, flat[torch.from_numpy(indices).to(DEVICE)])
    torch.testing.assert_close(
        torch.softmax(scores / 0.1, dim=1).cpu().float(), torch.from_numpy(weights), atol=2e-5, rtol=0
    )
    expected, _ = reference.topk_affinity(query.to(DEVICE), list(context.to(DEVICE)), keep_ties=False, **options)
    np.testing.assert_allclose(weights, expected.cpu().numpy(), atol=2e-5, rtol=0)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter has no devices and no streams")
def test_topk_affinity_runs_on_any_device_and_stream():
    query, context = unit_features((33, 2, 7, 13), 11, torch.float32)
    options = {"top_k": 3, "temperature": 0.1, "radius": 3, "neighborhood": "disk", "free_frames": 0}
    wanted = naive(query, context, **options)[1]
    for device in range(torch.cuda.device_count()):
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):  # the current device is the stream's only inside
            frames = [triton_ops.prepare(frame.to(f"cuda:{device}")) for frame in context]
            _, indices = triton_ops.topk_affinity(query.to(f"cuda:{device}"), frames, keep_ties=False, **options)
        stream.synchronize()
        np.testing.assert_array_equal(indices.cpu().numpy(), wanted)
