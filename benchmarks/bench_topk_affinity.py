"""One step of label propagation, affinity and labels: our kernels against what public evaluation code does.

``python benchmarks/bench_topk_affinity.py [--quick] [--backends cpu native] [--plot scaling.png]`` prints a Markdown
table: milliseconds, the speed-up over the dense peer, and the peak memory of one call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from dense import dino_style, videowalk_style, window_mask
from interleaved import headline, medians
from memory import peak_memory
from torch import Tensor

from siammae.propagation.affinity import FrameFeatures, available_kernels, match_frames, unit_length
from siammae.propagation.labels import gather_labels


class Case(NamedTuple):
    """What is searched, by which rules."""

    grid: tuple[int, int]
    frames: int  # of the queue; the first frame comes besides
    radius: int
    top_k: int
    shape: str
    channels: int = 384
    labels: int = 2

    @property
    def title(self) -> str:
        """Name the case in a table."""
        h, w = self.grid
        return (
            f"{h}x{w}, n={self.frames}, r={self.radius} {self.shape}, k={self.top_k}, "
            f"C={self.channels}, {self.labels} labels"
        )


RULES = ((7, 12, 5, "square"), (20, 20, 7, "disk"))
CASES = [Case(grid, *rule) for grid in ((30, 55), (60, 110)) for rule in RULES]
VARIANTS = [Case((30, 55), *RULES[1], channels, labels) for channels, labels in ((192, 2), (384, 20), (192, 20))]


def features(case: Case) -> Tensor:
    """Make ``(frames + 2, C, h, w)`` of unit length: smooth, moving, with noise, so that neighbours look alike."""
    generator = torch.Generator().manual_seed(0)
    h, w = case.grid
    coarse = torch.randn(1, case.channels, h // 4 + 2, w // 4 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, case.grid, mode="bilinear")[0]
    frames = [
        smooth.roll(shift, 2) + 0.5 * torch.randn(case.channels, h, w, generator=generator)
        for shift in range(case.frames + 2)
    ]
    # As a ViT gives them: a patch's values lie side by side.
    return unit_length(torch.stack(frames)).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def our_step(case: Case, everything: Tensor, labels: Tensor, kernels: Any, free: int) -> Callable[[], Tensor]:
    """Return a step with a queue that is laid out already, as in a stream."""
    *context, query = (FrameFeatures(frame) for frame in everything)
    rules = {"top_k": case.top_k, "radius": case.radius, "neighborhood": case.shape, "keep_ties": False}

    def step() -> Tensor:
        newest = FrameFeatures(context[-1].tensor)  # each step lays out one frame, the one that joined the queue
        queue = [*context[:-1], newest]
        matches = match_frames(query, queue, temperature=0.1, free_frames=free, kernels=kernels, **rules)
        return gather_labels(matches, labels)

    return step


def steps(case: Case, backends: list[str], free: int, dense: Callable[..., Tensor] | None) -> dict[str, Any]:
    """Return all steps of a case by name."""
    everything = features(case)
    labels = torch.rand(case.frames + 1, case.labels, *case.grid, generator=torch.Generator().manual_seed(1))
    runs: dict[str, Any] = {name: our_step(case, everything, labels, name, free) for name in backends}
    if dense is not None:
        mask = window_mask(*case.grid, case.radius, case.shape)
        query, context = everything[-1].contiguous(), everything[:-1].contiguous()
        rules = {"top_k": case.top_k, "temperature": 0.1}
        runs["dense"] = lambda: dense(query, context, labels, mask, **rules)
    return runs


def agree(runs: dict[str, Any]) -> None:
    """Stop where two ways give other labels: a comparison of different things is worth nothing."""
    wanted = runs["dense"]()
    for name, run in runs.items():
        off = (run() - wanted).abs().amax(dim=0) > 1e-4
        if off.double().mean() > 0.01:  # near-ties may go either way
            raise SystemExit(f"{name} differs from the dense peer at {int(off.sum())} patches.")


def table(cases: list[Case], backends: list[str], peer: str, repeats: int, memory: bool) -> None:
    """Print one table: our backends against one way to do it densely."""
    dense, free = (dino_style, 0) if peer == "DINO" else (videowalk_style, 1)
    print(f"\n### Against the {peer}-style code{' (its first frame has no window)' if free else ''}\n")
    columns = [f"{name} ms (speed-up{', MB' if memory else ''})" for name in backends]
    print("| case | " + " | ".join([f"{peer}-style ms{' (MB)' if memory else ''}", *columns]) + " |")
    print("| --- |" + " --- |" * (1 + len(backends)))
    for case in cases:
        runs = steps(case, backends, free, dense)
        agree(runs)
        seconds = medians(runs, repeats)
        grown = {name: f"{peak_memory(run):.0f}" for name, run in runs.items()} if memory else {}
        cells = [f"{seconds['dense'] * 1e3:.0f}" + (f" ({grown['dense']})" if memory else "")]
        for name in backends:
            extra = f", {grown[name]} MB" if memory else ""
            cells.append(f"{seconds[name] * 1e3:.0f} ({seconds['dense'] / seconds[name]:.1f}x{extra})")
        print(f"| {case.title} | " + " | ".join(cells) + " |", flush=True)


def scaling(path: Path, backends: list[str], repeats: int, largest: int) -> None:
    """Draw how the time of a step grows with patches and with the queue; both lines should be straight."""
    grids = [(h, h * 11 // 6) for h in (30, 42, 60, 84, 120) if h <= largest]
    by_grid = [Case(grid, 7, 12, 5, "square") for grid in grids]
    by_queue = [Case((30, 55), n, 12, 5, "square") for n in (2, 5, 10, 20, 40)]
    panels = []
    for title, cases, size in (
        ("patches, n=7 r=12", by_grid, lambda case: case.grid[0] * case.grid[1]),
        ("frames in the queue, 30x55 r=12", by_queue, lambda case: case.frames + 1),
    ):
        lines: dict[str, list[tuple[float, float]]] = {name: [] for name in backends}
        print(f"\n| {title} | " + " | ".join(f"{name} ms" for name in backends) + " |")
        print("| --- |" + " --- |" * len(backends))
        for case in cases:
            seconds = medians(steps(case, backends, 0, None), repeats)
            for name in backends:
                lines[name].append((size(case), seconds[name] * 1e3))
            print(
                f"| {size(case)} | " + " | ".join(f"{seconds[name] * 1e3:.1f}" for name in backends) + " |", flush=True
            )
        panels.append((title, lines))
    draw(path, panels)
    print(f"\n{path}")


def draw(path: Path, panels: list[tuple[str, dict[str, list[tuple[float, float]]]]]) -> None:
    """Write a PNG with one panel of lines each, both axes from 0."""
    from PIL import Image, ImageDraw

    width, height, margin = 520, 400, 60
    picture = Image.new("RGB", (width * len(panels), height), "white")
    pen = ImageDraw.Draw(picture)
    colours = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
    for number, (title, lines) in enumerate(panels):
        left, bottom = number * width + margin, height - margin
        high_x = max(x for line in lines.values() for x, _ in line)
        high_y = max(y for line in lines.values() for _, y in line)
        span_x, span_y = width - margin - 30, height - margin - 50
        pen.line([(left, bottom), (left + span_x, bottom)], "black")
        pen.line([(left, bottom), (left, bottom - span_y)], "black")
        pen.text((left, 12), f"ms a step over {title}", "black")
        pen.text((left + span_x - 40, bottom + 8), f"{high_x:g}", "black")
        pen.text((left - 50, bottom - span_y), f"{high_y:.0f}", "black")
        pen.text((left - 12, bottom + 8), "0", "black")
        for (name, line), colour in zip(lines.items(), colours, strict=False):
            points = [(left + span_x * x / high_x, bottom - span_y * y / high_y) for x, y in line]
            pen.line(points, colour, 2)
            for x, y in points:
                pen.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
            pen.text((left + 15, 36 + 16 * list(lines).index(name)), name, colour)
    picture.save(path)


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    here = [name for name, status in available_kernels().items() if status == "available" and name != "triton"]
    parser.add_argument("--backends", nargs="+", default=here, help="kernels to time (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="30x55 only, three repeats")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--plot", type=Path, help="also time growing sizes and draw them to this PNG")
    parser.add_argument("--plot-only", action="store_true", help="only that")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    cases = [case for case in CASES if not args.quick or case.grid == (30, 55)]
    repeats = 3 if args.quick else args.repeats
    print(headline())
    for peer in () if args.plot_only else ("DINO", "videowalk"):
        table([*cases, *([] if args.quick else VARIANTS)], args.backends, peer, repeats, not args.no_memory)
    if args.plot:
        fast = [name for name in args.backends if name != "reference"] or args.backends  # its line would hide theirs
        scaling(args.plot, fast, repeats, 60 if args.quick else 120)


if __name__ == "__main__":
    main()
