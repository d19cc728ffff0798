"""
Body parts
==========

A part is an object like any other: up to 254 of them are followed at once. The parts here are cut from the masks by
height: head, trunk and legs of each person.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import siammae

data = Path("../data")
people = siammae.read_mask(data / "walkers_first_mask.png")
parts = np.zeros_like(people)
for person in (1, 2):
    rows = np.flatnonzero((people == person).any(axis=1))
    top, height = rows[0], len(rows)
    part = np.digitize(np.arange(len(people)), [top + 0.17 * height, top + 0.55 * height])  # 0, 1, 2 downwards
    parts = np.where(people == person, 3 * (person - 1) + part[:, None] + 1, parts).astype(np.uint8)

# %%
frames = list(siammae.read_frames(data / "walkers.mp4", stop=25))
model = siammae.SiamMAE.from_pretrained()
rules = siammae.PropagationConfig.recommended(model, "fast")
tracks = siammae.propagate_masks(frames, parts, model=model, config=rules)

shown = (0, 6, 12, 18, 24)
pictures = [siammae.overlay_masks(frames[i], tracks.labels[i]) for i in shown]
plt.figure(figsize=(10, 2.6))
plt.imshow(siammae.contact_sheet(pictures, columns=5, captions=[f"frame {i}" for i in shown], width=240))
plt.axis("off")
plt.show()
