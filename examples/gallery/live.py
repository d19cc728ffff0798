"""
Live video
==========

A :class:`siammae.Propagator` takes frames one by one, keeps a fixed number of them, and never the video. A camera
works like this file does; ``examples/webcam.py`` draws the box with the mouse.
"""

import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import siammae

model = siammae.SiamMAE.from_pretrained()
follow = siammae.Propagator(model, siammae.PropagationConfig.recommended(model, "fast"))

# %%
# A box is a mask too.
box = np.zeros((384, 448), np.uint8)
box[230:380, 180:250] = 1
pictures, began = [], time.perf_counter()
for index, frame in enumerate(siammae.read_frames(Path("../data/walkers.mp4"), stop=24)):
    masks = follow.step(frame, mask=box if index == 0 else None)
    if index % 6 == 5:
        pictures.append(siammae.overlay_masks(frame, masks.label_map()))
print(f"{24 / (time.perf_counter() - began):.1f} frames a second on the machine that built this page")

plt.figure(figsize=(10, 2.8))
plt.imshow(siammae.contact_sheet(pictures, columns=4, captions=[f"frame {i}" for i in range(5, 24, 6)], width=280))
plt.axis("off")
plt.show()
