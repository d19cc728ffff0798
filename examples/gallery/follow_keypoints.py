"""
Keypoints
=========

Points go the same way as masks: a name, x and y in the first frame, and the library finds them again.
"""

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import siammae

data = Path("../data")
with (data / "walkers_points.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
names = [row["name"] for row in rows]
points = np.array([[float(row["x"]), float(row["y"])] for row in rows])  # (N, 2), pixel centres at whole numbers

# %%
frames = list(siammae.read_frames(data / "walkers.mp4", stop=25))
model = siammae.SiamMAE.from_pretrained()
rules = siammae.PropagationConfig.recommended(model, "fast")
tracks = siammae.propagate_keypoints(frames, points, model=model, config=rules)
for name, sure in zip(names, tracks.confidence.mean(axis=0), strict=True):
    print(f"{name}: confidence {sure:.2f}")

# %%
# A ring grows fainter where its keypoint is less sure.
shown = (0, 12, 24)
pictures = [
    siammae.overlay_keypoints(frames[i], tracks.points[i], confidence=tracks.confidence[i], radius=6) for i in shown
]
plt.figure(figsize=(10, 4))
plt.imshow(siammae.contact_sheet(pictures, columns=3, captions=[f"frame {i}" for i in shown], width=440))
plt.axis("off")
plt.show()
