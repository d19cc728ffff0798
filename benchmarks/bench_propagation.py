"""Whole propagation of a mask at 480x880: ours against the DINO-style pipeline with the same random ViT-S/16.

python benchmarks/bench_propagation.py [--frames N] [--repeats N] [--backends cpu native] [--quick]
python benchmarks/bench_propagation.py --clip walkers.mp4 walkers_first_mask.png [--clip VIDEO MASK ...]

Prints seconds a frame, the speed-up, and where our time goes: encoder, affinity, labels and the rest. With ``--clip``:
the bundled network by the rules that it recommends, on real videos, against the DINO-style pipeline with the same
weights at the same size of input, whose frames all cost the same, so that it follows a few only.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench_encoder import plain_forward
from dense import dino_style, window_mask
from interleaved import headline, medians

import siammae.propagation.context
from siammae import ModelConfig, PropagationConfig, Propagator, SiamMAE, available_kernels, read_frames, read_mask
from siammae.features import input_size
from siammae.frames import resize_frame
from siammae.propagation.labels import resize_nearest

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


def dino_pipeline(
    model: SiamMAE, frames: Sequence[np.ndarray], mask: np.ndarray, config: PropagationConfig
) -> list[np.ndarray]:
    """Follow a mask as DINO's eval_video_segmentation.py does, plainly, at the frames' own size."""
    size = (mask.shape[0], mask.shape[1])
    grid = (size[0] // model.patch_size, size[1] // model.patch_size)
    window = window_mask(*grid, int(config.radius or 0), "square")
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    one_hot = F.one_hot(torch.from_numpy(mask).long(), int(mask.max()) + 1).permute(2, 0, 1).float()

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
        full = F.interpolate(scores[None], size, mode="bilinear")[0]
        low, high = full.amin(dim=(1, 2), keepdim=True), full.amax(dim=(1, 2), keepdim=True)
        results.append(((full - low) / (high - low)).max(dim=0).indices.byte().numpy())
    return results


def our_pipeline(
    model: SiamMAE, frames: Sequence[np.ndarray], mask: np.ndarray, config: PropagationConfig, kernels: Any
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


def same_masks(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Return the mean IoU of two runs' masks, over objects and frames after the first."""
    ids = np.unique(one[0])[1:]
    pairs = [(a == i, b == i) for a, b in zip(one[1:], other[1:], strict=True) for i in ids]
    return float(np.mean([(a & b).sum() / max(1, (a | b).sum()) for a, b in pairs]))


def real_clips(clips: Sequence[tuple[str, str]], dino_frames: int, most: int | None) -> None:
    """Time the rules that the bundled network recommends on real videos, and print a table."""
    print(headline())
    print("\n| clip | frames | pipeline | s a frame | speed-up | patches encoded | masks as without reuse, IoU |")
    print("|" + " --- |" * 7)
    model, exact = SiamMAE.from_pretrained(), SiamMAE.from_pretrained(dtype=torch.float32)
    default = model.propagation or PropagationConfig()
    dino = PropagationConfig.preset("dino")
    for video, first in clips:
        frames, mask = list(read_frames(video, stop=most, leave_out=[first])), read_mask(first)
        size = input_size(mask.shape, patch_size=model.patch_size, resize=default.resize)  # type: ignore[arg-type]
        few = [resize_frame(frame, size, interpolation="area") for frame in frames[:dino_frames]]
        runs: dict[str, Callable[[], Any]] = {
            "DINO-style, float32": lambda few=few, size=size, mask=mask: dino_pipeline(
                exact, few, resize_nearest(mask, size), dino
            ),
            "without reuse": lambda frames=frames, mask=mask: our_pipeline(
                model, frames, mask, default.replace(reuse_threshold=None), "auto"
            ),
            "default": lambda frames=frames, mask=mask: our_pipeline(model, frames, mask, default, "auto"),
        }
        seconds, masks = {}, {}
        for name, run in runs.items():
            began = time.perf_counter()
            masks[name] = run()
            seconds[name] = (time.perf_counter() - began) / len(masks[name])
        follow = Propagator(model, default)
        for index, frame in enumerate(frames):
            follow.step(frame, mask=mask if index == 0 else None)
        for name, each in seconds.items():
            share = f"{follow.encoded_share:.0%}" if name == "default" else "100%"
            same = f"{same_masks(masks['without reuse'], masks[name]):.3f}" if name == "default" else "-"
            faster = seconds["DINO-style, float32"] / each
            print(
                f"| {Path(video).name} | {len(masks[name])} | {name} | {each:.3f} | {faster:.1f}x | {share} | {same} |",
                flush=True,
            )


def main() -> None:
    """Time both pipelines in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    here = [name for name, status in available_kernels().items() if status == "available" and name != "triton"]
    parser.add_argument("--backends", nargs="+", default=here)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="four frames, once")
    parser.add_argument("--clip", nargs=2, action="append", metavar=("VIDEO", "MASK"), help="a real video, by defaults")
    parser.add_argument("--dino-frames", type=int, default=10, help="of a clip, for the DINO-style pipeline")
    parser.add_argument("--most", type=int, help="frames of a clip")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    if args.clip:
        real_clips(args.clip, args.dino_frames, args.most)
    else:
        made_up(args)


def made_up(args: argparse.Namespace) -> None:
    """Time the rules of DINO with random weights on noise."""
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
