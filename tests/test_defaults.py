"""What PyTorch's default type and device are changes nothing here: a check of the source, and the whole path."""

import ast
import functools
from pathlib import Path

import numpy as np
import pytest
import torch

import siammae
from siammae.config.presets import PRESETS
from siammae.kernels import available_kernels
from siammae.kernels.native import library as native_library
from siammae.network.defaults import float32_on_cpu
from siammae.network.timm_extractor import TimmExtractor
from tests.helpers import moving_square, ramp_weights, tiny_config

SOURCES = sorted(Path(siammae.__file__).parent.rglob("*.py"))
MAKERS = {
    "empty",
    "empty_permuted",
    "empty_strided",
    "zeros",
    "ones",
    "full",
    "tensor",
    "as_tensor",
    "asarray",
    "scalar_tensor",
    "arange",
    "range",
    "linspace",
    "logspace",
    "eye",
    "rand",
    "randn",
    "randint",
    "randperm",
    "tril_indices",
    "triu_indices",
    "bartlett_window",
    "blackman_window",
    "hamming_window",
    "hann_window",
    "kaiser_window",
}
NEVER = {"Tensor", "FloatTensor", "DoubleTensor", "LongTensor"}  # of the default type as constructors


def faults_of(source):
    """Return the lines that make a tensor without saying of which type and where."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            faults += [(node.lineno, alias.name) for alias in node.names if alias.name in MAKERS]
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, node.func.value
        if isinstance(owner, ast.Name) and owner.id == "torch" and name in MAKERS | NEVER:
            named = {keyword.arg for keyword in node.keywords}
            if name in NEVER or not {"dtype", "device"} <= named:
                faults.append((node.lineno, name))
    return faults


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCES[0].parent)))
def test_every_new_tensor_names_its_type_and_device(path):
    assert faults_of(path.read_text(encoding="utf-8")) == []


def test_the_check_sees_a_missing_type_or_device():
    source = (
        "import torch\ntorch.zeros(3)\ntorch.ones(3, dtype=torch.int8)\ntorch.eye(3, device='cpu')\ntorch.Tensor(3)"
    )
    assert faults_of(source) == [(2, "zeros"), (3, "ones"), (4, "eye"), (5, "Tensor")]
    assert faults_of("from torch import arange, Tensor") == [(1, "arange")]
    assert faults_of("torch.empty(3, dtype=x, device=y)\nx.new_empty(3)\nnp.zeros(3)") == []


@pytest.fixture(params=["bfloat16", "float16", "float64", "meta"])
def other_defaults(request):
    """Return what sets another default type or device; it is undone after the test."""

    def begin():
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, request.param))

    yield begin
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def same(got, expected):
    """Tell whether arrays or tensors have one type and the same numbers, bit by bit."""
    return got.dtype == expected.dtype and bytes(np.asarray(got)) == bytes(np.asarray(expected))


FRAMES, MASKS = moving_square(4, (48, 64))
POINTS = np.array([[14.0, 15.0], [20.5, 18.25]])


@functools.cache
def usual_path(kernels):
    return whole_path(kernels)


def whole_path(kernels):
    """Load the bundled model, extract, follow masks and points; small frames."""
    model = siammae.SiamMAE.from_pretrained()
    config = model.propagation.replace(resize=48)
    masks = siammae.Propagator(model, config, kernels=kernels)
    scores = [masks.step(frame, mask=MASKS[0] if i == 0 else None).scores for i, frame in enumerate(FRAMES)]
    corrected = masks.step(FRAMES[-1], mask=2 * MASKS[-1]).scores  # the frames before learn of it too
    labels = siammae.propagate_masks(FRAMES, MASKS[0], model=model, config=config, kernels=kernels).labels
    found = siammae.propagate_keypoints(FRAMES, POINTS, model=model, config=config, kernels=kernels)
    weights = torch.cat([tensor.flatten() for tensor in model.state_dict().values()])
    return [weights, model.extract(FRAMES), *scores, corrected, labels, found.points, found.confidence]


@pytest.mark.parametrize("kernels", ["native", "cpu", "reference"])
def test_whole_path_is_the_same_under_any_default(kernels, other_defaults):
    if available_kernels()[kernels] != "available":
        pytest.skip(f"no {kernels} kernels here")
    expected = usual_path(kernels)
    other_defaults()
    got = whole_path(kernels)
    assert all(same(*pair) for pair in zip(got, expected, strict=True))


@pytest.mark.parametrize("preset", PRESETS, ids=" ".join)
def test_presets_are_the_same_under_any_default(preset, other_defaults):
    model = siammae.HogExtractor()
    config = siammae.PropagationConfig(**{**PRESETS[preset], "resize": 128})

    def follow():
        masks = siammae.propagate_masks(FRAMES, MASKS[0], model=model, config=config).labels
        found = siammae.propagate_keypoints(FRAMES, POINTS, model=model, config=config)
        return masks, found.points, found.confidence

    expected = follow()
    other_defaults()
    assert all(same(*pair) for pair in zip(follow(), expected, strict=True))


@pytest.mark.parametrize("extractor", [siammae.PixelExtractor(), siammae.HogExtractor()])
def test_features_without_a_network_are_the_same_under_any_default(extractor, other_defaults):
    expected = extractor.extract(FRAMES)
    other_defaults()
    assert same(extractor.extract(FRAMES), expected)


def test_timms_network_is_the_same_under_any_default(other_defaults):
    def extract():
        options = {"depth": 2, "embed_dim": 48, "num_heads": 3, "pretrained": False}
        extractor = TimmExtractor.from_pretrained("timm/vit_tiny_patch16_224", **options)
        with float32_on_cpu():
            ramp_weights(extractor.model)
        return extractor.extract(FRAMES)

    expected = extract()
    other_defaults()
    assert same(extract(), expected)


def default_device():
    """PyTorch 2.6 cannot tell it once it has been set and given back."""
    return torch.empty(0).device


def test_a_new_network_is_of_the_default_type(other_defaults):
    """As every module of PyTorch; whole, so that it runs."""
    other_defaults()
    model = siammae.SiamMAE(tiny_config(whitened=True, encoder="joint", decoder="joint")).eval()
    kinds = {(tensor.dtype, tensor.device) for tensor in model.state_dict().values()}
    assert kinds == {(torch.get_default_dtype(), default_device())}
    with float32_on_cpu():
        plain = siammae.SiamMAE(tiny_config())
    assert (plain.dtype, plain.device.type) == (torch.float32, "cpu")


def test_float32_on_cpu_gives_the_defaults_back(other_defaults):
    other_defaults()
    before = torch.get_default_dtype(), default_device()

    def make_and_fail():
        with float32_on_cpu():
            made = torch.zeros(1)
            raise KeyError(made.dtype, made.device.type)

    with pytest.raises(KeyError, match=r"torch\.float32, 'cpu'"):
        make_and_fail()
    assert (torch.get_default_dtype(), default_device()) == before


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, device="meta"), torch.zeros(2, 3).T],
    ids=["type", "device", "strides"],
)
def test_native_kernels_get_no_address_of_other_memory_than_they_read(tensor):
    with pytest.raises(RuntimeError, match=r"they read contiguous torch\.float32 on the CPU"):
        native_library.address(tensor, torch.float32)
    plain = torch.zeros(2, 3)
    assert native_library.address(plain, torch.float32) == plain.data_ptr()
