"""
Features as colours
===================

A network turns each patch of a frame into a vector. Three directions along which these vectors differ most, shown as
red, green and blue, tell what the network takes to be alike: the two people keep their colours through the clip, and
so do ground and wall.
"""

from pathlib import Path

import matplotlib.pyplot as plt

import siammae

clip = Path("../data/walkers.mp4")
frames = list(siammae.read_frames(clip, step=12))
model = siammae.SiamMAE.from_pretrained()

# %%
# One vector a patch: ``(T, C, h, w)``. The short side of the network's input is asked for; sides become whole patches.
features = model.extract(frames, resize=240)
print(f"{len(frames)} frames of {frames[0].shape[:2]} pixels: features {tuple(features.shape)}")

# %%
# One projection for all frames, so that a colour means the same in each.
colours = siammae.feature_pca(features, size=frames[0].shape[:2])
sheet = siammae.contact_sheet([*frames, *colours], columns=len(frames), width=240)

# sphinx_gallery_thumbnail_number = 1
plt.figure(figsize=(10, 3.6))
plt.imshow(sheet)
plt.axis("off")
plt.show()
