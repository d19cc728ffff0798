"""
Another network makes the features
==================================

Any ViT of timm with a grid of patches takes the place of the bundled network, in its own normalisation. This page is
built without the internet, so the ViT here has random weights: it shows how far a network comes that has learnt
nothing. ``pretrained=True``, or ``model="timm/vit_small_patch16_224.dino"``, downloads the real ones.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import timm
import torch

import siammae

data = Path("../data")
frames = list(siammae.read_frames(data / "walkers.mp4", stop=13))
first_mask = siammae.read_mask(data / "walkers_first_mask.png")

torch.manual_seed(0)
untrained = siammae.TimmExtractor(timm.create_model("vit_tiny_patch16_224", pretrained=False, dynamic_img_size=True))
rules = siammae.PropagationConfig.preset("dino").replace(resize=240, resize_side="short")
networks = {
    "untrained ViT of timm": untrained,
    "bundled network": siammae.SiamMAE.from_pretrained(),
    "no network: RGB patches": siammae.PixelExtractor(patch_size=8),
}

# %%
# The same rules for all, those of DINO's evaluation.
pictures = []
for name, model in networks.items():
    tracks = siammae.propagate_masks(frames, first_mask, model=model, config=rules)
    pictures.append(siammae.overlay_masks(frames[-1], tracks.labels[-1]))
    print(f"{name}: {model.patch_size} pixels a patch")

plt.figure(figsize=(10, 3.2))
plt.imshow(siammae.contact_sheet(pictures, columns=3, captions=list(networks), width=320))
plt.axis("off")
plt.show()
