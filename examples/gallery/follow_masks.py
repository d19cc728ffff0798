"""
Masks from one annotated frame
==============================

The mask of the first frame says what to follow. Each later frame is matched, patch by patch, to frames whose labels
are known, and takes their labels over.
"""

from pathlib import Path

import matplotlib.pyplot as plt

import siammae

data = Path("../data")
frames = list(siammae.read_frames(data / "walkers.mp4", stop=25))
first_mask = siammae.read_mask(data / "walkers_first_mask.png")  # (H, W) uint8: 0 is background, 1 and 2 are people

# %%
# ``quality="fast"`` costs a third of the default; ``"best"`` takes twice as long.
model = siammae.SiamMAE.from_pretrained()
rules = siammae.PropagationConfig.recommended(model, "fast")
tracks = siammae.propagate_masks(frames, first_mask, model=model, config=rules)

# %%
# ``labels`` are the masks at the video's own size; ``save`` writes them as palette PNGs that the tools of DAVIS read.
for object_id in tracks.object_ids:
    areas = (tracks.labels == object_id).sum(axis=(1, 2))
    print(f"person {object_id}: {areas[0]} pixels in the first frame, {areas[-1]} in the last")

shown = range(0, len(frames), 6)
pictures = [siammae.overlay_masks(frames[i], tracks.labels[i]) for i in shown]
plt.figure(figsize=(10, 4))
plt.imshow(siammae.contact_sheet(pictures, columns=5, captions=[f"frame {i}" for i in shown], width=240))
plt.axis("off")
plt.show()
