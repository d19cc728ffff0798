import numpy as np
import pytest
import torch

from siammae.network.loss import matching_loss, patchify
from siammae.network.model import SiamMAE
from siammae.network.vit import sincos_position
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


def test_forward_with_a_placing_moves_the_encoders_positions_only():
    model = tiny_model()
    past, future = pair(2)
    filling = torch.tensor([0.0, 1.0]).expand(2, 2, 2, 2)  # the first patch at 0, the next at 1: what is always so

    def predict(placing):
        return model(past, future, mask_ratio=0.5, noise=noise, placing=placing).prediction

    noise = torch.rand(2, 2, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(predict(filling), predict(None), atol=1e-5, rtol=1e-5)
    for frame in (0, 1):  # past and future each have a placing of their own
        moved = filling.clone()
        moved[1, frame, :, 0] += 1.5
        one, other = predict(moved), predict(None)
        torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
        assert (one[1] - other[1]).abs().max() > 1e-3


def test_forward_with_a_placing_that_does_not_fit_is_refused():
    frames, _ = pair()
    for model, shape in ((tiny_model(), (2, 2, 2)), (tiny_model(position="learned"), (2, 2, 2, 2))):
        with pytest.raises(ValueError, match=r"placing is .*: it must be \(B, 2, 2, 2\), and the positions sincos"):
            model(frames, frames, placing=torch.zeros(shape))


def test_forward_of_uint8_and_float_pixels_agree():
    model = tiny_model()
    whole = model(*pair(), mask_ratio=0.75, generator=generator())
    scaled = model(*pair(dtype=torch.float32), mask_ratio=0.75, generator=generator())
    assert torch.equal(whole.mask, scaled.mask)
    torch.testing.assert_close(whole.loss, scaled.loss)
    torch.testing.assert_close(whole.prediction, scaled.prediction)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("past_mask", ["none", "symmetric", "grid"])
def test_forward_hides_the_part_that_was_asked_for(ratio, past_mask):
    output = tiny_model(image_size=80)(
        *pair(size=(80, 80)), mask_ratio=ratio, past_mask=past_mask, generator=generator()
    )
    hidden = 100 - round(100 * (1 - ratio))
    assert output.mask.sum(dim=1).tolist() == [hidden] * 2
    past = {"none": None, "symmetric": [hidden] * 2, "grid": [75] * 2}[past_mask]
    assert (output.past_mask if past is None else output.past_mask.sum(dim=1).tolist()) == past


MASKED = [
    (encoder, decoder, past_mask)
    for encoder in ("siamese", "joint")
    for decoder in ("cross-self", "cross", "joint", "cropmae")
    for past_mask in ("symmetric", "grid")
]


@pytest.mark.parametrize("size", [(32, 32), (24, 56)], ids=str)
@pytest.mark.parametrize(("encoder", "decoder", "past_mask"), MASKED)
def test_forward_with_a_masked_past_never_sees_what_is_hidden_of_it(encoder, decoder, past_mask, size):
    model = ramp_weights(tiny_model(encoder=encoder, decoder=decoder))
    past, future = pair(size=size, dtype=torch.float32)
    past = past.clone().requires_grad_()
    output = model(past, future, mask_ratio=0.5, past_mask=past_mask, generator=generator())
    output.loss.backward()
    seen = patchify(past.grad, 8).abs().amax(dim=2) > 0  # (B, N)
    assert torch.equal(~seen, output.past_mask)
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and weight.grad.any()) == weight.requires_grad, name


def plain_prediction(model, past, future, past_seen, future_seen):
    """Predict one pair from the patches at these places alone, in the order in which the paper tells it."""
    config = model.config
    grid = (past.shape[-2] // 8, past.shape[-1] // 8)
    mean, std = (torch.tensor(color).view(3, 1, 1) for color in (config.pixel_mean, config.pixel_std))
    past_tokens, future_tokens = (model.encoder.embed((frame - mean) / std) for frame in (past, future))
    past_tokens, future_tokens = past_tokens[:, past_seen], future_tokens[:, future_seen]
    if config.encoder == "joint":
        tokens = torch.cat([past_tokens + model.frame_embed[0], future_tokens + model.frame_embed[1]], dim=1)
        cls, past_tokens, future_tokens = model.encoder(tokens).split([1, len(past_seen), len(future_seen)], dim=1)
        past_cls = future_cls = cls
    else:
        past_cls, past_tokens = model.encoder(past_tokens).split([1, len(past_seen)], dim=1)
        future_cls, future_tokens = model.encoder(future_tokens).split([1, len(future_seen)], dim=1)
    decoder = model.decoder
    position = sincos_position(grid, config.decoder_dim, extent=config.grid_size)
    memory = [decoder.embed(past_cls[0, 0])]
    memory += [decoder.embed(token) + position[place] for token, place in zip(past_tokens[0], past_seen, strict=True)]
    x = [decoder.mask_token[0, 0] + place for place in position]
    for token, place in zip(future_tokens[0], future_seen, strict=True):
        x[place] = decoder.embed(token) + position[place]
    x, memory = torch.stack([decoder.embed(future_cls[0, 0]), *x])[None], torch.stack(memory)[None]
    if config.decoder == "joint":
        x = torch.cat([memory + decoder.frame_embed[0], x + decoder.frame_embed[1]], dim=1)
    for block in decoder.blocks:
        x = block(x) if config.decoder == "joint" else block(x, memory)
    return decoder.pred(decoder.norm(x[:, -grid[0] * grid[1] :]))


@pytest.mark.parametrize("size", [(32, 32), (24, 56)], ids=str)
@pytest.mark.parametrize("past_mask", ["none", "symmetric", "grid"])
@pytest.mark.parametrize(("encoder", "decoder"), VARIANTS)
def test_forward_equals_encoding_the_visible_patches_alone(encoder, decoder, past_mask, size):
    model = ramp_weights(tiny_model(encoder=encoder, decoder=decoder))
    past, future = pair(size=size, dtype=torch.float32)
    h, w = size[0] // 8, size[1] // 8
    noise = torch.rand(2, 2, h * w, generator=generator(7))
    with torch.inference_mode():
        output = model(past, future, mask_ratio=0.75, past_mask=past_mask, noise=noise)
        for index in range(2):
            smallest = [sorted(row.argsort()[: h * w // 4].tolist()) for row in noise[index]]
            seen = {
                "none": list(range(h * w)),
                "symmetric": smallest[0],
                "grid": [y * w + x for y in range(0, h, 2) for x in range(0, w, 2)],
            }[past_mask]
            one = slice(index, index + 1)
            wanted = plain_prediction(model, past[one], future[one], seen, smallest[1])
            torch.testing.assert_close(output.prediction[one], wanted, atol=1e-5, rtol=1e-5)
            assert (~output.mask[index]).nonzero()[:, 0].tolist() == smallest[1]
            if past_mask != "none":
                assert (~output.past_mask[index]).nonzero()[:, 0].tolist() == seen


@pytest.mark.parametrize(("encoder", "decoder", "past_mask"), MASKED)
def test_gradient_of_a_masked_pair_equals_the_finite_difference(encoder, decoder, past_mask):
    model = ramp_weights(tiny_model(encoder=encoder, decoder=decoder)).double()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    options = {"mask_ratio": 0.5, "past_mask": past_mask, "noise": torch.rand(2, 2, 16, generator=generator())}
    past, future = pair(dtype=torch.float64)
    gradients = torch.autograd.grad(model(past, future, **options).loss, weights)
    length = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    losses = []
    with torch.no_grad():
        for step in (1e-3, -2e-3):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight += step * gradient / length
            losses.append(model(past, future, **options).loss.double())
    assert ((losses[0] - losses[1]) / 2e-3).item() == pytest.approx(length.item(), rel=1e-3)


@pytest.mark.parametrize("past_mask", ["none", "symmetric", "grid"])
def test_forward_of_a_batch_equals_that_of_its_parts_with_their_rows_of_the_noise(past_mask):
    model = ramp_weights(tiny_model())
    past, future = pair(batch=4)
    noise = torch.rand(4, 2, 16, generator=generator(2))
    options = {"mask_ratio": 0.7, "past_mask": past_mask}
    whole = model(past, future, noise=noise, **options)
    drawn = model(past, future, generator=generator(2), **options)
    assert torch.equal(drawn.mask, whole.mask)
    assert torch.equal(drawn.loss, whole.loss)
    parts = [model(past[rows], future[rows], noise=noise[rows], **options) for rows in (slice(0, 2), slice(2, 4))]
    assert torch.equal(torch.cat([part.mask for part in parts]), whole.mask)
    torch.testing.assert_close(torch.cat([part.prediction for part in parts]), whole.prediction, atol=1e-5, rtol=0)
    # as many patches are hidden in every row, so the losses of equal parts average to that of the whole
    assert (parts[0].loss.item() + parts[1].loss.item()) / 2 == pytest.approx(whole.loss.item(), rel=1e-5)
    if past_mask != "none":
        assert torch.equal(torch.cat([part.past_mask for part in parts]), whole.past_mask)


def test_forward_hides_the_same_future_patches_whatever_is_hidden_of_the_past():
    masks = [
        tiny_model()(*pair(), past_mask=name, generator=generator()).mask for name in ("none", "symmetric", "grid")
    ]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("decoder", ["cross-self", "cross", "joint", "cropmae"])
def test_decoder_tells_visible_past_patches_apart_by_their_places_not_by_their_order(decoder):
    part = ramp_weights(tiny_model(decoder=decoder)).decoder
    past, future = torch.randn(2, 2, 6, 32, generator=generator())
    kept = torch.tensor([[1, 4, 6, 7, 14]] * 2)
    places = torch.tensor([[0, 3, 5, 9, 10], [2, 6, 8, 9, 13]])
    order = [3, 0, 4, 2, 1]
    shuffled = torch.cat([past[:, :1], past[:, 1:][:, order]], dim=1)
    with torch.inference_mode():
        wanted = part(past, future, kept, (3, 5), places)
        torch.testing.assert_close(part(shuffled, future, kept, (3, 5), places[:, order]), wanted, atol=1e-5, rtol=0)
        alike = torch.allclose(part(shuffled, future, kept, (3, 5), places), wanted, atol=1e-4)
        assert alike == (decoder == "cropmae")  # it gives the past no positions, as its source
        full = torch.randn(2, 16, 32, generator=generator(1))
        everywhere = torch.arange(15).expand(2, -1)
        torch.testing.assert_close(
            part(full, future, kept, (3, 5), everywhere), part(full, future, kept, (3, 5)), atol=1e-6, rtol=0
        )


def test_forward_without_norm_pix_loss_compares_the_pixels_themselves():
    model = tiny_model()
    raw = SiamMAE(model.config.replace(norm_pix_loss=False)).eval()
    raw.load_state_dict(model.state_dict())
    past, future = pair(dtype=torch.float32)
    outputs = [one(past, future, mask_ratio=0.75, generator=generator()) for one in (model, raw)]
    assert torch.equal(outputs[0].prediction, outputs[1].prediction)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.config.pixel_mean, model.config.pixel_std))
    target = patchify((future - mean) / std, 8)
    error = (outputs[1].prediction - target).square().mean(dim=2)[outputs[1].mask].mean()
    torch.testing.assert_close(outputs[1].loss, error)
    assert outputs[0].loss != outputs[1].loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": torch.zeros(2, 16)}, r"noise is \(2, 16\) torch\.float32: .* = \(2, 2, 16\)"),
        ({"noise": torch.zeros(2, 2, 16), "generator": generator()}, "generator and noise are both given"),
        ({"past_mask": "half"}, "past_mask is 'half': it must be one of"),
        ({"past_mask": "grid", "places": torch.zeros(2, 16, 2)}, "past_mask is 'grid': it must be 'none'"),
    ],
)
def test_forward_with_masks_that_do_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(*pair(), **options)


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
