"""Heads, hips and feet followed through a clip, frame by frame, and written as an overlay video.

python examples/follow_keypoints.py [OUTPUT.mp4]
"""

import csv
import sys
from pathlib import Path

import numpy as np

import siammae

DATA = Path(__file__).parent / "data"


def main(output: str = "keypoints.mp4", stop: int | None = None) -> None:
    with (DATA / "walkers_points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = np.array([(float(row["x"]), float(row["y"])) for row in rows])

    propagator = siammae.KeypointPropagator(siammae.SiamMAE.from_pretrained())
    with siammae.VideoWriter(output, fps=10) as video:
        for index, frame in enumerate(siammae.read_frames(DATA / "walkers.mp4", stop=stop)):
            result = propagator.step(frame, keypoints=points if index == 0 else None)
            video.write(siammae.overlay_keypoints(frame, result.points, confidence=result.confidence))
    for row, start, end in zip(rows, points, result.points, strict=True):
        print(f"{row['name']:<14} moved by {np.hypot(*(end - start)):5.1f} pixels")
    print(f"overlay video: {output}")


if __name__ == "__main__":
    main(*sys.argv[1:])
