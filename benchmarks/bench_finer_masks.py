"""What each rule for finer masks gives and costs: J&F, and CPU milliseconds a frame, on sequences in DAVIS's layout.

    python benchmarks/bench_finer_masks.py rows.jsonl --data DAVIS dev 1 --data DAVIS-240 dev12 2

``--data FOLDER SPLIT STEP`` takes every STEP-th frame. One line a row and sequence goes to the file as soon as it is
there, and what is there is not made again; the table is printed at the end. ``--only`` names the rows, ``--backwards``
follows from the end, which gives a second score of each sequence; with ``--annotated 3`` the first, the middle and the
last frame come with their truth, those of them that show an object, and are scored as drawn. One thread; the time is
the process's own (CPU time), so that it means the same beside other work. Rows that share an input share its features,
and their time is the features' and their own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import siammae
from siammae.config import PropagationConfig
from siammae.config.presets import QUALITIES
from siammae.evaluation.davis.layout import DavisLayout, DavisSequence
from siammae.metrics import boundary_measure, region_similarity
from siammae.propagation.keyframes import follow_keyframes
from siammae.propagation.labels import FrameMasks

# Before finer masks: the rules that the bundled checkpoint recommended until then.
PLAIN = {"resize": 240, "radius": 20, "label_cells": 1, "pool_keys": 1, "focus_margin": None, "reuse_threshold": None}
COLOUR = {"refine": "local-colour", "refine_radius": 8}
# name: (rules of propagation, {what is rendered: its rules})
ROWS: Mapping[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "plain": (PLAIN, {"": {}, "colour 0.15": {"refine_strength": 0.15}, "colour 0.3": {"refine_strength": 0.3}}),
    "plain at 320": (PLAIN | {"resize": 320}, {"": {}}),
    "plain at 480": (PLAIN | {"resize": 480}, {"": {}}),
    "plain centred": (PLAIN | {"center_features": True}, {"": {}}),
    "4 cells": (PLAIN | {"label_cells": 4}, {"": {}, "colour 0.3": {"refine_strength": 0.3}}),
    "pooled keys": (PLAIN | {"pool_keys": 2}, {"": {}}),
    "focus of 8": (PLAIN | {"focus_margin": 8}, {"": {}}),
    "fast": ({"quality": "fast"}, {"colour": {}}),
    "balanced": ({"quality": "balanced"}, {"colour": {}}),
    "best": ({"quality": "best"}, {"colour": {}}),
    "fast centred": ({"quality": "fast", "center_features": True}, {"colour": {}}),
    "balanced centred": ({"quality": "balanced", "center_features": True}, {"colour": {}}),
    "balanced of two sizes": ({"quality": "balanced", "second_size": 0.667}, {"colour": {}}),
    "best of one size": ({"quality": "best", "second_size": None}, {"colour": {}}),
}
LEAST_PIXELS = 200  # of an object in the frame from which it is followed backwards


def rules_of(model: siammae.SiamMAE, changes: dict[str, Any]) -> PropagationConfig:
    if quality := changes.get("quality"):
        others = {field: value for field, value in changes.items() if field != "quality"}
        return PropagationConfig.recommended(model, quality).replace(**others)
    return (model.propagation or PropagationConfig()).replace(**COLOUR, **changes)


class Timed:
    """An extractor that counts its own time."""

    def __init__(self, extractor: siammae.SiamMAE) -> None:
        self.extractor, self.patch_size, self.seconds = extractor, extractor.patch_size, 0.0
        self.extract_options, self.propagation = extractor.extract_options, extractor.propagation

    def extract(self, frames: Any, **options: Any) -> torch.Tensor:
        begin = time.process_time()
        features = self.extractor.extract(frames, **options)
        self.seconds += time.process_time() - begin
        return features

    def open_stream(self, **options: Any) -> TimedStream:
        return TimedStream(self, self.extractor.open_stream(**options))


class TimedStream:
    """One of its streams, which counts into the extractor's time."""

    def __init__(self, owner: Timed, stream: Any) -> None:
        self.owner, self.stream = owner, stream

    def extract(self, frame: np.ndarray, **options: Any) -> torch.Tensor:
        begin = time.process_time()
        features = self.stream.extract(frame, **options)
        self.owner.seconds += time.process_time() - begin
        return features


def order(sequence: DavisSequence, step: int, *, backwards: bool) -> list[int]:
    """Return the frames to follow; backwards they begin with the last one that shows enough of the object."""
    numbers = list(range(0, len(sequence.frames), step))
    if not backwards:
        return numbers
    while (sequence.truth(numbers[-1]) > 0).sum() < LEAST_PIXELS:
        numbers.pop()
    return numbers[::-1]


def given(sequence: DavisSequence, numbers: list[int], count: int) -> dict[int, np.ndarray]:
    """Return the truth of so many evenly spaced frames, by their place, where it shows an object."""
    places = [0] if count == 1 else np.linspace(0, len(numbers) - 1, count).round().astype(int).tolist()
    masks = {place: (sequence.truth(numbers[place]) > 0).astype(np.uint8) for place in places}
    return {place: mask for place, mask in masks.items() if mask.any()}


def score(
    model: siammae.SiamMAE, sequence: DavisSequence, step: int, name: str, *, backwards: bool, annotated: int
) -> Iterator[dict[str, Any]]:
    """Follow one sequence by one row's rules, and score everything it renders."""
    changes, rendered = ROWS[name]
    extractor, rules = Timed(model), rules_of(model, changes)
    numbers = order(sequence, step, backwards=backwards)
    frames = (np.array(Image.open(sequence.frames[number]).convert("RGB")) for number in numbers)
    scores: dict[str, list[tuple[float, float]]] = {what: [] for what in rendered}
    drawing, apart, begin = dict.fromkeys(rendered, 0.0), 0.0, time.process_time()
    results = follow_keyframes(frames, given(sequence, numbers, annotated), extractor, rules, object_ids=[1])
    for place, (number, result) in enumerate(zip(numbers, results, strict=True)):
        since = time.process_time()
        if 0 < place < len(numbers) - 1:  # as DAVIS scores them
            truth = sequence.truth(number) > 0
            for what, fields in rendered.items():
                drawing[what] -= time.process_time()
                mask = as_rendered(result, rules, what, fields).label_map() > 0
                drawing[what] += time.process_time()
                scores[what].append((region_similarity(mask, truth), boundary_measure(mask, truth)))
        apart += time.process_time() - since
    seconds = time.process_time() - begin - apart
    for what, values in scores.items():
        j, f = 100 * np.array(values).mean(axis=0)
        milliseconds = 1000 * (seconds / len(numbers) + drawing[what] / len(values))
        yield {
            "row": f"{name}, {what}" if what else name,
            "sequence": sequence.name,
            "J": float(j),
            "F": float(f),
            "ms": milliseconds,
            "encoder_ms": 1000 * extractor.seconds / len(numbers),
            "J of each frame": [round(float(one), 3) for one, _ in values],
        }


def as_rendered(result: FrameMasks, rules: PropagationConfig, what: str, fields: dict[str, Any]) -> FrameMasks:
    return replace(result, config=rules.replace(**(fields if what else {"refine": "none"})))


def lost(rows: list[dict[str, Any]], without: str, of: str) -> int:
    """Count frames of which one row has nothing right and another row has a tenth or more."""
    found = {(line["row"], line["sequence"]): line["J of each frame"] for line in rows}
    pairs = [
        (found[of, name], values) for (row, name), values in found.items() if row == without and (of, name) in found
    ]
    return sum(a >= 0.1 and b == 0 for whole, part in pairs for a, b in zip(whole, part, strict=True))


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| rules | sequences | J | F | J&F | ms a frame | of that encoder |", "|" + " --- |" * 7]
    for name in dict.fromkeys(line["row"] for line in rows):
        own = [line for line in rows if line["row"] == name]
        j, f, ms, encoder = (np.mean([line[key] for line in own]) for key in ("J", "F", "ms", "encoder_ms"))
        lines.append(f"| {name} | {len(own)} | {j:.1f} | {f:.1f} | {(j + f) / 2:.1f} | {ms:.0f} | {encoder:.0f} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw J&F against time, on the sequences that all rows have."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name in dict.fromkeys(line["row"] for line in rows):
        own = [line for line in rows if line["row"] == name]
        score, ms = np.mean([(line["J"] + line["F"]) / 2 for line in own]), np.mean([line["ms"] for line in own])
        chosen = name.split(",")[0] in QUALITIES
        axes.plot(ms, score, "o", color="tab:orange" if chosen else "tab:grey")
        axes.annotate(name.split(",")[0] if chosen else name, (ms, score), (6, -3), textcoords="offset points")
    axes.set(xlabel="CPU milliseconds a frame", ylabel="J&F")
    axes.set_xlim(0, 1.15 * max(axes.get_xlim()))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="gets one JSON object a line")
    parser.add_argument("--data", nargs=3, action="append", default=[], metavar=("FOLDER", "SPLIT", "STEP"))
    parser.add_argument("--only", nargs="+", choices=tuple(ROWS), default=tuple(ROWS), metavar="ROW")
    parser.add_argument("--backwards", action="store_true", help="follow each video from its end; a file of its own")
    parser.add_argument("--annotated", type=int, default=1, metavar="N", help="so many frames; a file of its own")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--plot", type=Path, help="a picture of J&F against time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = siammae.SiamMAE.from_pretrained(dtype=getattr(torch, args.dtype))
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()] if args.rows.is_file() else []
    for folder, split, step in args.data:
        for sequence in DavisLayout(Path(folder), 2016, split, "480p").sequences(None):
            for name in args.only:
                if any(line["row"].split(",")[0] == name and line["sequence"] == sequence.name for line in rows):
                    continue
                new = list(score(model, sequence, int(step), name, backwards=args.backwards, annotated=args.annotated))
                rows += new
                with args.rows.open("a") as file:
                    file.writelines(json.dumps(line) + "\n" for line in new)
    if args.plot:
        plot(rows, args.plot)
    print(table(rows))
    print(f"\nframes lost by the focus alone: {lost(rows, 'focus of 8', 'plain')}")


if __name__ == "__main__":
    main()
