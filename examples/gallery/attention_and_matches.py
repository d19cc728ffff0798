"""
Attention and matches
=====================

Where does a patch of the first frame lie later? The cosine between features answers, and it is all that label
propagation uses. What the CLS token attends to is what the network takes a frame to be about.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import siammae
from siammae.visualize import mark_patch, patch_at

frames = list(siammae.read_frames(Path("../data/walkers.mp4"), stop=19, step=6))
model = siammae.SiamMAE.from_pretrained()
features = model.extract(frames, resize=240)  # (T, C, h, w)
grid = tuple(features.shape[-2:])

# %%
# The patch under a pixel of the first frame: the trunk of one person.
row, column = patch_at((217.0, 260.0), frames[0].shape[:2], grid)
vectors = features / features.norm(dim=1, keepdim=True)
alike = (vectors * vectors[0, :, row, column][None, :, None, None]).sum(dim=1)  # cosine, (T, h, w)
heat = (alike / 0.05).flatten(1).softmax(dim=1).view_as(alike).numpy()
matches = [siammae.overlay_heat(frame, one) for frame, one in zip(frames[1:], heat[1:], strict=True)]

# %%
# CLS attention of the last block, mean of the heads.
attention = siammae.class_attention(model, frames, resize=240).mean(dim=1).numpy()
about = [siammae.overlay_heat(frame, one) for frame, one in zip(frames, attention, strict=True)]

rows = [mark_patch(frames[0], (row, column), grid), *matches, *about]
captions = ["the patch", *[f"found in frame {6 * i}" for i in range(1, 4)], *[f"CLS, frame {6 * i}" for i in range(4)]]
plt.figure(figsize=(10, 4.8))
plt.imshow(siammae.contact_sheet(rows, columns=4, captions=captions, width=280))
plt.axis("off")
plt.show()

# %%
# ``topk_affinity`` is the step itself: the best patches of all context frames at once, without a matrix of all pairs.
best = siammae.topk_affinity(features[3], features[:3], top_k=5, temperature=0.05, radius=12)
print(f"for each of {best.weights.shape[0]} patches {best.weights.shape[1]} neighbours, weights that sum to")
print(np.unique(best.weights.sum(dim=1).numpy().round(5)))
