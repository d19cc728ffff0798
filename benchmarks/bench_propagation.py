"""Whole propagation of a mask at 480x880: ours against the DINO-style pipeline with the same random ViT-S/16.

python benchmarks/bench_propagation.py [--frames N] [--repeats N] [--backends cpu native] [--quick]

Prints seconds a frame, the speed-up, and where our time goes: encoder, affinity, labels and the rest.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench_encoder import plain_forward
from dense import dino_style, window_mask
from interleaved import headline, medians

import siammae.propagation.context
from siammae import ModelConfig, PropagationConfig, Propagator, SiamMAE, available_kernels

SIZE = (480, 880)


def video(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Make smooth moving noise and a mask of two objects."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, 34, 64), dtype=np.float32))
    whole = F.interpolate(coarse, (SIZE[0] + 64, SIZE[1] + 64), mode="bicubic")[0].clamp(0, 1)
    crops = [whole[:, 2 * t : 2 * t + SIZE[0], 2 * t : 2 * t + SIZE[1]] for t in range(min(frames, 32))]
    pixels = (torch.stack(crops) * 255).byte().permute(0, 2, 3, 1).numpy()
    mask = np.zeros(SIZE, np.uint8)
    mask[100:300, 100:300], mask[200:400, 500:700] = 1, 2
    return pixels, mask


def dino_pipeline(model: SiamMAE, frames: np.ndarray, mask: np.ndarray, config: PropagationConfig) -> list[np.ndarray]:
    """Follow a mask as DINO's eval_video_segmentation.py does, plainly."""
    grid = (SIZE[0] // 16, SIZE[1] // 16)
    window = window_mask(*grid, int(config.radius or 0), "square")
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    one_hot = F.one_hot(torch.from_numpy(mask).long(), 3).permute(2, 0, 1).float()

    def encode(frame: np.ndarray) -> torch.Tensor:
        pixels = (torch.from_numpy(frame).permute(2, 0, 1).float() / 255 - mean) / std
        tokens = plain_forward(model, pixels[None])[0, 1:]
        return F.normalize(tokens.T.reshape(-1, *grid), dim=0)

    first = (encode(frames[0]), F.interpolate(one_hot[None], grid, mode="bilinear")[0])
    queue: list[tuple[torch.Tensor, torch.Tensor]] = []
    results = [mask]
    for frame in frames[1:]:
        query = encode(frame)
        features, labels = (torch.stack(part) for part in zip(first, *queue, strict=True))
        scores = dino_style(query, features, labels, window, top_k=config.top_k, temperature=config.temperature)
        queue = [*queue, (query, scores)][-config.queue_length :]
        full = F.interpolate(scores[None], SIZE, mode="bilinear")[0]
        low, high = full.amin(dim=(1, 2), keepdim=True), full.amax(dim=(1, 2), keepdim=True)
        results.append(((full - low) / (high - low)).max(dim=0).indices.byte().numpy())
    return results


def our_pipeline(
    model: SiamMAE, frames: np.ndarray, mask: np.ndarray, config: PropagationConfig, kernels: Any
) -> list[np.ndarray]:
    """Follow the mask with a Propagator."""
    follow = Propagator(model, config, kernels=kernels)
    return [follow.step(frame, mask=mask if t == 0 else None).label_map() for t, frame in enumerate(frames)]


def profile(run: Callable[[], object], model: SiamMAE) -> dict[str, float]:
    """Return the seconds of a run by part."""
    spent = {"encoder": 0.0, "affinity": 0.0, "labels": 0.0}

    def timed(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    kept = siammae.propagation.context.match_frames, siammae.propagation.context.gather_labels
    siammae.propagation.context.match_frames, siammae.propagation.context.gather_labels = (
        timed("affinity", kept[0]),
        timed("labels", kept[1]),
    )
    object.__setattr__(model, "extract", timed("encoder", model.extract))
    start = time.perf_counter()
    try:
        run()
    finally:
        siammae.propagation.context.match_frames, siammae.propagation.context.gather_labels = kept
        object.__delattr__(model, "extract")
    whole = time.perf_counter() - start
    return {**spent, "frames in, masks out": whole - sum(spent.values())}


def main() -> None:
    """Time both pipelines in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    here = [name for name, status in available_kernels().items() if status == "available" and name != "triton"]
    parser.add_argument("--backends", nargs="+", default=here)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="four frames, once")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    count, repeats = (4, 1) if args.quick else (args.frames, args.repeats)
    model = SiamMAE(ModelConfig.vit("small", patch_size=16, decoder="none")).eval()
    config = PropagationConfig.preset("dino").replace(resize=SIZE, size_multiple=None)
    frames, mask = video(count)
    runs: dict[str, Callable[[], Any]] = {"DINO-style": lambda: dino_pipeline(model, frames, mask, config)}
    halved = copy.deepcopy(model).to(torch.bfloat16)
    for name in args.backends:
        runs[name] = lambda name=name: our_pipeline(model, frames, mask, config, name)
    first = args.backends[0]
    runs[f"{first}, encoder in bfloat16"] = lambda: our_pipeline(halved, frames, mask, config, first)
    print(headline())
    results = {name: run() for name, run in runs.items()}
    seconds = medians(runs, repeats)
    plain = seconds["DINO-style"]
    print("\n| pipeline | s a frame | speed-up | pixels labelled as DINO-style |\n| --- | --- | --- | --- |")
    for name in runs:
        same = np.mean([(a == b).mean() for a, b in zip(results[name], results["DINO-style"], strict=True)])
        print(f"| {name} | {seconds[name] / count:.3f} | {plain / seconds[name]:.1f}x | {same:.2%} |")
    print("\n| kernels | " + " | ".join(parts := ["encoder", "affinity", "labels", "frames in, masks out"]) + " |")
    print("| --- |" + " --- |" * len(parts))
    for name in args.backends:
        spent = profile(runs[name], model)
        print(f"| {name} | " + " | ".join(f"{spent[part] / sum(spent.values()):.0%}" for part in parts) + " |")


if __name__ == "__main__":
    main()
