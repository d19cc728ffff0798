"""Two people followed through a clip from the mask of the first frame.

python examples/follow_masks.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import siammae

DATA = Path(__file__).parent / "data"


def main(output: str = "masks", stop: int | None = None) -> None:
    frames = siammae.read_frames(DATA / "walkers.mp4", stop=stop)
    tracks = siammae.propagate_masks(frames, DATA / "walkers_first_mask.png", progress=True)
    folder = tracks.save(output, overwrite=True)  # palette PNGs
    for object_id in tracks.object_ids:
        areas = (tracks.labels == object_id).sum(axis=(1, 2))
        print(f"object {object_id}: {areas[0]} pixels in the first frame, {areas[-1]} in the last")
    print(f"{len(tracks.labels)} masks in {folder}/")


if __name__ == "__main__":
    main(*sys.argv[1:])
