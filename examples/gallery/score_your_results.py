"""
Score your own results
======================

Masks of any program are scored as the tools of DAVIS do it: J, the overlap, and F, the agreement of the edges. This
clip is drawn, so that the true masks are known.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import siammae

rng = np.random.default_rng(0)
size, count = (128, 192), 16
ground = np.repeat(np.repeat(rng.integers(60, 120, (16, 24, 3)), 8, axis=0), 8, axis=1).astype(np.uint8)
y, x = np.ogrid[: size[0], : size[1]]
true = np.stack([((y - 64) ** 2 + (x - 40 - 7 * t) ** 2 <= 24**2) for t in range(count)]).astype(np.uint8)
frames = [np.where(mask[..., None] > 0, np.uint8([200, 80, 60]), ground) for mask in true]

# %%
tracks = siammae.propagate_masks(frames, true[0])
pairs = list(zip(tracks.labels == 1, true == 1, strict=True))
overlap = [siammae.region_similarity(found, mask) for found, mask in pairs]  # one J a frame
edges = [siammae.boundary_measure(found, mask) for found, mask in pairs]
print(f"J {100 * np.mean(overlap):.1f}, F {100 * np.mean(edges):.1f}")

# %%
# A whole folder, in the layout of the data set: ``siammae.score_davis``, or ``siammae evaluate davis DAVIS --results``.
with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    for kind in ("JPEGImages/480p/disc", "Annotations/480p/disc", "ImageSets/2016"):
        (root / kind).mkdir(parents=True)
    (root / "ImageSets/2016/val.txt").write_text("disc\n")
    for index, (frame, mask) in enumerate(zip(frames, true, strict=True)):
        siammae.frames.write_image(root / f"JPEGImages/480p/disc/{index:05d}.jpg", frame)
        siammae.write_mask(root / f"Annotations/480p/disc/{index:05d}.png", mask)
    tracks.save(root / "masks" / "disc")
    print(siammae.score_davis(root / "masks", root, year=2016).table())

plt.figure(figsize=(8, 3))
plt.plot(overlap, label="J")
plt.plot(edges, label="F")
plt.xlabel("frame")
plt.ylim(0.8, 1.005)
plt.tight_layout()
plt.legend()
plt.show()
