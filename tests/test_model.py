import numpy as np
import pytest
import torch

from siammae.loss import matching_loss
from siammae.model import SiamMAE
from tests.helpers import moving_square, ramp_weights, tiny_config, tiny_model

VARIANTS = [(encoder, decoder) for encoder in ("siamese", "joint") for decoder in ("cross-self", "cross", "joint")]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(batch=2, size=(32, 32), dtype=torch.uint8):
    video, _ = moving_square(frames=2 * batch, size=size, side=8, start=(0, 0))
    frames = torch.from_numpy(video).permute(0, 3, 1, 2)
    frames = frames if dtype == torch.uint8 else (frames.float() / 255).to(dtype)
    return frames[:batch], frames[batch:]


@pytest.mark.parametrize("size", [(32, 32), (24, 56)], ids=str)
@pytest.mark.parametrize(("encoder", "decoder"), VARIANTS)
def test_forward_of_every_variant_predicts_and_reaches_every_weight(encoder, decoder, size):
    model = tiny_model(encoder=encoder, decoder=decoder)
    output = model(*pair(size=size), mask_ratio=0.75, generator=generator())
    patches = size[0] * size[1] // 64
    assert output.prediction.shape == (2, patches, 8 * 8 * 3)
    assert (output.mask.shape, output.mask.dtype) == ((2, patches), torch.bool)
    assert output.mask.sum(dim=1).tolist() == [patches - patches // 4] * 2
    assert output.loss.shape == ()
    assert output.loss.isfinite()
    output.loss.backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and weight.grad.any()) == weight.requires_grad, name


@pytest.mark.parametrize(("encoder", "decoder"), VARIANTS)
def test_training_on_one_pair_lowers_the_loss(encoder, decoder):
    model = tiny_model(encoder=encoder, decoder=decoder).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    losses = []
    for _ in range(15):
        loss = model(*pair(), mask_ratio=0.75, generator=generator()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("encoder", "decoder"), VARIANTS)
def test_prediction_depends_on_past_and_visible_future_but_not_on_hidden_patches(encoder, decoder):
    model = ramp_weights(tiny_model(encoder=encoder, decoder=decoder))
    past, future = pair(batch=1, dtype=torch.float32)

    def predict(past, future):
        with torch.inference_mode():
            return model(past, future, mask_ratio=0.5, generator=generator())

    output = predict(past, future)
    hidden = output.mask.reshape(1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(predict(past, torch.where(hidden, 0.5, future)).prediction, output.prediction)
    assert not torch.allclose(predict(past, torch.where(hidden, future, 0.5)).prediction, output.prediction, atol=1e-4)
    assert not torch.allclose(predict(past.flip(3), future).prediction, output.prediction, atol=1e-4)


def test_forward_with_places_adds_the_matching_loss_of_the_pairs_that_have_them():
    model = tiny_model()
    past, future = pair(3, dtype=torch.float32)
    n = model.config.grid_size**2
    places = 3 * torch.rand(3, n, 2, generator=torch.Generator().manual_seed(3))
    places[1] = torch.nan
    mask = {"mask_ratio": 0.75, "generator": torch.Generator().manual_seed(0)}
    output = model(past, future, places=places, match_temperature=0.3, **mask)
    features = [model.extract(frames, batch_size=3).flatten(2).transpose(1, 2) for frames in (past, future)]
    wanted = matching_loss(*(part[[0, 2]] for part in features), places[[0, 2]], temperature=0.3)
    assert output.matching_loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    output.matching_loss.backward()
    assert all(weight.grad is not None for weight in model.encoder.blocks.parameters())
    mask["generator"].manual_seed(0)
    assert model(past, future, **mask).loss == output.loss
    assert model(past, future, **mask).matching_loss is None


def test_forward_with_places_of_another_shape_or_a_joint_encoder_is_refused():
    frames, _ = pair()
    for model, shape in ((tiny_model(), (2, 5, 2)), (tiny_model(encoder="joint"), (2, 16, 2))):
        with pytest.raises(ValueError, match=r"places are .*: they must be \(B, h\*w, 2\), the frames square"):
            model(frames, frames, places=torch.zeros(shape))


def test_forward_of_uint8_and_float_pixels_agree():
    model = tiny_model()
    whole = model(*pair(), mask_ratio=0.75, generator=generator())
    scaled = model(*pair(dtype=torch.float32), mask_ratio=0.75, generator=generator())
    assert torch.equal(whole.mask, scaled.mask)
    torch.testing.assert_close(whole.loss, scaled.loss)
    torch.testing.assert_close(whole.prediction, scaled.prediction)


def test_forward_masks_by_generator_alone():
    model = tiny_model()
    masks = [model(*pair(), mask_ratio=0.5, generator=generator(seed)).mask for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("past", "future"),
    [
        (torch.zeros(2, 3, 32, 32), torch.zeros(1, 3, 32, 32)),
        (torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 40)),
        (torch.zeros(3, 32, 32), torch.zeros(3, 32, 32)),
        (torch.zeros(2, 32, 32, 3), torch.zeros(2, 32, 32, 3)),
        (torch.zeros(2, 3, 30, 32), torch.zeros(2, 3, 30, 32)),
        (torch.zeros(2, 3, 32, 36), torch.zeros(2, 3, 32, 36)),
    ],
    ids=lambda frame: str(tuple(frame.shape)),
)
def test_forward_of_frames_that_do_not_fit_is_refused(past, future):
    with pytest.raises(ValueError, match=r"past is \(.*\) and future \(.*\): both must be \(B, 3, H, W\) .* size 8"):
        tiny_model()(past, future)


@pytest.mark.parametrize("which", ["past", "future"])
def test_forward_of_integers_other_than_uint8_is_refused(which):
    frames = dict(zip(("past", "future"), pair(), strict=True))
    frames[which] = frames[which].int()
    with pytest.raises(ValueError, match=rf"{which} is torch\.int32: it must be uint8, or float in \[0, 1\]"):
        tiny_model()(**frames)


def video(frames=5, size=(32, 48)):
    return moving_square(frames=frames, size=size, side=8, start=(0, 0))[0]


@pytest.mark.parametrize("encoder", ["siamese", "joint"])
def test_extract_returns_one_vector_for_every_patch(encoder):
    features = tiny_model(encoder=encoder).extract(video())
    assert features.shape == (5, 32, 4, 6)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert features.std(dim=(2, 3)).min() > 0


@pytest.mark.parametrize("encoder", ["siamese", "joint"])
def test_extract_is_the_encoder_on_all_patches_without_cls(encoder):
    model = ramp_weights(tiny_model(encoder=encoder))
    frames = torch.from_numpy(video()).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.config.pixel_mean, model.config.pixel_std))
    with torch.inference_mode():
        tokens = model.encoder.embed((frames / 255 - mean) / std)
        if encoder == "joint":  # alone, a frame counts as the past one
            tokens = tokens + model.frame_embed[0]
        tokens = model.encoder(tokens)[:, 1:]
        got = model.extract(video())
    for y, x in np.ndindex(4, 6):
        torch.testing.assert_close(got[:, :, y, x], tokens[:, y * 6 + x])


@pytest.mark.parametrize("training", [False, True])
def test_extract_never_masks_nor_draws_random_numbers(training):
    model = tiny_model().train(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first, state = model.extract(video()), torch.get_rng_state()
        torch.manual_seed(2)
        assert torch.equal(model.extract(video()), first)
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_extract_with_any_batch_size_is_the_same(batch_size):
    model = ramp_weights(tiny_model())
    torch.testing.assert_close(
        model.extract(video(), batch_size=batch_size), model.extract(video(), batch_size=5), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("size", "resize", "grid"),
    [
        ((32, 48), None, (4, 6)),
        ((33, 51), None, (4, 6)),
        ((48, 32), 16, (3, 2)),
        ((32, 48), 16, (2, 3)),
        ((32, 48), (24, 16), (3, 2)),
        ((20, 100), 24, (3, 15)),
    ],
    ids=str,
)
def test_extract_resizes_frames_to_whole_patches(size, resize, grid):
    assert tiny_model().extract(video(size=size), resize=resize).shape == (5, 32, *grid)


def test_extract_with_layer_and_norm_stops_early_and_leaves_the_norm_out():
    model = ramp_weights(tiny_model())
    last, first = model.extract(video()), model.extract(video(), layer=0, norm=False)
    assert torch.equal(model.extract(video(), layer=1), last)
    assert torch.equal(model.extract(video(), layer=-2, norm=False), first)
    model.encoder.blocks[1].register_forward_hook(lambda *_: pytest.fail("a block after the wanted one ran"))
    channels_last = model.extract(video(), layer=0).permute(0, 2, 3, 1)
    torch.testing.assert_close(channels_last, model.encoder.norm(first.permute(0, 2, 3, 1)))


def test_extract_gives_features_on_which_a_head_can_be_trained():
    head = torch.nn.Linear(32, 1)
    head(tiny_model().extract(video()).permute(0, 2, 3, 1)).sum().backward()
    assert head.weight.grad.any()


def test_extract_with_pixel_std_divides_by_it():
    model = ramp_weights(tiny_model())
    halved = tuple(value / 2 for value in model.config.pixel_std)
    other = SiamMAE(model.config.replace(pixel_std=halved))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.extract(video(), pixel_std=halved), other.extract(video()))
    assert not torch.equal(model.extract(video(), pixel_std=halved), model.extract(video()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, r"layer is 2: the encoder has 2 blocks"),
        ({"batch_size": 0}, r"batch_size is 0: it must be at least 1"),
        ({"resize": (20, 32)}, r"resize is \(20, 32\): both sides must be multiples of the patch size 8"),
    ],
)
def test_extract_with_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().extract(video(), **options)


def test_model_in_bfloat16_extracts_close_to_float32():
    model = ramp_weights(tiny_model())
    wanted = model.extract(video())
    features = model.to(torch.bfloat16).extract(video())
    assert model.dtype == features.dtype == torch.bfloat16
    assert (features - wanted).norm() < 0.03 * wanted.norm()


def test_model_without_config_is_vit_small_with_patch_16():
    with torch.device("meta"):
        model = SiamMAE()
    assert (model.config.embed_dim, model.config.depth, model.patch_size, model.name) == (384, 12, 16, "random")
    assert model.device.type == "meta"


def test_model_with_one_patch_only_cannot_be_trained():
    model = tiny_model(image_size=8)
    with pytest.raises(ValueError, match="it hides none of 1 patches"):
        model(*torch.zeros(2, 1, 3, 8, 8))


def test_tiny_model_from_equal_seeds_is_equal():
    states = [tiny_model(seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["encoder.cls_token"], states[2]["encoder.cls_token"])
    assert tiny_config() == tiny_model().config
