"""The axes of the paper's ablations change what they should; masks and losses are in test_masking.py, test_model.py."""

import numpy as np
import pytest
import torch

from siammae.pretraining.data.crops import crop_pair
from siammae.pretraining.data.pairs import draw_frames
from tests.helpers import tiny_model
from tests.pretraining.runs import run_config


@pytest.mark.parametrize("gap", [(4, 48), (1, 8), (16, 16)], ids=str)
def test_frame_gap_is_the_distance_of_the_two_frames(gap):
    rng = np.random.default_rng(0)
    drawn = [draw_frames(rng, 300, run_config(frame_gap=gap).frame_gap) for _ in range(2000)]
    assert {future - past for past, future in drawn} == set(range(gap[0], gap[1] + 1))


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0])
def test_crop_scale_is_the_part_of_the_frame_that_is_seen(scale):
    frame = np.zeros((200, 200, 3), np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(200), np.arange(200)[:, None]
    config = run_config(crop_scale=(scale, scale), crop_ratio=(1.0, 1.0))
    for seed in range(5):
        past, future = crop_pair(frame, frame, config, np.random.default_rng(seed), still=False).frames[0].float()
        assert torch.equal(past, future)
        for color in (0, 1):  # as wide, and as high, as the root of the part; half a pixel is averaged at each end
            shown = past[color].max() - past[color].min()
            assert shown.item() == pytest.approx(200 * scale**0.5 * 31 / 32, abs=2)


def test_color_jitter_changes_colours_and_nothing_else():
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    plain, jittered = (
        crop_pair(frame, frame, run_config(color_jitter=strength), np.random.default_rng(1), still=False).frames[0]
        for strength in (0.0, 0.4)
    )
    assert torch.equal(plain[0], plain[1])
    assert not torch.equal(jittered[0], jittered[1])
    flat = torch.stack([plain[0].float().flatten(), jittered[0].float().flatten()])
    assert torch.corrcoef(flat)[0, 1] > 0.7  # the same crop, neither moved nor mirrored


@pytest.mark.parametrize("decoder", ["cross-self", "cross", "joint", "cropmae"])
def test_decoder_depth_and_width_are_those_of_its_blocks(decoder):
    part = tiny_model(decoder=decoder, decoder_depth=3, decoder_dim=64).decoder
    assert len(part.blocks) == 3
    assert {norm.normalized_shape for norm in part.blocks.modules() if isinstance(norm, torch.nn.LayerNorm)} == {(64,)}
    assert (part.embed.weight.shape, part.pred.weight.shape) == ((64, 32), (192, 64))


def test_decoder_variants_differ_in_self_attention_and_in_who_attends_to_whom():
    kinds = {
        decoder: {type(module).__name__ for module in tiny_model(decoder=decoder).decoder.modules()}
        for decoder in ("cross-self", "cross", "joint")
    }
    crosses = {decoder: "CrossAttention" in kind for decoder, kind in kinds.items()}
    attends = {
        decoder: any("Attention" in name for name in kind - {"CrossAttention"}) for decoder, kind in kinds.items()
    }
    assert crosses == {"cross-self": True, "cross": True, "joint": False}
    assert attends == {"cross-self": True, "cross": False, "joint": True}


def test_joint_encoder_lets_the_past_see_the_future_and_a_siamese_one_does_not():
    past, *futures = torch.rand(3, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for encoder in ("siamese", "joint"):
        model, memories = tiny_model(encoder=encoder), []
        hook = model.decoder.embed.register_forward_hook(
            lambda _, inputs, __, memories=memories: memories.append(*inputs)
        )
        for future in futures:
            model(past, future, noise=torch.zeros(1, 2, 16))
        hook.remove()
        assert torch.allclose(memories[0], memories[2], atol=1e-6) == (encoder == "siamese")  # the past frame, twice
