"""PyTorch's defaults while a network is made, so that no weight is rounded or left without memory by a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_on_cpu() -> Iterator[None]:
    """Make networks in float32 on the CPU, whatever ``set_default_dtype`` and ``set_default_device`` were given.

    The default type is the whole process's: other threads see float32 for as long.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
