"""How the CPU path works inside: nothing that it chooses by speed or memory changes a bit."""

import pytest
import torch

from siammae.errors import KernelUnavailableError
from siammae.kernels import reference
from siammae.kernels.torch_cpu import affinity as cpu
from siammae.kernels.torch_cpu import screening, selection
from siammae.propagation.affinity import topk_affinity, unit_length
from tests.kernels.deceptive import BETTER, deceptive

OPTIONS = {
    "top_k": 5,
    "temperature": 0.1,
    "radius": 4,
    "neighborhood": "disk",
    "free_frames": 1,
    "keep_ties": False,
}


@pytest.fixture(params=["8 bits", "float32"], autouse=True)
def screened(request, monkeypatch):
    """Every test runs with either screen, whatever this machine would choose."""
    rounded = request.param == "8 bits"
    if rounded and not screening.right_in_8_bits():
        pytest.skip("products of 8 bits are not exact here")
    monkeypatch.setattr(screening, "rounds", lambda: rounded)
    return request.param


def frames(count=4, channels=48, h=21, w=37):
    generator = torch.Generator().manual_seed(0)
    draw = unit_length(torch.randn(count + 1, channels, h, w, generator=generator))
    draw[2] = draw[1]
    return draw[0], [cpu.prepare(frame) for frame in draw[1:]]


@pytest.fixture
def plain():
    return cpu.topk_affinity(*frames(), **OPTIONS)


@pytest.mark.parametrize("tile", [(1, 1), (3, 5), (64, 64)])
def test_tiles_of_another_size_give_the_same_bits(monkeypatch, plain, tile):
    monkeypatch.setattr(cpu, "_TILE", tile)
    assert all(map(torch.equal, cpu.topk_affinity(*frames(), **OPTIONS), plain))


@pytest.mark.parametrize("held", [1, 30_000])
def test_little_memory_gives_the_same_bits(monkeypatch, plain, held):
    monkeypatch.setattr(cpu, "_HELD", held)
    assert all(map(torch.equal, cpu.topk_affinity(*frames(), **OPTIONS), plain))


@pytest.mark.parametrize("product", sorted(screening._PRODUCTS))
def test_either_product_gives_the_same_bits(monkeypatch, plain, product):
    monkeypatch.setattr(screening, "product_name", lambda: product)
    assert all(map(torch.equal, cpu.topk_affinity(*frames(), **OPTIONS), plain))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_give_the_same_bits_and_leave_their_number_as_it_was(plain, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert all(map(torch.equal, cpu.topk_affinity(*frames(), **OPTIONS), plain))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("rare", "many"), [(10**9, 512), (1, 512), (1, 0), (10**9, 3)])
@pytest.mark.parametrize("keep_ties", [False, True])
def test_queries_in_doubt_get_the_same_bits(monkeypatch, rare, many, keep_ties):
    options = {**OPTIONS, "keep_ties": keep_ties}
    before = cpu.topk_affinity(*frames(), **options)
    monkeypatch.setattr(selection, "_RARE", rare)  # 10**9: a screen in 8 bits is given up at once
    monkeypatch.setattr(selection, "_MANY", many)  # 0: all patches of every query are compared
    monkeypatch.setattr(selection, "_PACKED", 10_000)
    monkeypatch.setattr(selection, "_GATHERED", 100)
    after = cpu.topk_affinity(*frames(), **options)
    assert torch.equal(after[0], before[0])
    inside = after[0] > 0
    assert torch.equal(after[1][inside], before[1][inside])


def test_a_frame_whose_patches_lie_side_by_side_is_not_copied():
    features = torch.rand(5, 7, 16).permute(2, 0, 1)
    assert cpu.prepare(features).patches.data_ptr() == features.data_ptr()


def test_features_with_gradients_are_searched_without_them():
    query, context = torch.rand(8, 4, 5, requires_grad=True), torch.rand(2, 8, 4, 5)
    assert not topk_affinity(query, context, top_k=2, temperature=0.1, kernels="cpu").weights.requires_grad


def test_cpu_kernels_refuse_other_devices():
    features = torch.ones(4, 2, 2, device="meta")
    assert cpu.refusal(features, top_k=1, radius=1, neighborhood="disk", free_frames=0, keep_ties=False) == (
        "query is on meta"
    )


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_cpu_kernels_refuse_coarse_products(precision):
    query = torch.rand(8, 4, 5)
    torch.set_float32_matmul_precision(precision)
    try:
        with pytest.raises(KernelUnavailableError, match=r"precision.* is on, and it needs full float32 products"):
            topk_affinity(query, query[None], top_k=2, temperature=0.1, kernels="cpu")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_cpu_kernels_name_their_product(screened):
    assert cpu.detail().split(",")[0] in ("by matrix product", "by oneDNN")
    assert cpu.detail().endswith("screened in 8 bits") == (screened == "8 bits")


def test_either_screen_gives_the_same_bits(monkeypatch, plain):
    monkeypatch.setattr(screening, "rounds", lambda: False)
    assert all(map(torch.equal, cpu.topk_affinity(*frames(), **OPTIONS), plain))


def one_tile(query, context):
    _, h, w = query.shape
    rules = {"radius": None, "neighborhood": "disk", "free_frames": 0}
    search = screening.Search(context, tile=(h, w), held=10**9, **rules)
    queries = query.permute(1, 2, 0).flatten(0, 1).contiguous()
    return search, search.tiles[0], queries, torch.empty(search.held())


@pytest.mark.parametrize("kind", ["normal", "outlier", "alike", "tiny", "huge", "zero", "one channel"])
def test_no_screened_score_is_further_off_than_its_margin(screened, kind):
    generator = torch.Generator().manual_seed(3)
    draw = torch.randn(3, 96, 6, 7, generator=generator)
    if kind == "outlier":
        draw[:, 5] += 40
    if kind == "alike":
        draw = draw[:, :, :1, :1] + 1e-3 * draw
    if kind == "one channel":
        draw = draw[:, :1]
    draw *= {"tiny": 1e-30, "huge": 1e12, "zero": 0}.get(kind, 1)
    if kind not in ("tiny", "huge"):
        draw = unit_length(draw)
    query, context = draw[0], [cpu.prepare(frame) for frame in draw[1:]]
    search, tile, queries, held = one_tile(query, context)
    screen = search.screen(tile, queries, held, rounded=context[0].rounded is not None)
    assert screen.rounded == (screened == "8 bits" and kind != "one channel")
    unit = screening._round(queries).scale if screen.rounded else torch.ones(len(queries))
    for frame, scores in zip(context, screen.parts[0].scores, strict=True):
        exact = frame.patches.flatten(0, 1).double() @ queries.T.double()
        off = (scores.double() * unit.double() - exact).abs()
        assert (off <= screen.margin.double() * unit.double()).all()


def test_features_that_look_alike_are_screened_in_float32(monkeypatch, screened):
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(1, 48, 1, 1, generator=generator)
    draw = unit_length(base + 0.02 * torch.randn(5, 48, 21, 37, generator=generator))
    context = [cpu.prepare(frame) for frame in draw[1:]]
    asked = []
    screen = screening.Search.screen

    def watched(self, *args, rounded):
        asked.append(rounded)
        return screen(self, *args, rounded=rounded)

    monkeypatch.setattr(screening.Search, "screen", watched)
    found = cpu.topk_affinity(draw[0], context, **OPTIONS)
    wanted = reference.topk_affinity(draw[0], [reference.prepare(frame) for frame in draw[1:]], **OPTIONS)
    assert torch.allclose(found[0], wanted[0], atol=1e-4)
    # Given up at the second tile of each thread, then never tried again.
    assert 1 <= asked.count(True) <= 2 * torch.get_num_threads() if screened == "8 bits" else not any(asked)


@pytest.mark.parametrize("kind", ["keys", "query"])
def test_screen_is_never_trusted_by_more_than_its_margin(monkeypatch, kind):
    monkeypatch.setattr(selection, "_RARE", 0)  # no screen in 8 bits is given up
    query, context = deceptive(kind)
    rules = {**OPTIONS, "top_k": 1, "radius": None, "free_frames": 0}
    _, indices = cpu.topk_affinity(query, [cpu.prepare(frame) for frame in context], **rules)
    assert (indices == BETTER).all()


def test_features_that_are_all_equal_make_no_long_lists(monkeypatch):
    found = []
    candidates = cpu.candidates
    monkeypatch.setattr(cpu, "candidates", lambda *args: found.append(candidates(*args)) or found[-1])
    frame = unit_length(torch.ones(32, 24, 30))
    rules = {**OPTIONS, "radius": 9, "free_frames": 0}
    weights, indices = cpu.topk_affinity(frame, [cpu.prepare(frame)] * 6, **rules)
    assert all(len(among.rows) <= selection._MANY * 256 // 8 for among in found)
    assert all(len(among.crowded) for among in found)
    wanted = reference.topk_affinity(frame, [reference.prepare(frame)] * 6, **rules)
    assert torch.equal(indices, wanted[1])
    assert torch.allclose(weights, wanted[0])
