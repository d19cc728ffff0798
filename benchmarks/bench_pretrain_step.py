"""The training step on a CPU by parts: forward, loss, backward, optimiser; several ways side by side.

python benchmarks/bench_pretrain_step.py [--repeats N] [--recipes tiny/8 small/16] [--compile]

The first row is what one would write: bfloat16 autocast and PyTorch's attention. `precision="auto"` takes the second,
with plain attention, on a CPU with bfloat16 instructions, and float32 with fused attention on any other. MB is what the
process grows by at most during a step, besides weights and moments.
"""

import argparse
import copy
import statistics
import time
from contextlib import nullcontext
from itertools import pairwise

import torch
from interleaved import headline
from memory import peak_memory
from torch import Tensor

import siammae.network.pretraining_model as model_module
from siammae import ModelConfig, SiamMAE
from siammae.network.cpu_layers import multiplies_bfloat16
from siammae.network.pretraining_model import set_fused_attention, set_recompute
from siammae.pretraining.schedule import parameter_groups

RECIPES = {  # network, pairs in a batch, masked share
    "tiny/8": (
        ModelConfig.vit("tiny", patch_size=8, image_size=64, decoder_dim=128, decoder_depth=4, decoder_heads=4),
        96,
        0.9,
    ),
    "small/16": (ModelConfig.vit("small", patch_size=16), 8, 0.95),
}
PARTS = ("forward", "loss", "backward", "optimiser")


class Step:
    """One way to make a step, with the seconds that each part took."""

    def __init__(
        self, model: SiamMAE, *, bf16: bool, fused: bool, recompute: bool = False, compiled: bool = False
    ) -> None:
        self.model, self.bf16 = copy.deepcopy(model), bf16
        set_fused_attention(self.model, fused)
        set_recompute(self.model, recompute)
        if compiled:
            self.model.encoder.compile(dynamic=False)
            self.model.decoder.compile(dynamic=False)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.05), lr=1e-4, betas=(0.9, 0.95), fused=True)
        self.seconds: list[list[float]] = []

    def run(self, pairs: Tensor, mask_ratio: float) -> None:
        in_loss = 0.0
        plain = model_module.masked_patch_loss

        def timed_loss(*args: Tensor, **options: bool) -> Tensor:
            nonlocal in_loss
            begin = time.perf_counter()
            loss = plain(*args, **options)
            in_loss = time.perf_counter() - begin
            return loss

        model_module.masked_patch_loss = timed_loss
        try:
            moments = [time.perf_counter()]
            with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
                output = self.model(
                    pairs[:, 0], pairs[:, 1], mask_ratio=mask_ratio, generator=torch.Generator().manual_seed(0)
                )
            moments.append(time.perf_counter())
            output.loss.backward()
            moments.append(time.perf_counter())
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            moments.append(time.perf_counter())
        finally:
            model_module.masked_patch_loss = plain
        forward, backward, optimiser = (after - before for before, after in pairwise(moments))
        self.seconds.append([forward - in_loss, in_loss, backward, optimiser])


def compare(name: str, repeats: int, *, compiled: bool) -> list[str]:
    config, batch, mask_ratio = RECIPES[name]
    torch.manual_seed(0)
    model = SiamMAE(config).train()
    pairs = torch.randint(0, 256, (batch, 2, 3, config.image_size, config.image_size), dtype=torch.uint8)
    ways = {
        "bfloat16, fused attention (naive)": Step(model, bf16=True, fused=True),
        "bfloat16, plain attention": Step(model, bf16=True, fused=False),
        "bfloat16, plain, recompute": Step(model, bf16=True, fused=False, recompute=True),
        "float32, plain attention": Step(model, bf16=False, fused=False),
        "float32, fused attention": Step(model, bf16=False, fused=True),
        "float32, fused, recompute": Step(model, bf16=False, fused=True, recompute=True),
    }
    if compiled:
        ways["float32, fused, compile"] = Step(model, bf16=False, fused=True, compiled=True)
        ways["bfloat16, plain, compile"] = Step(model, bf16=True, fused=False, compiled=True)
    for _ in range(repeats + 1):
        for way in ways.values():
            way.run(pairs, mask_ratio)
    rows, first = [], None
    for way, step in ways.items():
        parts = [statistics.median(column) for column in zip(*step.seconds[1:], strict=True)]
        speed = batch / statistics.median(sum(row) for row in step.seconds[1:])
        first = first or speed
        cells = " | ".join(f"{1e3 * part:.0f}" for part in parts)
        rows.append(
            f"| {name}, {config.image_size} px, {batch} pairs | {way} | {cells} | {speed:.1f} | {speed / first:.2f} | "
            f"{peak_memory(lambda step=step: step.run(pairs, mask_ratio)):.0f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--compile", action="store_true", help="also with torch.compile: a minute a row to compile")
    args = parser.parse_args()
    print(headline())
    print(f'precision="auto" on this machine: {"bf16" if multiplies_bfloat16() else "fp32"}\n')
    print(f"| network | way | {' ms | '.join(PARTS)} ms | pairs/s | over the first | MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in args.recipes:
        print("\n".join(compare(name, args.repeats, compiled=args.compile)), flush=True)


if __name__ == "__main__":
    main()
