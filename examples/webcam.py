"""Follow what you draw a box around, live from a camera (or any video OpenCV opens).

python examples/webcam.py                                      a window: draw the box, press Enter; Esc ends
python examples/webcam.py --source clip.mp4 --box 180 220 60 160 --output out.mp4     without a window
"""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext

import cv2
import numpy as np

import siammae


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="0", help="camera number or video file")
    parser.add_argument("--box", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="instead of drawing it")
    parser.add_argument("--output", help="write an overlay video instead of showing a window")
    parser.add_argument("--frames", type=int, default=10**9, help="stop after this many frames")
    args = parser.parse_args(argv)

    camera = cv2.VideoCapture(int(args.source) if args.source.isdigit() else args.source)
    follow = siammae.Propagator(siammae.SiamMAE.from_pretrained())
    with siammae.VideoWriter(args.output) if args.output else nullcontext() as writer:
        run(camera, follow, writer, args)


def run(
    camera: cv2.VideoCapture, follow: siammae.Propagator, writer: siammae.VideoWriter | None, args: argparse.Namespace
) -> None:
    for index in range(args.frames):
        running, bgr = camera.read()
        if not running:
            break
        frame = np.ascontiguousarray(bgr[:, :, ::-1])  # siammae speaks RGB
        mask = None
        if index == 0:
            x, y, w, h = args.box or cv2.selectROI("draw a box, then press Enter", bgr)
            mask = np.zeros(frame.shape[:2], np.uint8)
            mask[y : y + h, x : x + w] = 1
        result = follow.step(frame, mask=mask)
        picture = siammae.overlay_masks(frame, result.label_map())
        if writer:
            writer.write(picture)
        else:
            cv2.imshow("siammae", picture[:, :, ::-1])
            if cv2.waitKey(1) == 27:
                break


if __name__ == "__main__":
    main()
