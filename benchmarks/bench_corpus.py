"""Features of many videos: what each engine does in a second, and what smaller files cost in J&F.

    python benchmarks/bench_corpus.py engines CLIPS --engine loop
    python benchmarks/bench_corpus.py reading CLIPS
    python benchmarks/bench_corpus.py quality DAVIS FOLDER

``engines`` takes clips from all over a folder. Its two figures are of all seconds, start-up included, and of those
between the first and the last result, which is what counts for a large corpus. ``reading`` does all but the network's
work on one core. ``quality`` extracts the frames of a data set in DAVIS's layout as float32, follows the first mask
from what smaller files would hold of them, and scores it; rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import headline

import siammae
from siammae.clips.listing import find_clips
from siammae.config import ExtractionConfig
from siammae.corpus.batches import ClipFrames
from siammae.corpus.engines import open_engine
from siammae.corpus.features_work import FeaturesWork
from siammae.corpus.identity import checksum
from siammae.corpus.models import ModelName
from siammae.corpus.packing import pack, unpack
from siammae.corpus.principal import Moments, fit_components
from siammae.corpus.running import run_corpus
from siammae.corpus.work import Outcome, Part, Work
from siammae.corpus.writing import SafetensorsWriter
from siammae.evaluation.davis.layout import DavisLayout
from siammae.metrics import boundary_measure, region_similarity

ENGINES = {"loop": ("local", 1), "workers": ("local", 2), "ray": ("ray", 2)}
PLAIN = {"resize": 240, "radius": 20, "label_cells": 1, "pool_keys": 1, "focus_margin": None, "refine": "none"}
ROWS: dict[str, tuple[dict[str, Any], bool]] = {  # settings, and whether components are turned back into channels
    "float32": ({}, False),
    "float16": ({"store": "float16"}, False),
    "int8, a scale a channel": ({"store": "int8"}, False),
    "int8, a scale a patch": ({"store": "int8", "scale": "patch"}, False),
    "96 components, restored": ({"pca": 96}, True),
    "48 components": ({"pca": 48}, False),
    "48 components, restored": ({"pca": 48}, True),
    "24 components": ({"pca": 24}, False),
    "48 components, int8 a patch": ({"pca": 48, "store": "int8", "scale": "patch"}, False),
}


class Watched:
    """An engine whose outcomes leave their time."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.times, self.frames = engine, list[float](), list[int]()

    def __call__(self, work: Work, parts: Sequence[Part]) -> Iterable[Outcome]:
        for outcome in self._engine(work, parts):
            self.times.append(time.perf_counter())
            self.frames.append(outcome.record.frames or 0)
            yield outcome


def engines(args: argparse.Namespace) -> None:
    clips = find_clips(args.corpus)
    parts = [Part.of(clips[place * len(clips) // args.clips]) for place in range(args.clips)]
    config = ExtractionConfig(short_side=args.short_side)
    name, workers = ENGINES[args.engine]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        engine = Watched(open_engine(name, workers=workers))
        work = FeaturesWork(Path(folder), ModelName("siammae-ti8", "cpu", args.dtype), config)
        report = run_corpus(work, parts, engine)
        took = time.perf_counter() - began
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    skipped = workers  # the first results of all workers hold their start-up
    steady = engine.times[-1] - engine.times[skipped - 1]
    print(headline())
    print(
        f"| {args.engine} | {report.made} | {sum(engine.frames)} | {took:.1f} | {len(parts) / took:.2f} | "
        f"{(len(parts) - skipped) / steady:.2f} | {sum(engine.frames[skipped:]) / steady:.1f} | {size / 1e6:.0f} MB |"
    )


def reading(args: argparse.Namespace) -> None:
    """Decode, check and write, without a network: what is left of the work where a GPU encodes."""
    clips = find_clips(args.corpus)
    chosen = [clips[place * len(clips) // args.clips] for place in range(args.clips)]
    began = time.perf_counter()
    size = 0
    for clip in chosen:
        checksum(clip)
        size += clip.path.stat().st_size
    hashed = time.perf_counter() - began
    frames, pixels, began = 0, 0, time.perf_counter()
    for clip in chosen:
        for frame in ClipFrames(clip, ExtractionConfig()).frames():
            frames, pixels = frames + 1, pixels + frame.shape[0] * frame.shape[1]
    decoded = time.perf_counter() - began
    features, config = torch.randn(4, 192, 30, 40, dtype=torch.float32, device="cpu"), ExtractionConfig(store="int8")
    with tempfile.TemporaryDirectory() as folder:
        began, path = time.perf_counter(), Path(folder) / "f"
        with SafetensorsWriter(path, {}) as writer:
            for _ in range(250):
                writer.write(pack(features, config))
            writer.finish()
        packed = time.perf_counter() - began
    print(headline())
    print(
        f"{frames} frames of {pixels / frames / 1e3:.0f} thousand pixels decoded at {frames / decoded:.0f} a second, "
        f"{size / 1e6:.0f} MB hashed at {size / hashed / 1e6:.0f} MB a second, 1000 frames of 192 x 30 x 40 written as "
        f"int8 at {1000 / packed:.0f} a second"
    )


class Stored:
    """An extractor that hands out stored features, in the order of the frames, as smaller files would hold them.

    Args:
        video: float32.
        config: of the smaller file.
        components: of ``config.pca``.
        restore: whether components are turned back into channels.
    """

    def __init__(
        self, video: siammae.StoredVideo, patch_size: int, config: ExtractionConfig, components: Any, restore: bool
    ) -> None:
        self.patch_size, self.extract_options = patch_size, frozenset[str]()
        self._video, self._config, self._components, self._restore = video, config, components, restore
        self._next, self.bytes = 0, 0

    def extract(self, frames: Any, **_: Any) -> torch.Tensor:
        count = len(frames)
        self._next += count
        features = self._video.torch(slice(self._next - count, self._next))
        if self._components:
            features = self._components.apply(features)
        packed = pack(features, self._config)
        self.bytes += sum(part.nbytes for part in packed.values())
        values = unpack(packed)
        return torch.from_numpy(self._components.restore(values) if self._restore else values)


def quality(args: argparse.Namespace) -> None:
    model = siammae.SiamMAE.from_pretrained()
    rules = (model.propagation or siammae.PropagationConfig()).replace(**PLAIN)
    sequences = DavisLayout(args.davis, 2016, args.split, "480p").sequences(None)
    videos = args.features / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for sequence in sequences:
        if not (videos / sequence.name).exists():
            (videos / sequence.name).symlink_to(sequence.frames[0].parent.absolute())
    (args.features / "list.txt").write_text("".join(f"videos/{one.name}\n" for one in sequences))
    siammae.extract_corpus(args.features / "list.txt", args.features / "out", workers=args.workers, short_side=240)
    dataset = siammae.open_features(args.features / "out")
    assert isinstance(dataset, siammae.FeatureDataset)  # noqa: S101 -- what a folder is
    sample = (video.torch(range(0, len(video), max(1, len(video) // 4))) for video in dataset)
    sums = Moments.of(sample)
    path = args.features / "rows.jsonl"
    done = {json.loads(line)["row"] for line in path.read_text().splitlines()} if path.exists() else set()
    for name, (settings, restore) in ROWS.items():
        if name in done:
            continue
        config = ExtractionConfig(short_side=240, **settings)
        components = fit_components(sums, config.pca) if config.pca else None
        scores, size = {}, 0
        for sequence in sequences:
            stored = Stored(dataset[sequence.name], model.patch_size, config, components, restore)
            scores[sequence.name] = _score(sequence, stored, rules)
            size += stored.bytes
        frames = sum(len(sequence.frames) for sequence in sequences)
        share = components.share if components else 1.0
        row = {"row": name, "bytes": size / frames, "share": share, "jf": 100 * float(np.mean([*scores.values()]))}
        with path.open("a") as file:
            file.write(json.dumps({**row, "videos": scores}) + "\n")
    print(headline())
    print("| stored as | J&F | kB a frame | variance kept |\n| --- | --- | --- | --- |")
    for line in path.read_text().splitlines():
        row = json.loads(line)
        print(f"| {row['row']} | {row['jf']:.1f} | {row['bytes'] / 1000:.0f} | {100 * row['share']:.0f} % |")


def _score(sequence: Any, stored: Stored, rules: siammae.PropagationConfig) -> float:
    """Follow a sequence from stored features; returns the mean of J and F, first and last frame left out."""
    follow, values = siammae.Propagator(stored, rules), []
    for number, frame in enumerate(siammae.read_frames(sequence.frames[0].parent)):
        truth = sequence.truth(number) > 0
        labels = follow.step(frame, mask=truth.astype(np.uint8) if number == 0 else None).label_map() > 0
        if 0 < number < len(sequence.frames) - 1:
            values.append((region_similarity(labels, truth) + boundary_measure(labels, truth)) / 2)
    return float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("engines")
    one.add_argument("corpus", type=Path)
    one.add_argument("--engine", choices=tuple(ENGINES), required=True)
    one.add_argument("--clips", type=int, default=60)
    one.add_argument("--short-side", type=int, default=120)
    one.add_argument("--dtype", default="float32")
    one.set_defaults(run=engines)
    three = kinds.add_parser("reading")
    three.add_argument("corpus", type=Path)
    three.add_argument("--clips", type=int, default=60)
    three.set_defaults(run=reading)
    two = kinds.add_parser("quality")
    two.add_argument("davis", type=Path)
    two.add_argument("features", type=Path, help="folder for the features, and rows.jsonl")
    two.add_argument("--workers", type=int, default=2)
    two.add_argument("--split", default="dev")
    two.set_defaults(run=quality)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
