"""Does ``FrameMasks.confidence`` predict J? Correlation within each sequence, and a reliability table over all frames.

    python benchmarks/calibrate_confidence.py DAVIS:dev DAVIS-240:dev12 --every 1 2 --features features --plot curve.png

The mask of the first frame is followed through DAVIS-2016 sequences; J is the library's, of the frames between the
first and the last. "J by time" is what the frame's number alone says: masks get worse with time. A curve fitted by
isotonic least squares on all other sequences shows whether a calibration would be nearer to J than the confidence as it
is.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from bench_suggest_frame import sequences
from interleaved import headline
from scipy.optimize import isotonic_regression
from scipy.stats import pearsonr, spearmanr
from stored_features import StoredFeatures

import siammae
from siammae.cli.inputs import assignments

BINS = np.linspace(0, 1, 11)


class Scored(NamedTuple):
    """The scored frames of a sequence."""

    split: str
    name: str
    confidence: np.ndarray  # (T,)
    j: np.ndarray  # (T,)


def scored(split: str, sequence: object, every: int, **options: object) -> Scored:
    """Follow the first mask and compare every frame with the truth."""
    chosen = range(0, len(sequence.frames), every)
    frames = (next(siammae.read_frames(sequence.frames[index])) for index in chosen)
    pairs = []
    for index, result in zip(chosen, siammae.follow_masks(frames, sequence.truth(0), **options), strict=True):
        j = siammae.region_similarity(result.label_map() == 1, sequence.truth(index) == 1)
        pairs.append((float(result.confidence[0]), j))
    confidence, j = np.array(pairs[1:-1]).T
    return Scored(split, sequence.name, confidence, j)


def table(rows: list[Scored]) -> str:
    """Return one line a sequence, and the medians."""
    lines = ["| sequence | frames | J | confidence | Spearman | Pearson | J by time |", "| - |" + " -: |" * 6]
    found = []
    for row in rows:
        by_time = -spearmanr(np.arange(len(row.j)), row.j).statistic
        found.append((spearmanr(row.confidence, row.j).statistic, pearsonr(row.confidence, row.j).statistic, by_time))
        numbers = " | ".join(f"{value:.2f}" for value in (row.j.mean(), row.confidence.mean(), *found[-1]))
        lines.append(f"| {row.name} | {len(row.j)} | {numbers} |")
    medians = " | ".join(f"**{value:.2f}**" for value in np.median(found, axis=0))
    between = spearmanr([row.confidence.mean() for row in rows], [row.j.mean() for row in rows]).statistic
    lines += [f"| median | | | | {medians} |", "", f"Means of the sequences, Spearman: {between:.2f}."]
    return "\n".join(lines)


def reliability(rows: list[Scored]) -> str:
    """Return J of the frames in each tenth of confidence."""
    lines = ["| confidence | frames | sequences | J | spread |", "| - |" + " -: |" * 4]
    for low, high in itertools.pairwise(BINS):
        inside = [row.j[(row.confidence >= low) & ((row.confidence < high) | (high == 1))] for row in rows]
        inside = [j for j in inside if len(j)]
        if inside:
            every = np.concatenate(inside)
            cells = f"{len(every)} | {len(inside)} | {every.mean():.2f} | {every.std():.2f}"
            lines.append(f"| {low:.1f} to {high:.1f} | {cells} |")
    return "\n".join(lines)


def errors(rows: list[Scored]) -> str:
    """Return mean distances from J: of the confidence, and of a curve fitted on the other sequences."""
    plain, fitted, bias = [], [], []
    for out in rows:
        others = [row for row in rows if row is not out]
        x = np.concatenate([row.confidence for row in others])
        y = np.concatenate([row.j for row in others])
        weights = np.concatenate([np.full(len(row.j), 1 / len(row.j)) for row in others])
        order = x.argsort(kind="stable")
        curve = isotonic_regression(y[order], weights=weights[order]).x
        plain.append(np.abs(out.confidence - out.j).mean())
        fitted.append(np.abs(np.interp(out.confidence, x[order], curve) - out.j).mean())
        bias.append((out.confidence - out.j).mean())
    return (
        f"Mean distance from J, over sequences: {np.mean(plain):.3f} as it is, {np.mean(fitted):.3f} by a curve fitted "
        f"on the others; mean difference {np.mean(bias):+.3f}."
    )


def plot(rows: list[Scored], path: str) -> None:
    """Draw J against confidence: all frames faint, means of each tenth strong."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5), dpi=150, layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for split, color in zip(
        dict.fromkeys(row.split for row in rows), ("tab:blue", "tab:orange", "tab:green"), strict=False
    ):
        x, y = (np.concatenate([row[part] for row in rows if row.split == split]) for part in (2, 3))
        axes.scatter(x, y, s=5, alpha=0.25, color=color, linewidths=0)
        places = np.digitize(x, BINS[1:-1])
        tenths = [place for place in range(10) if (places == place).sum() >= 5]
        axes.plot(
            [x[places == place].mean() for place in tenths],
            [y[places == place].mean() for place in tenths],
            marker="o",
            color=color,
            label=split,
        )
    axes.set(xlabel="confidence", ylabel="J", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", metavar="ROOT:SPLIT")
    parser.add_argument("--every", type=int, nargs="+", default=[1], metavar="N", help="take every Nth frame, by place")
    parser.add_argument("--model", default="siammae-ti8")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the rules")
    parser.add_argument("--features", required=True, metavar="DIR", help="keeps the features of this model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", metavar="PNG")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = StoredFeatures(siammae.SiamMAE.from_pretrained(args.model), Path(args.features))
    config = model.propagation.replace(**assignments(args.set))
    steps = dict(zip(args.places, args.every if len(args.every) > 1 else args.every * len(args.places), strict=True))
    rows = []
    for place, every in steps.items():
        for split, sequence in sequences([place]):
            rows.append(scored(split, sequence, every, model=model, config=config))
            print(sequence.name, file=sys.stderr, flush=True)
    print(f"{headline()}\n\n{table(rows)}\n\n{reliability(rows)}\n\n{errors(rows)}")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
