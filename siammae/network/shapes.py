"""A network's tensors without the network: what a checkpoint must hold, known before memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from siammae.config import ModelConfig


def tensor_shapes(build: Callable[[ModelConfig], nn.Module], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a network's tensors, at the cost of one block each without memory.

    Args:
        build: makes the network.
        config: its shape, however large.
    """
    small = config.replace(depth=1, decoder_depth=1, image_size=config.patch_size)  # one patch, one block each
    with torch.device("meta"), _Undrawn():
        tensors = build(small).state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if name.endswith("pos_embed"):
            shape = (1, shape[1] - 1 + config.grid_size**2, shape[2])
        part, in_block, rest = name.partition(".blocks.0.")
        depth = config.depth if part == "encoder" else config.decoder_depth
        names = [f"{part}.blocks.{block}.{rest}" for block in range(depth)] if in_block else [name]
        shapes |= dict.fromkeys(names, shape)
    return shapes


class _Undrawn(TorchFunctionMode):
    """Draws no numbers for tensors without memory: PyTorch would load its symbolic mathematics for that, 38 MB."""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is nn.init.normal_:
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))
