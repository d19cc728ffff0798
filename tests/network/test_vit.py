"""The encoder against timm's ViT, positions against MAE's formula, attention against itself."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F

from siammae.config import ModelConfig
from siammae.network.pretraining_model import set_fused_attention
from siammae.network.vit import Encoder, placed_position, sincos_position
from tests.helpers import ramp_weights, tiny_config, tiny_model

TIMM_NAMES = {
    "small/16": ("vit_small_patch16_224", ModelConfig.vit("small", patch_size=16, position="learned")),
    "tiny/8": ("vit_tiny_patch16_224", ModelConfig.vit("tiny", patch_size=8, position="learned")),
}


def mae_position(y, x, dim):
    """MAE, util/pos_embed.py, one entry after the other: sines then cosines of x, then the same of y."""
    row = []
    for place in (x, y):
        angles = [place / 10000 ** (i / (dim // 4)) for i in range(dim // 4)]
        row += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return row


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("which", TIMM_NAMES)
def test_encoder_tensors_have_timms_names_and_shapes(which):
    name, config = TIMM_NAMES[which]
    reference = timm.create_model(name, pretrained=False, num_classes=0, patch_size=config.patch_size)
    with torch.device("meta"):
        encoder = Encoder(config.replace(position="learned"))
    wanted = {key: tuple(tensor.shape) for key, tensor in reference.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()} == wanted
    assert len(wanted) == 150


@pytest.mark.parametrize("which", TIMM_NAMES)
def test_encoder_with_timms_weights_computes_the_same(which):
    name, config = TIMM_NAMES[which]
    config = config.replace(depth=3)
    reference = timm.create_model(name, num_classes=0, patch_size=config.patch_size, depth=3).eval()
    ramp_weights(reference)
    encoder = Encoder(config).eval()
    encoder.load_state_dict(reference.state_dict())
    pixels = images(1, 3, 224, 224)
    with torch.inference_mode():
        got, theirs = encoder(encoder.embed(pixels)), reference.forward_features(pixels)
        exact = reference.double().forward_features(pixels.double())
    # How far float32 strays depends on the CPU's products; ours may stray no further than timm's own on the same one.
    assert (got - exact).norm() <= 2 * (theirs - exact).norm()
    assert (got - exact).norm() <= 1e-5 * exact.norm()


def test_sincos_position_at_training_grid_equals_maes_formula():
    table = sincos_position((5, 5), 16, extent=5)
    expected = [mae_position(y, x, 16) for y in range(5) for x in range(5)]
    torch.testing.assert_close(table, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", [(7, 13), (3, 3), (10, 5), (1, 1)], ids=str)
def test_sincos_position_at_other_grid_is_stretched_over_the_training_extent(grid):
    extent, dim = 5, 16
    places = [[(i + 0.5) * extent / n - 0.5 for i in range(n)] for n in grid]
    for side in places:  # symmetric about the training grid's centre, and inside it
        assert [a + b for a, b in zip(side, reversed(side), strict=True)] == pytest.approx([extent - 1] * len(side))
        assert min(side) > -0.5
        assert max(side) < extent - 0.5
    expected = [mae_position(y, x, dim) for y in places[0] for x in places[1]]
    torch.testing.assert_close(sincos_position(grid, dim, extent=extent), torch.tensor(expected), atol=1e-6, rtol=0)


def test_placed_position_is_that_of_each_images_own_places():
    grid, dim = (3, 4), 16
    placing = torch.tensor([[[0.5, 0.25], [-0.5, 2.0]], [[4.0, 1.0], [0.0, 1.0]]])  # x, then y: first place and step
    expected = [
        [mae_position(y0 + i * dy, x0 + j * dx, dim) for i in range(3) for j in range(4)]
        for (x0, dx), (y0, dy) in placing.tolist()
    ]
    torch.testing.assert_close(placed_position(grid, dim, placing), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("position", ["sincos", "learned"])
def test_encoder_position_at_training_grid_is_the_stored_table(position):
    encoder = ramp_weights(Encoder(tiny_config(position=position)))
    assert encoder.position((4, 4)).data_ptr() == encoder.pos_embed[:, 1:].data_ptr()
    if position == "sincos":
        assert torch.equal(encoder.pos_embed[0, 1:], sincos_position((4, 4), 32, extent=4))
        assert not encoder.pos_embed[:, 0].any()
    assert encoder.pos_embed.requires_grad == (position == "learned")


def test_learned_position_at_other_grid_is_interpolated():
    encoder = Encoder(tiny_config(position="learned"))
    ramp = torch.linspace(-1, 1, 4)
    with torch.no_grad():  # channel 0 grows downwards, channel 1 to the right, the others are constant
        table = torch.ones(4, 4, 32)
        table[..., 0], table[..., 1] = ramp[:, None], ramp[None]
        encoder.pos_embed[0, 1:] = table.reshape(16, 32)
    got = encoder.position((7, 13)).reshape(7, 13, 32)
    torch.testing.assert_close(got[..., 2:], torch.ones(7, 13, 30))
    for channel, across, size in ((0, 1, 7), (1, 0, 13)):
        profile = got[..., channel].select(across, 0)
        torch.testing.assert_close(got[..., channel].std(dim=across), torch.zeros(size), atol=1e-6, rtol=0)
        assert (profile.diff() > 0).all()
        torch.testing.assert_close(profile, -profile.flip(0))


@pytest.mark.parametrize("position", ["sincos", "learned"])
def test_embed_of_non_square_images_adds_each_patch_its_position(position):
    encoder = ramp_weights(Encoder(tiny_config(position=position)))
    pixels = images(2, 3, 24, 56)
    with torch.inference_mode():
        plain = F.conv2d(pixels, encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias, stride=8)
        expected = plain.flatten(2).transpose(1, 2) + encoder.position((3, 7))
        torch.testing.assert_close(encoder.embed(pixels), expected)
        assert encoder(encoder.embed(pixels)).shape == (2, 1 + 21, 32)


@pytest.mark.parametrize(("layer", "blocks"), [(0, 1), (1, 2), (2, 3), (-1, 3), (-3, 1)])
def test_encoder_with_layer_runs_that_many_blocks_only(layer, blocks):
    encoder = ramp_weights(Encoder(tiny_config(depth=3)))
    ran = []
    for index, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.inference_mode():
        tokens = encoder.embed(images(1, 3, 32, 32))
        got = encoder(tokens, layer=layer, norm=False)
        assert ran == list(range(blocks))
        shorter = ramp_weights(Encoder(tiny_config(depth=blocks)))
        shorter.load_state_dict({name: encoder.state_dict()[name] for name in shorter.state_dict()})
        assert torch.equal(got, shorter(tokens, norm=False))
        assert torch.equal(encoder.norm(got), encoder(tokens, layer=layer))
        assert not torch.equal(got, encoder(tokens, layer=layer))


@pytest.mark.parametrize("layer", [2, -3, 100])
def test_encoder_with_wrong_layer_is_refused(layer):
    encoder = Encoder(tiny_config())
    with pytest.raises(ValueError, match=rf"layer is {layer}: the encoder has 2 blocks, .* in \[-2, 2\)"):
        encoder(encoder.embed(images(1, 3, 32, 32)), layer=layer)


@pytest.mark.parametrize("decoder", ["cross-self", "cross", "joint"])
def test_plain_attention_gives_the_fused_ones_outputs_and_gradients(decoder):
    results = []
    for fused in (True, False):
        model = ramp_weights(tiny_model(decoder=decoder))
        set_fused_attention(model, fused)
        switches = {part.fused_attn for part in model.modules() if hasattr(part, "fused_attn")}
        assert switches == {fused}
        pair = images(2, 2, 3, 32, 32)
        output = model(pair[0], pair[1], mask_ratio=0.5, generator=torch.Generator().manual_seed(0))
        output.loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
        results.append([output.loss.detach(), output.prediction.detach(), *gradients])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-5)
