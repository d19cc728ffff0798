"""``siammae info``: what a checkpoint is, and what this machine can run."""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING

from siammae._version import __version__
from siammae.cli.options import Commands, add_command, say

if TYPE_CHECKING:
    from siammae.network.model import SiamMAE


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "info", run, "say what a checkpoint is and which kernels run here")
    parser.add_argument("name", nargs="?", default="siammae-ti8", help="bundled name, folder or Hub name (%(default)s)")
    parser.add_argument("--card", action="store_true", help="also print the model card")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.checkpoints.hub import CARD_FILE, bundled_names, find_checkpoint
    from siammae.network.model import SiamMAE

    say("\n".join(_machine()))
    say(f"\nbundled checkpoints: {', '.join(bundled_names())}")
    folder = find_checkpoint(args.name)
    say("\n".join(_checkpoint(SiamMAE.from_pretrained(folder), args.name)))
    say(f"  folder       {folder}")
    if args.card:
        say("\n" + (folder / CARD_FILE).read_text(encoding="utf-8"))
    return 0


def _machine() -> list[str]:
    import torch

    from siammae.propagation.affinity import available_kernels, kernel_details

    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    lines = [
        f"siammae {__version__}, Python {platform.python_version()}, torch {torch.__version__}",
        f"machine      {platform.machine()}, {torch.get_num_threads()} threads, {cuda}",
        f"products     {_products()}",
        "kernels",
    ]
    details = {name: f": {detail}" for name, detail in kernel_details().items()}
    return lines + [f"  {name:<11}{status}{details.get(name, '')}" for name, status in available_kernels().items()]


def _products() -> str:
    """Say how matrices are multiplied on the CPU."""
    import torch

    from siammae.network.cpu_layers import attention_route, bfloat16_is_faster, multiplies_bfloat16, product_route
    from siammae.network.dtypes import choose_dtype

    makers = {"linear": "PyTorch", "pytorch": "PyTorch", "onednn": "oneDNN", "native": "the native kernel"}

    def ways(dtype: torch.dtype) -> str:
        return f"by {makers[product_route(dtype)]}, attention by {makers[attention_route(dtype)]}"

    slower = "slower than float32" if multiplies_bfloat16() else "only emulated by this CPU, slower than float32"
    bfloat16 = "" if bfloat16_is_faster() else f", {slower}"
    auto = str(choose_dtype("auto", "cpu")).removeprefix("torch.")
    return f"float32 {ways(torch.float32)}; bfloat16 {ways(torch.bfloat16)}{bfloat16}; --dtype auto is {auto}"


def _checkpoint(model: SiamMAE, name: str) -> list[str]:
    config = model.config
    recommended = model.propagation
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()}
    extras = (f", {config.registers} registers" if config.registers else "") + ", LayerScale" * config.layer_scale
    extras += ", adapter" * config.adapter
    decoder = "none: features only"
    if model.decoder is not None:
        decoder = (
            f"{config.decoder}, width {config.decoder_dim}, depth {config.decoder_depth}, "
            f"{config.decoder_heads} heads, {millions['decoder']:.1f} M parameters"
        )
    lines = [
        f"\ncheckpoint {name}",
        f"  encoder      {config.encoder}, width {config.embed_dim}, depth {config.depth}, {config.num_heads} heads, "
        f"patch {config.patch_size}{extras}, {millions['encoder']:.1f} M parameters",
        f"  decoder      {decoder}",
        f"  positions    for {config.image_size} pixels, {config.grid_size} x {config.grid_size} patches",
    ]
    if recommended is None:
        return [*lines, "  propagation  no recommendation: the defaults of PropagationConfig"]
    chosen = (
        *("resize", "top_k", "temperature", "radius", "neighborhood", "queue_length"),
        *("focus_margin", "pool_keys", "reuse_threshold", "label_cells", "refine"),
    )
    return [*lines, "  propagation  " + ", ".join(f"{field}={getattr(recommended, field)}" for field in chosen)]
