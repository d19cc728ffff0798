"""J&F against the number of annotated frames, for each rule of ``siammae.suggest_frame``.

    python benchmarks/bench_suggest_frame.py DAVIS:dev DAVIS-240:dev12 --every 2 --features features -o suggest.jsonl

The first frame is annotated; then the truth of the frame that the rule names is added, and the video is followed anew:
after each one up to five, then after five more, named together. Scores are means over the frames between the first and
the last, annotated ones included, then over the sequences. A run that was cut short goes on from the file of ``-o``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from interleaved import headline
from stored_features import StoredFeatures

import siammae
from siammae.cli.inputs import assignments
from siammae.evaluation.davis.layout import DavisLayout, DavisSequence
from siammae.propagation.suggestion import Rule

RULES: tuple[Rule, ...] = ("gain", "uniform", "lowest", "random")
RUNS = (1, 2, 3, 4, 5, 10)  # annotated frames for which the video is followed
SHOWN = (1, 2, 3, 5, 10)


def sequences(places: list[str]) -> Iterator[tuple[str, DavisSequence]]:
    """Yield the sequences of ``ROOT:SPLIT``, DAVIS-2016."""
    for place in places:
        root, _, split = place.rpartition(":")
        for sequence in DavisLayout(Path(root), 2016, split, "480p").sequences(None):
            yield split, sequence


class Clip:
    """Every so many frames of a sequence, with their truth."""

    def __init__(self, sequence: DavisSequence, every: int) -> None:
        chosen = range(0, len(sequence.frames), every)
        self.frames = [next(siammae.read_frames(sequence.frames[index])) for index in chosen]
        self.truth = [sequence.truth(index) for index in chosen]

    def follow(self, annotated: list[int], **options: object) -> siammae.VideoMasks:
        """Follow object 1 from the truth of these frames."""
        given = {index: self.truth[index] for index in annotated}
        return siammae.propagate_masks(self.frames, given, object_ids=[1], **options)

    def scores(self, labels: np.ndarray) -> tuple[float, float]:
        """Return mean J and F of the frames between the first and the last, in percent."""
        pairs = [(mine == 1, true == 1) for mine, true in zip(labels[1:-1], self.truth[1:-1], strict=True)]
        measures = (siammae.region_similarity, siammae.boundary_measure)
        return tuple(100 * float(np.mean([measure(*pair) for pair in pairs])) for measure in measures)


def simulate(clip: Clip, rule: Rule, seed: int, **options: object) -> Iterator[tuple[list[int], tuple[float, float]]]:
    """Yield the annotated frames and the scores of each run."""
    annotated = [0]
    result = clip.follow(annotated, **options)
    yield [0], clip.scores(result.labels)
    for count in RUNS if rule in ("gain", "lowest") else SHOWN:
        while len(annotated) < min(count, len(clip.frames)):
            annotated.append(siammae.suggest_frame(result, annotated, rule=rule, seed=seed))
        if count > 1:
            result = clip.follow(annotated, **options)
            yield list(annotated), clip.scores(result.labels)


def table(rows: list[dict]) -> str:
    """Return J&F by rule and number of annotated frames as Markdown."""
    lines = [f"| rule | {' | '.join(map(str, SHOWN))} |", f"| - |{' -: |' * len(SHOWN)}"]
    for rule in RULES:
        means = [mean(rows, rule, count) for count in SHOWN]
        lines.append(f"| {rule} | {' | '.join(f'{value:.1f}' for value in means)} |")
    return "\n".join(lines)


def mean(rows: list[dict], rule: str, count: int) -> float:
    """Return mean J&F over the sequences."""
    found = [(row["J"] + row["F"]) / 2 for row in rows if row["rule"] == rule and row["count"] == count]
    return float(np.mean(found)) if found else float("nan")


def plot(rows: list[dict], path: str) -> None:
    """Draw the table."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), dpi=150, layout="constrained")
    for rule, marker in zip(RULES, "osD^", strict=True):
        axes.plot(SHOWN, [mean(rows, rule, count) for count in SHOWN], marker=marker, markersize=5, label=rule)
    axes.set(xlabel="annotated frames", ylabel="J&F, percent", xticks=SHOWN)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", metavar="ROOT:SPLIT")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth frame")
    parser.add_argument("--model", default="siammae-ti8")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the rules of masks")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--seed", type=int, default=0, help="of the rule random")
    parser.add_argument("--features", required=True, metavar="DIR", help="keeps the features of this model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", required=True, metavar="JSONL")
    parser.add_argument("--plot", metavar="PNG")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = StoredFeatures(siammae.SiamMAE.from_pretrained(args.model), Path(args.features))
    config = model.propagation.replace(**assignments(args.set))
    output = Path(args.output)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(row["sequence"], row["rule"]) for row in rows}
    for split, sequence in sequences(args.places):
        clip = Clip(sequence, args.every)
        for rule in args.rules:
            if (sequence.name, rule) in done:
                continue
            found = [
                {"split": split, "sequence": sequence.name, "rule": rule, "count": len(annotated)}
                | {"J": j, "F": f, "annotated": annotated}
                for annotated, (j, f) in simulate(clip, rule, args.seed, model=model, config=config)
            ]
            rows += found
            with output.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in found)
            print(sequence.name, rule, [round((row["J"] + row["F"]) / 2, 1) for row in found], flush=True)
    print(f"\n{headline()}\n\n{table(rows)}")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
