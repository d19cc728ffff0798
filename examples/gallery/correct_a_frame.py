"""
Correct a frame
===============

What is followed drifts. A mask on a later frame puts it right from there on: known objects are corrected, new ones
join. Here the second person gets a mask only when the clip is half over.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import siammae

data = Path("../data")
frames = list(siammae.read_frames(data / "walkers.mp4", stop=20))
first_mask = siammae.read_mask(data / "walkers_first_mask.png")
one_person = np.where(first_mask == 1, first_mask, 0).astype(np.uint8)
model = siammae.SiamMAE.from_pretrained()
rules = siammae.PropagationConfig.recommended(model, "fast")

# %%
# What a person would draw on frame 10; here it comes from following both from the beginning.
drawn = siammae.propagate_masks(frames[:11], first_mask, model=model, config=rules).labels[-1]

# %%
# A :class:`siammae.Propagator` takes one frame a call, so that a video may be live or endless.
follow = siammae.Propagator(model, rules)
pictures = []
for index, frame in enumerate(frames):
    labels = follow.step(frame, mask={0: one_person, 10: drawn}.get(index)).label_map()
    pictures.append(siammae.overlay_masks(frame, labels))

# %%
# From frame 10 on, both are followed.
shown = (0, 5, 10, 15, 19)
plt.figure(figsize=(10, 2.6))
plt.imshow(
    siammae.contact_sheet([pictures[i] for i in shown], columns=5, captions=[f"frame {i}" for i in shown], width=240)
)
plt.axis("off")
plt.show()
