"""What each rule of evaluation is worth: one switch at a time from a preset, on DAVIS, features made once a video.

    python benchmarks/ablate_protocol.py DAVIS --year 2016 --split dev --short-side 240 --workers 2 -o ablation

prints a Markdown table with its machine and date. A run that was cut short goes on from the folder of ``-o``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

import siammae
from siammae.evaluation.comparison import Entry, compare_entries, make_benchmark
from siammae.propagation.video import load_extractor

BOTH = ("native", (480, 880))

# What a switch is called and what it sets. A row that sets what the preset has already is left out.
SWITCHES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("no copies of frame 0 in the queue", {"pad_queue": False}),
    ("queue filled with copies of frame 0", {"pad_queue": True}),
    ("frame 0 queued besides being pinned", {"queue_pinned": True}),
    ("window applies to frame 0", {"restrict_first": True}),
    ("no window to frame 0", {"restrict_first": False}),
    ("frame 0 not kept", {"pin_first": False}),
    ("7 frames", {"queue_length": 7}),
    ("20 frames", {"queue_length": 20}),
    ("30 frames", {"queue_length": 30}),
    ("radius 12", {"radius": 12}),
    ("radius 20", {"radius": 20}),
    ("radius 30", {"radius": 30}),
    ("no window", {"radius": None}),
    ("window: distance < radius", {"neighborhood": "disk"}),
    ("window: distance <= radius", {"neighborhood": "closed_disk"}),
    ("window: square", {"neighborhood": "square"}),
    ("top 5", {"top_k": 5}),
    ("top 7", {"top_k": 7}),
    ("top 10", {"top_k": 10}),
    ("ties kept", {"keep_ties": True}),
    ("exactly top k", {"keep_ties": False}),
    ("temperature 0.05", {"temperature": 0.05}),
    ("temperature 0.07", {"temperature": 0.07}),
    ("temperature 0.1", {"temperature": 0.1}),
    ("temperature 0.2", {"temperature": 0.2}),
    ("temperature 0.7", {"temperature": 0.7}),
    ("first labels: bilinear", {"first_labels": "bilinear"}),
    ("first labels: nearest", {"first_labels": "nearest"}),
    ("first labels: area", {"first_labels": "area"}),
    ("labels divided by their sum", {"normalize_labels": True}),
    ("min-max before the argmax", {"min_max": True}),
    ("no min-max before the argmax", {"min_max": False}),
    ("upsampling: nearest", {"upsampling": "nearest"}),
    ("upsampling: bilinear", {"upsampling": "bilinear"}),
    ("argmax at the frame's size", {"upsample_to": "frame"}),
    ("argmax at the input size", {"upsample_to": "input"}),
    ("frames resized bilinearly", {"interpolation": "bilinear"}),
    ("frames resized by Pillow's bicubic", {"interpolation": "bicubic"}),
    ("frames resized by area", {"interpolation": "area"}),
    ("red divided by 0.228", {"pixel_std": (0.228, 0.224, 0.225)}),
    ("red divided by 0.229", {"pixel_std": (0.229, 0.224, 0.225)}),
)


def input_switches(side: int, patch: int) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return the ways to choose the input size, brought from 480 pixels to another short side."""
    stretched = (side, round(880 * side / 480 / patch) * patch)
    plain = {"resize": side, "resize_side": "short", "size_multiple": None, "round_both": False}
    return (
        (f"input {stretched[0]}x{stretched[1]}, as 480x880", {"resize": stretched}),
        ("long side to the nearest patch", {**plain, "rounding": "nearest"}),
        ("long side up to a patch", {**plain, "rounding": "ceil"}),
        ("long side down to a multiple of 64", {**plain, "size_multiple": 64, "rounding": "floor"}),
    )


def entries(model: Any, base: siammae.PropagationConfig, side: int) -> list[Entry]:
    """Return the base and every switch that changes it."""
    switches = (*SWITCHES, *input_switches(side, model.patch_size))
    rows = [("base", base), *((name, base.replace(**fields)) for name, fields in switches)]
    return [Entry("model", model, name, config) for name, config in rows if name == "base" or config != base]


def report(comparison: siammae.Comparison) -> str:
    """Return the Markdown table: scores at both sizes, their difference to the base, and that of the median video.

    One video can move the mean by points; what moves the median moves most of them.
    """
    lines = ["| switch | J&F | | median | F | | J&F at 480x880 | |", "| - | -: | -: | -: | -: | -: | -: | -: |"]
    base, base_other = comparison.results[:2]
    for native, other in zip(comparison.results[::2], comparison.results[1::2], strict=True):
        changes = [scores["J&F"] - base.per_video[name]["J&F"] for name, scores in native.per_video.items()]
        median = "" if native is base else f"{statistics.median(changes):+.2f}"
        cells = [native.details["rules"], *_change(native, base, "J&F"), median]
        cells += [*_change(native, base, "F"), *_change(other, base_other, "J&F")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _change(result: siammae.EvaluationResult, base: siammae.EvaluationResult, score: str) -> list[str]:
    change = result.scores[score] - base.scores[score]
    return [f"{result.scores[score]:.2f}", "" if result is base else f"{change:+.2f}"]


def processor() -> str:
    """Return the processor's name where the system says it."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of DAVIS")
    parser.add_argument("--year", type=int, default=2016)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--sequences", nargs="+")
    parser.add_argument("--model", default="siammae-ti8")
    parser.add_argument("--preset", default="siammae", help="the rules that switches change (%(default)s)")
    parser.add_argument("--short-side", type=int, default=240, help="of the input; 480 is the sources' (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only switches whose name holds one of these")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("-o", "--output", help="keep masks and scores, and go on from them")
    args = parser.parse_args()

    model = load_extractor(args.model)
    preset = siammae.PropagationConfig.preset(args.preset)
    inputs = dict(input_switches(args.short_side, model.patch_size))
    exact = isinstance(preset.resize, tuple)
    base = preset.replace(**(next(iter(inputs.values())) if exact else {"resize": args.short_side}))
    rows = entries(model, base, args.short_side)
    if args.only:
        rows = [rows[0], *(row for row in rows[1:] if any(text in row.rules for text in args.only))]
    benchmark = make_benchmark(
        "davis", args.root, year=args.year, split=args.split, sequences=args.sequences, score_at=BOTH
    )
    comparison = compare_entries(benchmark, rows, output_dir=args.output, workers=args.workers, progress=True)
    print(f"Base: preset `{args.preset}` with the input at a short side of {args.short_side} pixels, {args.model}.\n")
    print(report(comparison))
    threads = f"{args.workers} workers" if args.workers > 1 else f"{torch.get_num_threads()} threads"
    print(
        f"\n`python {' '.join(sys.argv)}`, {processor()}, {os.cpu_count()} cores, {threads}, torch {torch.__version__},"
    )
    print(f"{date.today()}, {comparison.seconds:.0f} s.")


if __name__ == "__main__":
    main()
