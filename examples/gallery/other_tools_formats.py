"""
Labels of other tools
=====================

Labels come from the tools people draw them in, and the results go back: COCO, CVAT, YOLO, Label Studio, DeepLabCut,
SLEAP and more. What a format has no place for is said.
"""

import json
import tempfile
from pathlib import Path

import siammae

data = Path("../data")
frames = list(siammae.read_frames(data / "walkers.mp4", stop=8))
model = siammae.SiamMAE.from_pretrained()
rules = siammae.PropagationConfig.recommended(model, "fast")
tracks = siammae.propagate_masks(frames, siammae.read_mask(data / "walkers_first_mask.png"), model=model, config=rules)

# %%
# To COCO, with an id for each track, and back.
with tempfile.TemporaryDirectory() as folder:
    path = tracks.save(Path(folder) / "masks.json", format="coco")
    content = json.loads(path.read_text())
    print({key: len(value) for key, value in content.items() if isinstance(value, list)})
    labels = siammae.read_annotations(path)
    print(f"{len(labels.objects)} objects in frames of {labels.size}")
    for frame in labels:
        same = [(frame.masks[key] == (tracks.labels[frame.index] == key)).all() for key in frame.masks]
        print(f"frame {frame.index}: equal to the pixel {all(same)}")
