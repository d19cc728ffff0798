"""
Several annotated frames, and which one to draw next
====================================================

What lies between two annotated frames is followed from both sides. How sure each frame is says where another mask
would help most.
"""

from pathlib import Path

import matplotlib.pyplot as plt

import siammae

data = Path("../data")
frames = list(siammae.read_frames(data / "walkers.mp4", stop=30))
first_mask = siammae.read_mask(data / "walkers_first_mask.png")
model = siammae.SiamMAE.from_pretrained()
rules = siammae.PropagationConfig.recommended(model, "fast")
one = siammae.propagate_masks(frames, first_mask, model=model, config=rules)

# %%
# The rule for the next frame: where most doubt would go.
following = siammae.suggest_frame(one, annotated=[0])
print(f"annotate frame {following} next")

# %%
# Here its mask comes from the finest rules; with a video of your own, you draw it.
fine = siammae.propagate_masks(frames[: following + 1], first_mask)
two = siammae.propagate_masks(frames, {0: first_mask, following: fine.labels[-1]}, model=model, config=rules)

figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True)
for axis, tracks, title in zip(axes, (one, two), ("one annotated frame", "two"), strict=True):
    for key, sure in zip(tracks.object_ids, tracks.confidence.T, strict=True):
        axis.plot(sure, label=f"person {key}")
    axis.set(title=title, xlabel="frame", ylim=(0, 1))
axes[0].set_ylabel("confidence")
axes[1].legend()
figure.tight_layout()
plt.show()
