"""Time and memory of each label format: a long video of full-HD frames with five objects, made on the fly.

Every number comes from a process of its own, so that its peak is that of one task: MB above what it took with all
packages loaded. Seconds are those of the processor, which hold where other programs run beside it, and on the clock.
What the making of the frames takes is a row of its own and part of all rows of writing.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from interleaved import headline

import siammae
from siammae.annotations.formats.format import Feature
from siammae.annotations.formats.registry import FORMATS, find_format
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject

SIZE, OBJECTS, JOINTS = (1080, 1920), 5, 8
CATEGORIES = ("car", "pedestrian", "car", "pedestrian", "dog")


def ellipse(height: int, width: int) -> np.ndarray:
    y, x = np.ogrid[:height, :width]
    return ((2 * y + 1) / height - 1) ** 2 + ((2 * x + 1) / width - 1) ** 2 <= 1


def masks(count: int) -> Iterator[FrameLabels]:
    """Five ellipses, each to and fro in a lane of its own."""
    shapes = [ellipse(120 + 20 * key, 160 + 60 * key) for key in range(OBJECTS)]
    for index in range(count):
        layers = {}
        for key, shape in enumerate(shapes):
            left = round((SIZE[1] - shape.shape[1]) * (0.5 + 0.5 * np.sin(index / (40 + 11 * key) + key)))
            top = SIZE[0] // OBJECTS * key + 4
            layers[key + 1] = np.zeros(SIZE, bool)
            layers[key + 1][top : top + shape.shape[0], left : left + shape.shape[1]] = shape
        yield FrameLabels(index, layers, by_person=index == 0)


def keypoints(count: int, objects: int, joints: int) -> Iterator[FrameLabels]:
    rng = np.random.default_rng(0)
    for index in range(count):
        some = {
            key: Keypoints.of(rng.uniform(0, 1079, (joints, 2)).round(2), confidence=rng.random(joints).round(3))
            for key in range(1, objects + 1)
        }
        yield FrameLabels(index, keypoints=some, by_person=False)


def labels(name: str, count: int) -> Annotations:
    """Masks where the format holds them, else as many keypoints of as many objects as it holds."""
    holds = find_format(name).holds
    described = tuple(VideoObject(key, category=CATEGORIES[key - 1]) for key in range(1, OBJECTS + 1))
    if Feature.MASKS in holds:
        return Annotations(lambda: masks(count), described, size=SIZE, frame_count=count)
    objects, joints = (OBJECTS, JOINTS) if Feature.SEVERAL in holds else (1, OBJECTS * JOINTS)
    names = tuple(f"joint {place}" for place in range(joints))
    return Annotations(
        lambda: keypoints(count, objects, joints), described[:objects], names, size=SIZE, frame_count=count
    )


def step(task: str, name: str, count: int, path: Path) -> dict[str, float]:
    """Run one task; returns seconds and by how many MB the peak of this process grew."""
    if task == "write":
        siammae.write_annotations(path.with_name("warm" + path.name), labels(name, 1), format=name)  # imports
    before, start, worked = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), time.process_time()
    if task == "make":
        seen = sum(len(frame.masks) for frame in masks(count))
    elif task == "write":
        seen = siammae.write_annotations(path, labels(name, count), format=name).frames
    else:
        seen = sum(1 for _ in siammae.read_annotations(path, size=SIZE, format=name))
        if seen != count:
            raise ValueError(f"{name}: {seen} frames of {count} came back.")
    return {
        "seconds": time.perf_counter() - start,
        "worked": time.process_time() - worked,
        "mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def apart(task: str, name: str, count: int, path: Path) -> dict[str, float] | str:
    """Run a step in a process of its own; returns its last line where it fails."""
    command = [sys.executable, __file__, "--step", task, name, str(count), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 else lines[-1].partition(": ")[2]


def on_disk(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def shown(result: dict[str, float] | str) -> str:
    return (
        result
        if isinstance(result, str)
        else f"{result['worked']:.1f} s ({result['seconds']:.0f}), {result['mb']:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--formats", nargs="+", default=[one.name for one in FORMATS if one.write])
    parser.add_argument("--step", nargs=4, metavar=("TASK", "FORMAT", "FRAMES", "PATH"), help="used by itself")
    args = parser.parse_args()
    if args.step:
        logging.disable(logging.WARNING)
        task, name, count, path = args.step
        print(json.dumps(step(task, name, int(count), Path(path))))
        return
    print(f"{headline()}; {args.frames} frames of {SIZE[0]}x{SIZE[1]}, {OBJECTS} objects\n")
    print("| format | writing: processor (clock), peak | on disk | reading: processor (clock), peak |")
    print("| --- | --- | --- | --- |")
    print(f"| (the making of the masks) | {shown(apart('make', 'davis', args.frames, Path()))} | | |", flush=True)
    for name in args.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"labels{find_format(name).suffix}"
            written = apart("write", name, args.frames, path)
            size = on_disk(path) if path.exists() else 0
            read = apart("read", name, args.frames, path) if path.exists() else ""
            print(f"| {name} | {shown(written)} | {size:.0f} MB | {shown(read)} |", flush=True)


if __name__ == "__main__":
    main()
