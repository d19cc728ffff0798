"""What token reuse and bfloat16 cost and give: J&F, share of the patches encoded, and CPU milliseconds a frame.

    python benchmarks/bench_token_reuse.py rows.jsonl --data DAVIS dev 1 --data DAVIS-240 dev12 2

``--data FOLDER SPLIT STEP`` takes every STEP-th frame of sequences in DAVIS's layout. Rules: those that the bundled
checkpoint recommends. One line a row and sequence goes to the file as soon as it is there, and what is there is not
made again; the table is printed at the end. One thread; the time is CPU time, so that it means the same
beside other work.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import siammae
from siammae.evaluation.davis.layout import DavisLayout, DavisSequence
from siammae.metrics import boundary_measure, region_similarity

ROWS: Mapping[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {"reuse_threshold": None}),
    "reuse 3": (torch.float32, {"reuse_threshold": 3.0}),
    "reuse 5": (torch.float32, {"reuse_threshold": 5.0}),
    "reuse 8": (torch.float32, {"reuse_threshold": 8.0}),
    "bfloat16": (torch.bfloat16, {"reuse_threshold": None}),
    "bfloat16, reuse 5": (torch.bfloat16, {"reuse_threshold": 5.0}),
}


def score(model: siammae.SiamMAE, sequence: DavisSequence, step: int, name: str) -> dict[str, Any]:
    """Follow one sequence by one row's rules."""
    base = model.propagation or siammae.PropagationConfig()
    propagator = siammae.Propagator(model, base.replace(**ROWS[name][1]))
    numbers = range(0, len(sequence.frames), step)
    scores, apart, begin = [], 0.0, time.process_time()
    for place, number in enumerate(numbers):
        frame = np.array(Image.open(sequence.frames[number]).convert("RGB"))
        first = (sequence.truth(number) > 0).astype(np.uint8) if place == 0 else None
        mask = propagator.step(frame, mask=first).label_map() > 0
        since = time.process_time()
        if 0 < place < len(numbers) - 1:  # as DAVIS scores them
            truth = sequence.truth(number) > 0
            scores.append((region_similarity(mask, truth), boundary_measure(mask, truth)))
        apart += time.process_time() - since
    seconds = time.process_time() - begin - apart
    j, f = 100 * np.array(scores).mean(axis=0)
    ms, share = 1000 * seconds / len(numbers), propagator.encoded_share
    return {"row": name, "sequence": sequence.name, "J": float(j), "F": float(f), "ms": ms, "share": share}


def table(rows: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    """Return the means, and every sequence's J&F."""
    lines = ["| rules | sequences | J&F | patches encoded | ms a frame |", "|" + " --- |" * 5]
    for name in names:
        own = [row for row in rows if row["row"] == name]
        if own:
            j, f, ms, share = (np.mean([row[key] for row in own]) for key in ("J", "F", "ms", "share"))
            lines.append(f"| {name} | {len(own)} | {(j + f) / 2:.2f} | {share:.0%} | {ms:.0f} |")
    lines += ["", "| sequence | " + " | ".join(names) + " |", "|" + " --- |" * (1 + len(names))]
    for sequence in dict.fromkeys(row["sequence"] for row in rows):
        own = {row["row"]: row for row in rows if row["sequence"] == sequence}
        cells = [f"{(own[n]['J'] + own[n]['F']) / 2:.1f} ({own[n]['share']:.0%})" if n in own else "-" for n in names]
        lines.append(f"| {sequence} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="gets one JSON object a line")
    parser.add_argument("--data", nargs=3, action="append", default=[], metavar=("FOLDER", "SPLIT", "STEP"))
    parser.add_argument("--only", nargs="+", choices=tuple(ROWS), default=tuple(ROWS), metavar="ROW")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()] if args.rows.is_file() else []
    models: dict[torch.dtype, siammae.SiamMAE] = {}
    for folder, split, step in args.data:
        for sequence in DavisLayout(Path(folder), 2016, split, "480p").sequences(None):
            for name in args.only:
                if any(row["row"] == name and row["sequence"] == sequence.name for row in rows):
                    continue
                dtype = ROWS[name][0]
                models[dtype] = models.get(dtype) or siammae.SiamMAE.from_pretrained(dtype=dtype)
                rows.append(score(models[dtype], sequence, int(step), name))
                with args.rows.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows, tuple(args.only)))


if __name__ == "__main__":
    main()
