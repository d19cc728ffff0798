"""The quick layers against the ordinary ones: same results by either route, and out of the way in training."""

import copy
import pickle
import warnings

import pytest
import timm
import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from siammae import features
from siammae.kernels import onednn
from siammae.kernels.native import attention as native_attention
from siammae.network import cpu_layers as cpu_layers
from siammae.network.cpu_layers import (
    CpuAttention,
    CpuMlp,
    attention_route,
    faster_products,
    multiplies_bfloat16,
    product_route,
    use_cpu_layers,
)
from siammae.network.timm_extractor import TimmExtractor
from tests.helpers import moving_square, ramp_weights, tiny_model


@pytest.fixture(params=[("linear", "pytorch"), ("onednn", "onednn"), ("onednn", "native")], ids=" ".join)
def route(request, monkeypatch):
    product, attention = request.param
    if attention == "native" and not native_attention.attends(torch.float32):
        pytest.skip("no native attention here")

    def attention_route(dtype, width=64):
        return attention if attention != "native" or native_attention.attends(dtype, width) else "pytorch"

    monkeypatch.setattr(cpu_layers, "product_route", lambda dtype: product)
    monkeypatch.setattr(cpu_layers, "attention_route", attention_route)
    return request.param


def skip_without_bfloat16(route):
    """oneDNN refuses bfloat16 on CPUs that cannot multiply it, and the package does not ask it to there."""
    if "onednn" in route and not cpu_layers.multiplies_bfloat16():
        pytest.skip("this CPU has no bfloat16 products")


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(1, 33), (2, 7, 33), (2, 3, 5, 33), (0, 33), (33,)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_by_the_faster_route_equals_the_ordinary_one(route, shape, bias):
    linear = ramp_weights(nn.Linear(33, 13, bias=bias))
    x = tokens(*shape)
    for given in (x, x[..., :1].expand(shape)):  # the second one is not contiguous
        with torch.no_grad():
            expected = linear(given)
            with faster_products(torch.float32):
                torch.testing.assert_close(linear(given), expected, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(cpu_layers._multiply(linear, given), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"qk_norm": True, "norm_layer": nn.LayerNorm}, {"qkv_bias": True}], ids=["plain", "normed", "bias"]
)
@pytest.mark.parametrize("masked", [False, True])
def test_quick_attention_equals_timms(route, options, masked):
    plain = ramp_weights(Attention(24, num_heads=3, **options)).eval()
    quick = copy.deepcopy(plain)
    use_cpu_layers(quick)
    assert type(quick) is CpuAttention
    mask = torch.zeros(7, 7).masked_fill(torch.ones(7, 7).triu(1).bool(), float("-inf")) if masked else None
    with torch.no_grad():
        x = tokens(2, 7, 24)
        torch.testing.assert_close(quick(x, attn_mask=mask), plain(x, attn_mask=mask), atol=1e-6, rtol=1e-5)


def test_quick_attention_over_many_tokens_equals_timms(route, monkeypatch):
    monkeypatch.setattr(cpu_layers, "_QUERIES", 4)
    plain = ramp_weights(Attention(24, num_heads=3)).eval()
    quick = copy.deepcopy(plain)
    use_cpu_layers(quick)
    with torch.no_grad():
        x = tokens(2, 11, 24)
        torch.testing.assert_close(quick(x), plain(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"norm_layer": nn.LayerNorm}, {"act_layer": nn.ReLU}, {"act_layer": nn.Identity}],
    ids=["plain", "no bias", "norm", "relu", "none"],
)
def test_quick_mlp_equals_timms(route, options):
    plain = ramp_weights(Mlp(24, 33, **options)).eval()
    quick = copy.deepcopy(plain)
    use_cpu_layers(quick)
    assert type(quick) is CpuMlp
    with torch.no_grad():
        x = tokens(2, 7, 24)
        torch.testing.assert_close(quick(x), plain(x), atol=1e-5, rtol=1e-5)


def test_quick_layers_in_bfloat16_equal_the_ordinary_ones_to_its_rounding(route):
    skip_without_bfloat16(route)
    plain = ramp_weights(nn.Sequential(nn.Linear(24, 24), Attention(24, num_heads=3), Mlp(24, 33))).bfloat16()
    quick = copy.deepcopy(plain)
    use_cpu_layers(quick)
    with torch.no_grad():
        x = tokens(2, 7, 24).bfloat16()
        exact = copy.deepcopy(plain).float()(x.float())
        error, theirs = (quick(x) - exact).norm(), (plain(x) - exact).norm()
        assert error <= 2 * theirs


def test_quick_mlp_in_training_drops_out_as_timms(route):
    quick = Mlp(24, 33, drop=0.5).train()
    use_cpu_layers(quick)
    with torch.no_grad():
        x = tokens(2, 7, 24)
        assert not torch.equal(quick(x), quick(x))


def test_quick_layers_without_dropout_give_the_same_in_training_mode(route):
    quick = ramp_weights(nn.Sequential(Attention(24, num_heads=3), Mlp(24, 33)))
    use_cpu_layers(quick)
    with torch.no_grad():
        x = tokens(2, 7, 24)
        assert torch.equal(quick.train()(x), quick.eval()(x))


def test_quick_attention_in_training_drops_out_as_timms(route):
    quick = Attention(24, num_heads=3, attn_drop=0.5).train()
    use_cpu_layers(quick)
    with torch.no_grad():
        x = tokens(2, 7, 24)
        assert not torch.equal(quick(x), quick(x))


def test_quick_layers_give_the_ordinary_gradients_bit_by_bit():
    plain = ramp_weights(nn.Sequential(nn.Linear(8, 8), Attention(8, num_heads=2), Mlp(8))).eval()
    quick = copy.deepcopy(plain)
    use_cpu_layers(quick)
    for network in (plain, quick):
        network(tokens(2, 5, 8)).square().sum().backward()
    for mine, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_quicken_leaves_tensors_names_and_other_classes_alone():
    class Own(nn.Linear):
        pass

    network = nn.ModuleDict({"a": nn.Linear(4, 4), "b": Own(4, 4), "c": nn.LayerNorm(4)})
    before = dict(network.state_dict())
    use_cpu_layers(network)
    use_cpu_layers(network)  # twice is once
    assert [type(part) for part in network.values()] == [nn.Linear, Own, nn.LayerNorm]
    assert all(before[name].data_ptr() == tensor.data_ptr() for name, tensor in network.state_dict().items())


CPUS = [
    # what /proc/cpuinfo or the system says, whether AMD made it, whether it is of Zen 5 or later
    ("processor: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\n", "", True, True),
    ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\n\nvendor_id\t: AuthenticAMD\n", "", True, False),
    ("vendor_id\t: AuthenticAMD\ncpu family\t: ?\n", "", True, False),
    ("vendor_id\t: GenuineIntel\ncpu family: 26\nmodel name: AMD-like\n", "", False, False),
    ("CPU implementer: 0x41\n", "", False, False),
    (None, "AMD64 Family 26 Model 2, AuthenticAMD", True, True),
    (None, "AMD64 Family 25 Model 2, AuthenticAMD", True, False),
    (None, "AMD64 Family 6 Model 143, GenuineIntel", False, False),
    (None, "arm", False, False),
]


@pytest.mark.parametrize(("cpuinfo", "processor", "amd", "zen_5"), CPUS)
@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("native", [True, False])
def test_routes_depend_on_the_cpus_make_alone(tmp_path, monkeypatch, cpuinfo, processor, amd, zen_5, bfloat16, native):
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(cpu_layers.platform, "processor", lambda: processor)
    monkeypatch.setattr(cpu_layers, "multiplies_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(native_attention, "attends", lambda dtype, width: native)
    monkeypatch.setattr(onednn, "available", lambda: True)
    make = cpu_layers._make(tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu_layers, "_make", lambda: make)
    monkeypatch.setattr(cpu_layers, "product_route", route := product_route.__wrapped__)
    wide = amd and bfloat16
    product = "onednn" if wide else "linear"
    assert (route(torch.float32), route(torch.bfloat16), route(torch.float16)) == (product, product, "linear")
    if amd and native:
        assert attention_route(torch.float32) == attention_route(torch.bfloat16) == "native"
    else:
        assert attention_route(torch.float32) == ("onednn" if wide and zen_5 else "pytorch")
        assert attention_route(torch.bfloat16) == ("onednn" if wide else "pytorch")
    monkeypatch.setattr(onednn, "available", lambda: False)
    assert (route(torch.float32), route(torch.bfloat16)) == ("linear", "linear")


@pytest.mark.parametrize("having", [(), ("_is_avx512_bf16_supported",), ("_is_amx_tile_supported",)], ids=str)
def test_multiplies_bfloat16_when_the_cpu_has_either_instruction(monkeypatch, having):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in having)
    assert multiplies_bfloat16() == bool(having)


def test_extract_is_the_same_by_either_route_and_as_the_ordinary_layers_compute_it(route):
    frames, _ = moving_square(3, (40, 72))
    model = ramp_weights(tiny_model())
    got = model.extract(frames)
    with torch.enable_grad():  # the ordinary layers
        expected = model._encode(torch.from_numpy(frames).permute(0, 3, 1, 2), -1, True, model.config.pixel_std)
    assert (got - expected).norm() <= 1e-6 * expected.norm()


def test_extract_of_timms_network_by_either_route_equals_its_own_forward(route):
    network = ramp_weights(timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0, dynamic_img_size=True))
    frames, _ = moving_square(2, (48, 80))
    extractor = TimmExtractor(network)
    with torch.enable_grad():
        pixels = features.normalize(
            torch.from_numpy(frames).permute(0, 3, 1, 2), extractor.pixel_mean, extractor.pixel_std, torch.float32
        )
        expected = network.forward_features(pixels)[:, 1:].transpose(1, 2).reshape(2, -1, 3, 5).detach()
    assert (extractor.extract(frames) - expected).norm() <= 1e-6 * expected.norm()


def test_extract_in_bfloat16_points_where_float32_does(route):
    skip_without_bfloat16(route)
    frames, _ = moving_square(2, (40, 72))
    model = ramp_weights(tiny_model())
    exact = model.extract(frames)
    rounded = copy.deepcopy(model).bfloat16().extract(frames)
    assert rounded.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact, rounded.float(), dim=1).min() > 0.999


def test_extract_within_autocast_points_where_float32_does(route):
    frames, _ = moving_square(2, (40, 72))
    model = ramp_weights(tiny_model())
    exact = model.extract(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.extract(frames)
    assert torch.cosine_similarity(exact, rounded.float(), dim=1).min() > 0.999


def test_extract_on_a_cpu_encodes_few_tokens_at_once_and_gives_the_same(monkeypatch):
    frames, _ = moving_square(5, (40, 72))  # 45 patches a frame
    model = ramp_weights(tiny_model())
    together, encode, sizes = model.extract(frames), model._encode, []

    def spy(images, *rest):
        sizes.append(len(images))
        return encode(images, *rest)

    monkeypatch.setattr(model, "_encode", spy)
    monkeypatch.setattr(features, "_CPU_TOKENS", 100)
    torch.testing.assert_close(model.extract(frames, batch_size=5), together, atol=1e-6, rtol=1e-5)
    assert sizes == [2, 2, 1]
    monkeypatch.setattr(features, "_CPU_TOKENS", 1)
    model.extract(frames, batch_size=5)
    assert sizes[3:] == [1] * 5


@pytest.fixture
def quick_blocks():
    """Attention and MLP that take the fast way, with weights that differ, in eval mode."""
    network = ramp_weights(nn.Sequential(Attention(24, num_heads=3, qkv_bias=True), Mlp(24, 33))).eval()
    use_cpu_layers(network)
    return network


def ordinary(network, x):
    """Compute the layers as timm does."""
    plain = copy.deepcopy(network)
    for layer, kind in zip(plain, (Attention, Mlp), strict=True):
        layer.__class__ = kind
    with torch.no_grad():
        return plain(x)


class LoRA(nn.Linear):
    """A linear layer with something added, as adapters are."""

    def forward(self, x):
        return super().forward(x) + x.sum(dim=-1, keepdim=True)


LINEARS = [(0, "qkv"), (0, "proj"), (1, "fc1"), (1, "fc2")]


@pytest.mark.parametrize(("place", "name"), LINEARS)
def test_a_subclass_put_in_the_place_of_a_linear_layer_is_used(route, quick_blocks, place, name):
    x, before = tokens(2, 7, 24), ordinary(quick_blocks, tokens(2, 7, 24))
    getattr(quick_blocks[place], name).__class__ = LoRA
    expected = ordinary(quick_blocks, x)
    with torch.no_grad():
        torch.testing.assert_close(quick_blocks(x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, before, atol=1e-3)


PARTS = [*LINEARS, (0, "q_norm"), (0, "attn_drop"), (0, "proj_drop"), (1, "act"), (1, "drop1"), (1, "drop2")]


@pytest.mark.parametrize(("place", "name"), PARTS)
@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_any_part_fire(route, quick_blocks, place, name, hook):
    calls = []
    part = getattr(quick_blocks[place], name)
    if name in ("q_norm", "attn_drop"):  # the fused kernel holds dropout of weights
        quick_blocks[0].fused_attn = False
    handle = getattr(part, hook)(lambda layer, *rest: calls.append(layer))
    with torch.no_grad():
        quick_blocks(tokens(2, 7, 24))
        assert len(calls) == 1
        handle.remove()
        out = quick_blocks(tokens(2, 7, 24))
    assert len(calls) == 1
    torch.testing.assert_close(out, ordinary(quick_blocks, tokens(2, 7, 24)), atol=1e-5, rtol=1e-5)


def test_a_hook_may_change_what_a_part_gives(route, quick_blocks):
    quick_blocks[1].fc1.register_forward_hook(lambda layer, inputs, out: out * 2)
    quick_blocks[1].act.register_forward_hook(lambda layer, inputs, out: out + 1)
    x = tokens(2, 7, 24)
    with torch.no_grad():
        torch.testing.assert_close(quick_blocks(x), ordinary(quick_blocks, x), atol=1e-5, rtol=1e-5)


def test_hooks_of_all_modules_fire(route, quick_blocks):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda layer, *rest: seen.append(layer))
    try:
        with torch.no_grad():
            quick_blocks(tokens(2, 7, 24))
    finally:
        handle.remove()
    assert {getattr(quick_blocks[place], name) for place, name in LINEARS} <= set(seen)


def test_a_forward_put_on_a_layer_is_used(route, quick_blocks):
    fc1 = quick_blocks[1].fc1
    fc1.forward = lambda x: torch.zeros(*x.shape[:-1], 33)
    x = tokens(2, 7, 24)
    with torch.no_grad():
        expected = quick_blocks[1].fc2(nn.GELU()(torch.zeros(2, 7, 33)))
        torch.testing.assert_close(quick_blocks(x), expected, atol=1e-5, rtol=1e-5)


def test_a_compiled_layer_is_called(route, quick_blocks):
    def compiles(layer, run):
        calls = []
        layer.compile(backend=lambda graph, inputs: calls.append(graph) or graph.forward)
        with torch.no_grad():
            run(tokens(2, 7, 24))
        return bool(calls)

    alone = nn.Linear(24, 24)
    if not compiles(alone, alone):
        pytest.skip("this PyTorch compiles no layer of its own by Module.compile")  # 2.6
    assert compiles(quick_blocks[1].fc1, quick_blocks)


class Weights(torch.Tensor):
    """Weights of somebody's own kind, which count their products."""

    products = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Weights.products += func is torch.nn.functional.linear
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize(("place", "name"), LINEARS)
def test_weights_of_another_kind_are_asked(route, quick_blocks, place, name, monkeypatch):
    monkeypatch.setattr(Weights, "products", 0)
    layer = getattr(quick_blocks[place], name)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Weights), requires_grad=False)
    with torch.no_grad():
        quick_blocks(tokens(2, 7, 24))
    assert Weights.products >= 1


def test_every_linear_layer_of_a_model_can_be_quantised(route):
    model = ramp_weights(tiny_model(decoder="none"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch moves the function to another package
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        left = [name for name, part in quantised.named_modules() if isinstance(part, nn.Linear)]
        assert left == []
        frames, _ = moving_square(2, (40, 72))
        features = quantised.extract(frames)
    assert torch.cosine_similarity(features, model.extract(frames), dim=1).min() > 0.99


def test_traced_layers_give_the_same(route, quick_blocks):
    x = tokens(2, 7, 24)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is on its way out, and warns
        traced = torch.jit.trace(quick_blocks, x)
        torch.testing.assert_close(traced(x), ordinary(quick_blocks, x), atol=1e-5, rtol=1e-5)
        assert "mkldnn" not in str(traced.inlined_graph)


def test_exported_layers_give_the_same(route, quick_blocks):
    x = tokens(2, 7, 24)
    with torch.no_grad():
        exported = torch.export.export(quick_blocks, (x,)).module()
        torch.testing.assert_close(exported(x), ordinary(quick_blocks, x), atol=1e-5, rtol=1e-5)


def test_symbolically_traced_layers_give_the_same(route, quick_blocks):
    x, traced = tokens(2, 7, 24), torch.fx.symbolic_trace(quick_blocks[1])
    with torch.no_grad():
        torch.testing.assert_close(traced(x), quick_blocks[1](x), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's own layers bring it
def test_vmap_over_inputs_and_over_weights_gives_the_same(route, quick_blocks):
    x = tokens(3, 2, 7, 24)
    expected = torch.stack([ordinary(quick_blocks, some) for some in x])
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(quick_blocks)(x), expected, atol=1e-5, rtol=1e-5)
        weights = {name: torch.stack([part] * 3) for name, part in quick_blocks.named_parameters()}
        each = torch.func.vmap(lambda w, some: torch.func.functional_call(quick_blocks, w, (some,)))
        torch.testing.assert_close(each(weights, x), expected, atol=1e-5, rtol=1e-5)
        per_weight = torch.func.vmap(lambda w: torch.func.functional_call(quick_blocks, w, (x[0],)))
        torch.testing.assert_close(per_weight(weights), expected[:1].expand(3, -1, -1, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_forward_derivatives_are_those_of_the_ordinary_layers(route, quick_blocks):
    x, along = tokens(2, 7, 24), tokens(2, 7, 24).flip(0)
    plain = copy.deepcopy(quick_blocks)
    for layer, kind in zip(plain, (Attention, Mlp), strict=True):
        layer.__class__, layer.fused_attn = kind, False
    quick_blocks[0].fused_attn = False
    with torch.no_grad():
        got, expected = (torch.func.jvp(network, (x,), (along,))[1] for network in (quick_blocks, plain))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        with torch.autograd.forward_ad.dual_level():
            dual = quick_blocks(torch.autograd.forward_ad.make_dual(x, along))
            tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent
        torch.testing.assert_close(tangent, expected, atol=1e-5, rtol=1e-5)


class Names(TorchFunctionMode):
    """Notes which functions are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_modes_that_watch_operators_see_the_ordinary_ones(route, quick_blocks):
    with torch.no_grad(), Names() as names:
        quick_blocks(tokens(2, 7, 24))
    assert names.seen.count(torch.nn.functional.linear) == 4
    assert torch.nn.functional.scaled_dot_product_attention in names.seen
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        quick_blocks(tokens(2, 7, 24))
    assert counter.get_total_flops() >= 2 * 14 * 24 * (72 + 24 + 33 + 33)


def test_a_default_device_does_not_change_the_route(route, quick_blocks):
    x = tokens(2, 7, 24)
    with torch.no_grad():
        expected = quick_blocks(x)
        with torch.device("meta"):
            assert torch.equal(quick_blocks(x), expected)


def test_layers_that_take_the_fast_way_are_pickled_and_go_on_taking_it(route, quick_blocks):
    again = pickle.loads(pickle.dumps(quick_blocks))
    with torch.no_grad():
        assert torch.equal(again(tokens(2, 7, 24)), quick_blocks(tokens(2, 7, 24)))
