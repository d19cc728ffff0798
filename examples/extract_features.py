"""Dense features of a video, and a picture of their three main directions.

python examples/extract_features.py [VIDEO] [OUTPUT.png]
"""

import sys
from pathlib import Path

import siammae
from siammae.frames import write_image

CLIP = Path(__file__).parent / "data" / "walkers.mp4"


def main(video: str = str(CLIP), output: str = "features.png") -> None:
    model = siammae.SiamMAE.from_pretrained()
    frames = list(siammae.read_frames(video, step=10))
    features = model.extract(frames, resize=240)  # (T, C, h, w)
    print(f"features {tuple(features.shape)}: frames, channels, patch rows, patch columns")

    colors = siammae.feature_pca(features, size=frames[0].shape[:2])
    pictures = [picture for pair in zip(frames, colors, strict=True) for picture in pair]
    write_image(output, siammae.contact_sheet(pictures, columns=4, title="frames and their features"))
    print(f"picture: {output}")


if __name__ == "__main__":
    main(*sys.argv[1:])
