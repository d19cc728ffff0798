"""The affinity on CUDA through Triton, which is imported when the first kernel is launched.

Two kernels of :mod:`siammae.kernels.triton.affinity`, and never the affinity matrix. They are one custom operator, so
that ``torch.compile`` sees one node and a profile shows one name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_CHANNELS = 64  # a prepared frame has a multiple of this many, so that the kernel tests no channel
_LARGEST_TOP_K = 32  # a query's list stays in registers
_LARGEST_SIDE = 8192  # patches; see _FAR in triton_affinity
_LEAST_CAPABILITY = (8, 0)  # bfloat16 and asynchronous copies


class Config(NamedTuple):
    """How :func:`siammae.kernels.triton.affinity.best_of_part` is cut."""

    tile: tuple[int, int]  # queries of a program (y, x)
    block: tuple[int, int]  # keys of a step (y, x)
    warps: int
    stages: int  # 2 loads the next block while this one is searched

    def shared_bytes(self, row_bytes: int, capability: tuple[int, int]) -> int:
        """Bound the shared memory: the tile, the blocks in flight, and scratch for reductions."""
        # Only Hopper's matrix instruction reads a block from where the next one must not land yet.
        blocks = self.stages if capability[0] == 9 else 1
        return (math.prod(self.tile) + blocks * math.prod(self.block)) * row_bytes + 2048


# The first that fits into shared memory is taken. Fixed and not autotuned: what fits is arithmetic, a filling queue
# changes the task at every frame, an autotuner compiles for seconds each time, and results must not depend on timing.
_CONFIGS = (
    # 384 channels of 16 bits (ViT-S): half of 8x8's traffic from L2 for a third more scores outside the windows.
    Config((8, 16), (4, 16), warps=8, stages=2),
    # The same on cards with 99 KB; 64 rows are the least that fill Hopper's matrix instruction.
    Config((8, 8), (4, 16), warps=4, stages=2),
    # 384 channels of float32, 768 of 16 bits (ViT-B).
    Config((8, 8), (2, 16), warps=4, stages=2),
    # 1024 channels of 16 bits (ViT-L), 384 of float32 with 99 KB: too few rows for Hopper's instruction, Ampere's runs.
    Config((4, 8), (2, 16), warps=4, stages=2),
    # 768 and 1024 channels of float32: the least that Ampere's instruction takes.
    Config((4, 4), (1, 16), warps=1, stages=2),
)


def choose_config(row_bytes: int, capability: tuple[int, int], shared_limit: int) -> Config | None:
    """Return the first configuration that fits, or None.

    Args:
        row_bytes: of one patch, as :func:`prepare` lays it out.
        capability: of the device.
        shared_limit: bytes of shared memory that a program may have there.
    """
    for config in _CONFIGS:
        # Loads ahead of time make the compiler keep three copies of the loop for the data centre Blackwell, which then
        # spills registers; there two programs fit into a multiprocessor without, and hide each other's loads.
        fitted = config._replace(stages=1) if capability[0] == 10 else config
        if fitted.shared_bytes(row_bytes, capability) <= shared_limit:
            return fitted
    return None


def status() -> str:
    """Return ``"available"``, or why no kernel runs on this machine."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is missing; PyTorch's CUDA builds for Linux bring it"
    if not torch.cuda.is_available():
        return "no CUDA device"
    best = max(torch.cuda.get_device_capability(device) for device in range(torch.cuda.device_count()))
    if torch.version.hip is not None or best < _LEAST_CAPABILITY:
        return f"no NVIDIA device of compute capability 8.0 or higher ({torch.cuda.get_device_name()})"
    return "available"


def serves(tensor: Tensor) -> bool:
    """Tell whether kernels run where a CUDA tensor is."""
    found = importlib.util.find_spec("triton") is not None and torch.version.hip is None
    return found and torch.cuda.get_device_capability(tensor.device) >= _LEAST_CAPABILITY


def detail() -> str:
    """Name the device."""
    return torch.cuda.get_device_name()


def refusal(
    query: Tensor, *, top_k: int, radius: int | None, neighborhood: str, free_frames: int, keep_ties: bool
) -> str | None:
    """Return why a call cannot be served, or None; arguments as for :func:`topk_affinity`."""
    if query.device.type != "cuda":
        return f"the features are on {query.device}, it needs a CUDA device"
    properties: Any = torch.cuda.get_device_properties(query.device)  # its stub lacks shared_memory_per_block_optin
    capability = (properties.major, properties.minor)
    if capability < _LEAST_CAPABILITY:
        return f"{properties.name} has compute capability {capability[0]}.{capability[1]}, it needs 8.0 or higher"
    if (reason := refused_options(query, top_k, keep_ties)) is not None:
        return reason
    if choose_config(_row_bytes(query), capability, properties.shared_memory_per_block_optin) is None:
        return f"{query.shape[0]} channels of {query.dtype} do not fit into the shared memory of {properties.name}"
    return None


def refused_options(query: Tensor, top_k: int, keep_ties: bool) -> str | None:
    """Return what no device serves, or None."""
    if query.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"the features are {query.dtype}, it needs float16, bfloat16 or float32"
    if keep_ties:
        return "keep_ties has no bound on the neighbours of a patch"
    if top_k > _LARGEST_TOP_K:
        return f"top_k is {top_k}, it keeps at most {_LARGEST_TOP_K} neighbours"
    if max(query.shape[1:]) > _LARGEST_SIDE:
        return f"the grid is {tuple(query.shape[1:])}, it takes at most {_LARGEST_SIDE} patches on a side"
    return None


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _padded(channels: int) -> int:
    return -(-channels // _CHANNELS) * _CHANNELS


def _row_bytes(features: Tensor) -> int:
    return _padded(features.shape[0]) * features.element_size()


def prepare(features: Tensor) -> Tensor:
    """Lay out a frame for the kernel: channels last, padded with zeros to a multiple of 64.

    Args:
        features: ``(C, h, w)`` float16, bfloat16 or float32, unit length over C.

    Returns:
        ``(h, w, 1, C')`` of the same dtype; for float32 ``(h, w, 2, C')`` float16: a value x of at most 1 as a and
        ``(x - a) * 2048``, 22 bits together. Three products of those on tensor cores are as exact as three of tf32 and
        twice as fast.
    """
    last = features.permute(1, 2, 0)  # (h, w, C)
    halves = [last]
    if features.dtype == torch.float32:
        coarse = last.half()
        halves = [coarse, ((last - coarse.float()) * 2048).half()]
    missing = _padded(features.shape[0]) - features.shape[0]
    return torch.stack([F.pad(half, (0, missing)) for half in halves], dim=2)


def topk_affinity(
    query: Tensor,
    context: Sequence[Tensor],
    *,
    top_k: int,
    temperature: float,
    radius: int | None,
    neighborhood: str,
    free_frames: int,
    keep_ties: bool,
) -> tuple[Tensor, Tensor]:
    """Match as :func:`siammae.kernels.reference.topk_affinity` does.

    Args:
        query: ``(C, h, w)`` float16, bfloat16 or float32, unit length over C.
        context: M frames from :func:`prepare`, of the same dtype, on the same device. They stay where they are: the
            kernel gets a table of their addresses, which spares copying the whole context for every
            frame of a stream.
        top_k: at most 32.
        temperature: as in the reference.
        radius: as in the reference.
        neighborhood: as in the reference.
        free_frames: as in the reference.
        keep_ties: must be False.

    Returns:
        As the reference; k is ``top_k``, or ``M*h*w`` where that is less. A weight of 0 has index 0 where the window
        holds fewer than k patches.
    """
    weights, indices = _topk_affinity(
        prepare(query),
        list(context),
        top_k,
        temperature,
        -1 if radius is None else radius,
        neighborhood,
        len(context) if radius is None else min(free_frames, len(context)),
    )
    return weights, indices


class Task(NamedTuple):
    """The numbers that a launch needs, apart from pointers."""

    free: int
    reach: int
    limit: int
    parts: int
    steps_per_part: int
    tiles: int


def plan(
    grid: tuple[int, int],
    count: int,
    free: int,
    radius: int,
    neighborhood: str,
    config: Config,
    processors: int,
) -> Task:
    """Divide the context into parts so that all multiprocessors have work, and the same amount of it.

    Args:
        grid: patches ``(h, w)``.
        count: context frames, of which the first ``free`` have no window.
        free: see ``count``.
        radius: of the window; -1 for none.
        neighborhood: as in the reference.
        config: gives tile and block.
        processors: multiprocessors of the device.
    """
    reach = max(grid) if radius < 0 else min(radius - (neighborhood == "disk"), max(grid))
    # A square compares offsets, a disk squared distances; "disk" is open, and distances are whole when squared.
    radius = min(radius, 2 * _LARGEST_SIDE)
    limit = radius if neighborhood == "square" else radius**2 - (neighborhood == "disk")
    tiles = math.prod(-(-side // of) for side, of in zip(grid, config.tile, strict=True))
    whole = math.prod(-(-side // of) for side, of in zip(grid, config.block, strict=True))
    spans = [min(side, of + 2 * reach) for side, of in zip(grid, config.tile, strict=True)]
    near = math.prod(-(-span // of) for span, of in zip(spans, config.block, strict=True))
    steps = free * whole + (count - free) * near

    def rounds(parts: int) -> int:
        # Waves of programs, times the steps of one. A part begins with an empty list: about 8 steps more.
        return -(-tiles * parts // processors) * (-(-steps // parts) + 8)

    steps_per_part = -(-steps // min(range(1, 17), key=rounds))
    return Task(free, reach, limit, -(-steps // steps_per_part), steps_per_part, tiles)


@torch.library.custom_op("siammae::topk_affinity", mutates_args=())
def _topk_affinity(
    query: Tensor,
    context: Sequence[Tensor],
    top_k: int,
    temperature: float,
    radius: int,
    neighborhood: str,
    free: int,
) -> tuple[Tensor, Tensor]:
    """Run both kernels. No ``triton_op``: the table holds addresses, which a trace does not have."""
    from siammae.kernels.triton import affinity as kernels

    h, w, halves, channels = query.shape
    row_bytes = halves * channels * query.element_size()
    config, processors = _device_limits(query, row_bytes)
    task = plan((h, w), len(context), free, radius, neighborhood, config, processors)
    places = _power_of_two(top_k)
    frames = torch.tensor([frame.data_ptr() for frame in context], dtype=torch.int64, device="cpu")
    frames = frames.to(query.device, non_blocking=True)
    partial = query.new_empty(task.parts, h * w, places, dtype=torch.int64)
    columns = min(top_k, len(context) * h * w)
    weights = query.new_empty(h * w, columns, dtype=torch.float32)
    indices = query.new_empty(h * w, columns, dtype=torch.int64)
    with torch.cuda.device(query.device) if query.is_cuda else contextlib.nullcontext():
        kernels.best_of_part[(task.tiles, task.parts)](
            query,
            frames,
            partial,
            h,
            w,
            len(context),
            task.free,
            task.reach,
            task.limit,
            task.steps_per_part,
            columns,
            C=channels,
            CHUNK=128 if channels % 128 == 0 else 64,
            TY=config.tile[0],
            TX=config.tile[1],
            KY=config.block[0],
            KX=config.block[1],
            K=places,
            SQUARE=neighborhood == "square",
            HALVES=halves,
            UPCAST=kernels.INTERPRETED,
            STAGES=config.stages,
            num_warps=config.warps,
        )
        width = _power_of_two(task.parts * places)
        rows = max(1, 1024 // width)
        kernels.merge_parts[(-(-h * w // rows),)](
            partial, weights, indices, h * w, task.parts, columns, temperature, K=places, COLUMNS=width, ROWS=rows
        )
    return weights, indices


@_topk_affinity.register_fake
def _(
    query: Tensor,
    context: Sequence[Tensor],
    top_k: int,
    temperature: float,
    radius: int,
    neighborhood: str,
    free: int,
) -> tuple[Tensor, Tensor]:
    patches = query.shape[0] * query.shape[1]
    columns = min(top_k, len(context) * patches)
    return (
        query.new_empty(patches, columns, dtype=torch.float32),
        query.new_empty(patches, columns, dtype=torch.int64),
    )


def _device_limits(query: Tensor, row_bytes: int) -> tuple[Config, int]:
    """Return the configuration and the number of multiprocessors; the interpreter has those of an A100."""
    capability, shared_limit, processors = (8, 0), 163 << 10, 108
    if query.is_cuda:
        properties: Any = torch.cuda.get_device_properties(query.device)
        capability, processors = (properties.major, properties.minor), properties.multi_processor_count
        shared_limit = properties.shared_memory_per_block_optin
    config = choose_config(row_bytes, capability, shared_limit)
    if config is None:
        raise ValueError(f"a patch of {row_bytes} bytes does not fit: ask refusal() before.")
    return config, processors
