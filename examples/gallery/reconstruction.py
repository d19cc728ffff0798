"""
What the network was trained on
===============================

A Siamese masked autoencoder sees one frame whole and a later one with 95 % of its patches hidden, and predicts the
hidden pixels. It can do that only by finding out what moved where.
"""

from pathlib import Path

import matplotlib.pyplot as plt

import siammae

frames = list(siammae.read_frames(Path("../data/walkers.mp4"), stop=16, step=3))
pairs = siammae.reconstruct(frames, past=0, seed=0)

# %%
# The bundled network was trained for 85 minutes and for its features: its pictures are blurred.
captions = [f"frame {3 * i}" for i in range(1, len(frames))]
plt.figure(figsize=(9, 6))
plt.imshow(pairs.strip(captions=captions, width=160))
plt.axis("off")
plt.show()

print(f"{pairs.hidden.mean():.1%} of the patches were hidden")
