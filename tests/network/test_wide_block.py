"""Tokens of a network in few bits are added up in float32, and what is put among its layers is respected."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import siammae
from siammae.network.vit import layer_norm
from siammae.network.wide_block import WideBlock, normed

_FEW_BITS = [torch.bfloat16, torch.float16]


def _blocks(dim: int = 32) -> tuple[Block, WideBlock]:
    torch.manual_seed(0)
    plain, wide = (kind(dim, 2, qkv_bias=True, init_values=0.5, norm_layer=layer_norm) for kind in (Block, WideBlock))
    for weight in plain.parameters():
        nn.init.normal_(weight, std=0.3)
    wide.load_state_dict(plain.state_dict())
    return plain.eval(), wide.eval()


def _network(dtype: torch.dtype) -> siammae.SiamMAE:
    torch.manual_seed(0)
    config = siammae.ModelConfig(
        embed_dim=64, depth=4, num_heads=2, patch_size=8, image_size=64, decoder="none", registers=1, position="learned"
    )
    return siammae.SiamMAE(config).eval().to(dtype)


def _frames() -> Tensor:
    return torch.randint(0, 256, (2, 3, 48, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_in_float32_it_is_timms_own_to_the_bit() -> None:
    plain, wide = _blocks()
    x = torch.randn(2, 9, 32)
    assert torch.equal(wide(x), plain(x))


@pytest.mark.parametrize("dtype", _FEW_BITS)
def test_sums_lose_fewer_bits_than_timms(dtype: torch.dtype) -> None:
    plain, wide = _blocks()
    x = torch.randn(4, 50, 32)
    right = plain(x)
    of_plain, of_wide = (block.to(dtype)(x.to(dtype)) for block in (plain, wide))
    assert of_wide.dtype == torch.float32
    errors = [(found.float() - right).square().mean() for found in (of_plain, of_wide)]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("dtype", _FEW_BITS)
def test_features_come_in_the_networks_dtype_and_near_float32s(dtype: torch.dtype) -> None:
    exact, coarse = _network(torch.float32).extract(_frames()), _network(dtype).extract(_frames())
    assert coarse.dtype == dtype
    assert F.cosine_similarity(exact, coarse.float(), dim=1).min() > 0.9995
    assert _network(dtype).extract(_frames(), norm=False, layer=1).dtype == dtype


def test_gradients_flow() -> None:
    _, wide = _blocks()
    wide = wide.bfloat16()
    wide(torch.randn(1, 3, 32)).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in wide.parameters())


def test_another_block_gets_the_networks_dtype() -> None:
    network, seen = _network(torch.bfloat16), []

    class Other(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.dtype)
            return x

    network.encoder.blocks[1] = Other()
    network.extract(_frames())
    assert seen == [torch.bfloat16]


def test_a_norm_with_a_hook_is_called() -> None:
    norm = layer_norm(8).bfloat16()
    x = torch.randn(2, 8)
    plain = normed(norm, x, torch.bfloat16)
    seen: list[torch.dtype] = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    hooked = normed(norm, x, torch.bfloat16)
    assert seen == [torch.bfloat16]
    torch.testing.assert_close(plain, hooked, rtol=0, atol=0.05)


@pytest.mark.parametrize("bias", [True, False])
def test_norms_are_computed_in_float32(bias: bool) -> None:
    norm = nn.LayerNorm(16, eps=1e-6, bias=bias).bfloat16()
    x = 100 + torch.randn(5, 16)  # bfloat16 knows steps of 0.5 there
    exact = F.layer_norm(x, (16,), norm.weight.float(), None if norm.bias is None else norm.bias.float(), 1e-6)
    torch.testing.assert_close(normed(norm, x, torch.bfloat16).float(), exact, rtol=0.004, atol=0.004)
