"""
Features in scikit-learn
========================

Features are arrays: any method for vectors takes them. A linear classifier that saw the patches of one frame, with
the first mask as their labels, segments later frames; k-means finds groups without any label.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

import siammae

data = Path("../data")
frames = list(siammae.read_frames(data / "walkers.mp4", stop=25, step=8))
features = siammae.SiamMAE.from_pretrained().extract(frames, resize=240)
count, channels, height, width = features.shape
vectors = features.permute(0, 2, 3, 1).reshape(count, -1, channels).numpy()  # (T, patches, C)

# %%
# The label of a patch is that of its middle.
mask = siammae.read_mask(data / "walkers_first_mask.png")
rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
labels = mask[np.ix_(rows, columns)].ravel()
classifier = LogisticRegression(max_iter=2000, class_weight="balanced").fit(vectors[0], labels)
found = classifier.predict(vectors.reshape(-1, channels)).reshape(count, height, width).astype(np.uint8)
print(f"{(found[0].ravel() == labels).mean():.1%} of the first frame's patches are classified as they were labelled")

# %%
# Groups without labels, the same in all frames. They show that features also say where in the picture a patch is.
groups = KMeans(6, n_init=3, random_state=0).fit_predict(vectors.reshape(-1, channels)).reshape(count, height, width)

figure, axes = plt.subplots(3, count, figsize=(10, 6.5))
for column, (frame, one, group) in enumerate(zip(frames, found, groups, strict=True)):
    for axis, picture in zip(axes[:, column], (frame, one, group), strict=True):
        axis.imshow(picture, cmap="viridis" if picture is one else "tab10", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
for axis, name in zip(axes[:, 0], ("frame", "classified", "k-means"), strict=True):
    axis.set_ylabel(name)
plt.show()
