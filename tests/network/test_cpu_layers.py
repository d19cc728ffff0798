"""The quick layers against the ordinary ones: same results by either route, and out of the way in training."""

import copy

import pytest
import timm
import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import nn

from siammae import features
from siammae.kernels import onednn
from siammae.kernels.native import attention as native_attention
from siammae.network import cpu_layers as cpu_layers
from siammae.network.cpu_layers import (
    CpuAttention,
    CpuLinear,
    CpuMlp,
    attention_route,
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
def test_quick_linear_by_either_route_equals_the_ordinary_one(route, shape, bias):
    plain = ramp_weights(nn.Linear(33, 13, bias=bias))
    quick = copy.deepcopy(plain)
    use_cpu_layers(quick)
    x = tokens(*shape)
    for given in (x, x[..., :1].expand(shape)):  # the second one is not contiguous
        with torch.no_grad():
            torch.testing.assert_close(quick(given), plain(given), atol=1e-6, rtol=1e-6)


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
    assert [type(part) for part in network.values()] == [CpuLinear, Own, nn.LayerNorm]
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
        expected = model._encode(torch.from_numpy(frames).permute(0, 3, 1, 2), -1, True, model.config.pixel_std, None)
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
