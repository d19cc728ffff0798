"""The native backend against a dense float64 matrix, on every instruction set of the machine."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from siammae.kernels.native import affinity as native
from siammae.kernels.native import library as native_library

pytestmark = pytest.mark.usefixtures("nan_in_new_memory", "threads_as_before")
built = pytest.mark.skipif(native.status() != "available", reason=f"native kernels: {native.status()}")
ISAS = native_library.instruction_sets() if native.status() == "available" else ("none",)
TOLERANCE = 1e-6  # of a cosine, for up to 96 channels


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv(native_library.ENVIRONMENT, request.param)
    return request.param


def unit(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-3)


def affinity(query, context, **changes):
    options = {"top_k": 5, "temperature": 0.1, "radius": 2, "neighborhood": "disk", "free_frames": 0}
    frames = [native.prepare(frame) for frame in context]
    return native.topk_affinity(query, frames, **{**options, "keep_ties": False, **changes})


def dense(query, context, radius, neighborhood, free_frames):
    """All similarities in float64, -inf outside the windows: (h*w, M*h*w)."""
    (_, h, w), frames = query.shape, len(context)
    scores = torch.einsum("cq,mck->qmk", query.flatten(1).double(), context.flatten(2).double())
    y, x = (places.flatten() for places in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    dy, dx = y[:, None] - y, x[:, None] - x
    if radius is not None:
        squared = dy**2 + dx**2
        near = {
            "disk": squared < radius**2,
            "closed_disk": squared <= radius**2,
            "square": (dy.abs() <= radius) & (dx.abs() <= radius),
        }[neighborhood]
        scores[:, free_frames:] = scores[:, free_frames:].masked_fill(~near[:, None], -torch.inf)
    return scores.reshape(h * w, frames * h * w)


def check(query, context, *, top_k, radius, neighborhood, free_frames, tolerance=TOLERANCE, temperature=0.1):
    """Each place of each row holds a patch as good as that place's best, once, with the softmax's weight."""
    rules = {"radius": radius, "neighborhood": neighborhood, "free_frames": free_frames}
    weights, indices = affinity(query, context, top_k=top_k, temperature=temperature, **rules)
    exact = dense(query, context, **rules)
    k = min(top_k, exact.shape[1])
    assert weights.shape == indices.shape == (len(exact), k)
    assert weights.dtype == torch.float32
    best = exact.topk(k, dim=1).values
    real = best > -torch.inf
    found = exact.gather(1, indices).masked_fill(~real, -torch.inf)
    assert (found >= best - tolerance)[real].all()
    assert not weights[~real].any()
    for row, filled in zip(indices.tolist(), real.sum(1).tolist(), strict=True):
        assert len(set(row[:filled])) == filled
    expected = torch.softmax(found / temperature, dim=1)
    torch.testing.assert_close(weights.double(), expected, atol=4 * tolerance / temperature, rtol=0)


SHAPES = [(33, 3, 7, 13), (96, 2, 9, 37), (5, 2, 1, 70), (64, 2, 30, 1), (1, 2, 3, 3), (34, 1, 17, 17)]


@built
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("neighborhood", ["disk", "closed_disk", "square"])
@pytest.mark.parametrize(("radius", "free_frames"), [(None, 0), (1, 0), (2, 1), (5, 0), (7, 9), (50, 0), (10**9, 0)])
def test_topk_affinity_native_matches_float64(isa, shape, neighborhood, radius, free_frames):
    channels, frames, h, w = shape
    query, context = unit(channels, h, w), unit(frames, channels, h, w, seed=1)
    for top_k in (1, 5, 1000) if h * w < 100 else (6,):
        check(query, context, top_k=top_k, radius=radius, neighborhood=neighborhood, free_frames=free_frames)


@built
@pytest.mark.parametrize("spread", [1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("channels", [31, 64])
def test_topk_affinity_native_tells_apart_scores_closer_than_its_screen(isa, spread, channels):
    generator = torch.Generator().manual_seed(2)
    context = torch.randn(channels, 1, 1, generator=generator) + spread * torch.randn(
        3, channels, 9, 21, generator=generator
    )
    query = torch.randn(channels, 9, 21, generator=generator)
    query, context = (torch.nn.functional.normalize(f, dim=-3) for f in (query, context))
    check(query, context, top_k=4, radius=6, neighborhood="disk", free_frames=1)


@built
@pytest.mark.parametrize("kind", ["normal", "alike", "outlier", "constant"])
@pytest.mark.parametrize(("channels", "free_frames"), [(6, 0), (31, 1), (128, 0)])
def test_topk_affinity_native_without_its_coarse_screen_gives_the_same_bits(monkeypatch, kind, channels, free_frames):
    frames = unit(6, channels, 21, 37)
    if kind == "outlier":
        frames[:, 3] += 2
    if kind in ("alike", "constant"):
        frames = frames[:1, :, :1, :1] + (1e-3 if kind == "alike" else 0) * frames
    frames = torch.nn.functional.normalize(frames, dim=1)
    rules = {"radius": 6, "free_frames": free_frames, "keep_ties": kind == "alike"}
    both = affinity(frames[0], frames[1:], **rules)
    monkeypatch.setattr(native, "_MOST_COARSE", 0)
    assert all(map(torch.equal, both, affinity(frames[0], frames[1:], **rules)))


@built
@pytest.mark.parametrize("magnitude", [1e-12, 1e4, 1e15])
def test_topk_affinity_native_takes_any_magnitude(isa, magnitude):
    query, context = unit(33, 7, 13), unit(2, 33, 7, 13, seed=1) * torch.rand(2, 1, 7, 13)
    plain = affinity(query, context)[1]
    weights, indices = affinity(query, context * magnitude, temperature=0.1 * magnitude)
    assert weights.isfinite().all()
    assert (plain == indices).float().mean() > 0.999  # the same but for near-ties


@built
def test_topk_affinity_native_takes_zeros(isa):
    zeros = torch.zeros(8, 5, 6)
    weights, indices = affinity(zeros, zeros[None], top_k=3, radius=None)
    torch.testing.assert_close(weights, torch.full((30, 3), 1 / 3))
    assert (indices == torch.arange(3)).all()


@built
@pytest.mark.parametrize("radius", [None, 3])
def test_topk_affinity_native_gives_equal_scores_to_the_smaller_index(isa, radius):
    query, frame = unit(33, 12, 19), unit(33, 12, 19, seed=1)
    patches = 12 * 19
    _, indices = affinity(query, frame.expand(3, -1, -1, -1), top_k=6, radius=radius)
    assert (indices[:, 1::3] == indices[:, ::3] + patches).all()
    assert (indices[:, 2::3] == indices[:, ::3] + 2 * patches).all()
    constant = torch.full((33, 12, 19), 33**-0.5)
    _, indices = affinity(constant, constant[None], top_k=6, radius=radius)
    inside = dense(constant, constant[None], radius, "disk", 0) > -torch.inf
    first = inside.int().topk(6, dim=1).values.bool()
    expected = torch.stack([row.nonzero()[:6, 0] for row in inside])
    assert first.all()
    assert torch.equal(indices, expected)


@built
def test_topk_affinity_native_keeps_ties_when_asked(isa):
    query, frame = unit(33, 6, 7), unit(33, 6, 7, seed=1)
    context = torch.stack([frame, frame, unit(33, 6, 7, seed=2), frame])
    weights, indices = affinity(query, context, top_k=1, radius=None, keep_ties=True)
    best = dense(query, context, None, "disk", 0).max(dim=1, keepdim=True).values
    tied = (dense(query, context, None, "disk", 0) > best - 1e-9).sum(1)
    assert set(tied.tolist()) == {1, 3}
    assert weights.shape == (42, 3)
    assert torch.equal((weights > 0).sum(1), tied)
    three = tied == 3
    assert (indices[three] - indices[three][:, :1] == torch.tensor([0, 42, 126])).all()
    torch.testing.assert_close(weights[three], torch.full((int(three.sum()), 3), 1 / 3))


@built
def test_topk_affinity_native_is_the_same_for_any_number_of_threads(isa):
    query, context = unit(48, 30, 41), unit(3, 48, 30, 41, seed=1)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(affinity(query, context, radius=9, free_frames=1))
    for one, other in itertools.pairwise(results):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@built
def test_topk_affinity_native_scores_a_pair_alike_wherever_it_lies(isa):
    query, context = unit(48, 11, 45), unit(1, 48, 11, 45, seed=1)
    weights, _ = affinity(query, context, radius=None, top_k=20)
    moved, _ = affinity(query.roll((2, 5), (1, 2)), context.roll((3, 13), (2, 3)), radius=None, top_k=20)
    assert torch.equal(weights.reshape(11, 45, 20).roll((2, 5), (0, 1)), moved.reshape(11, 45, 20))


@built
def test_prepare_takes_a_strided_frame_of_another_dtype(isa):
    query, frame = unit(16, 5, 6), unit(5, 6, 16).permute(2, 0, 1).bfloat16()
    got = affinity(query, [frame])
    expected = affinity(query, [frame.float().contiguous()])
    assert torch.equal(got[1], expected[1])


def test_refusal_names_the_device_and_the_longest_list():
    rules = {"radius": 2, "neighborhood": "disk", "free_frames": 0, "keep_ties": False}
    assert native.refusal(torch.empty(3, 4, 5), top_k=5, **rules) is None
    assert "features are on meta" in native.refusal(torch.empty(3, 4, 5, device="meta"), top_k=5, **rules)
    assert "top_k is 5000" in native.refusal(torch.empty(3, 4, 5), top_k=5000, **rules)


def test_status_when_the_library_is_missing_or_damaged_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(native_library, "LIBRARY", tmp_path / "lib.so")
    assert "not built" in native.status()
    with pytest.raises(RuntimeError, match="no native kernels here: not built"):
        native.prepare(unit(3, 4, 5))
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"not a library")
    monkeypatch.setattr(native_library, "LIBRARY", damaged)
    assert "cannot be loaded" in native.status()


@built
def test_status_when_the_library_is_of_another_version_says_so(monkeypatch, tmp_path):
    copy = Path(tmp_path / "lib.so")
    copy.write_bytes(native_library.LIBRARY.read_bytes())
    monkeypatch.setattr(native_library, "LIBRARY", copy)
    monkeypatch.setattr(native_library, "_ABI", -7)
    assert "where this version needs -7" in native.status()


@built
def test_instruction_set_in_the_environment_is_used_or_refused(monkeypatch):
    assert native_library.instruction_sets()[-1] == "portable"
    monkeypatch.delenv(native_library.ENVIRONMENT, raising=False)
    assert native.detail() == native_library.instruction_sets()[0]
    frame = native.prepare(unit(3, 4, 5))
    monkeypatch.setenv(native_library.ENVIRONMENT, "portable")
    assert native.detail() == "portable"
    monkeypatch.setenv(native_library.ENVIRONMENT, "mmx")
    with pytest.raises(ValueError, match=r"SIAMMAE_NATIVE_ISA is 'mmx': it must be one of .*portable here"):
        native.prepare(unit(3, 4, 5))
    rules = {"top_k": 1, "temperature": 1.0, "radius": 1, "neighborhood": "disk", "free_frames": 0, "keep_ties": False}
    with pytest.raises(ValueError, match="laid out for several instruction sets"):
        native.topk_affinity(unit(3, 4, 5), [frame, frame._replace(level=frame.level + 1)], **rules)


@built
def test_topk_affinity_native_without_memory_raises(monkeypatch):
    query, frame = unit(3, 4, 5), native.prepare(unit(3, 4, 5))

    class Poor:
        siammae_native_topk = staticmethod(lambda *_: 1)

    monkeypatch.setattr(native_library, "load", Poor)
    with pytest.raises(MemoryError, match="fewer threads need less"):
        native._run(query, [frame], 1, torch.tensor([0]), 0)


# No PyTorch in this process, so no OpenMP: the library makes its own threads.
WITHOUT_PYTORCH = """
import ctypes, struct, sys
import numpy as np

library = ctypes.CDLL(sys.argv[1])
assert not hasattr(ctypes.CDLL(None), "GOMP_parallel")
level = next(i for i in range(library.siammae_native_levels()) if library.siammae_native_level_runs(i))
c, h, w, k = 6, 21, 37, 3
patches = np.random.default_rng(0).standard_normal((2, h, w, c)).astype(np.float32)
patches /= np.linalg.norm(patches, axis=-1, keepdims=True)
words = np.empty(h * w * c + 64, np.float32)
coarse = np.empty_like(words)
numbers = (words.ctypes.data, 0, 0, coarse.ctypes.data, 0, 0, patches[1].ctypes.data, 0)
frame = ctypes.create_string_buffer(struct.pack("q2dq2dqd", *numbers))
library.siammae_native_layout.argtypes = (*[ctypes.c_int64] * 3, ctypes.c_int32, ctypes.c_void_p)
assert library.siammae_native_layout(c, h, w, level, frame) == 0
half = np.full(h + w + 1, h + w)
found = []
for threads in (1, 3):
    scores, indices, tied = np.empty((h * w, k), np.float32), np.empty((h * w, k), np.int64), np.empty(h * w, np.int64)
    arrays = (half, patches[0], frame, scores, indices, tied)
    addresses = (ctypes.addressof(a) if a is frame else a.ctypes.data for a in arrays)
    problem = (ctypes.c_int64 * 13)(c, h, w, 1, 1, k, h + w, *addresses)
    assert library.siammae_native_topk(problem, level, threads) == 0
    found.append((scores, indices))
best = np.sort(patches[0].reshape(-1, c) @ patches[1].reshape(-1, c).T, axis=1)[:, : -k - 1 : -1]
assert np.abs(found[0][0] - best).max() < 1e-5
assert all(np.array_equal(*pair) for pair in zip(*found))
"""


def test_library_makes_its_own_threads_where_no_openmp_is_loaded():
    run = [sys.executable, "-c", WITHOUT_PYTORCH, str(native_library.LIBRARY)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
