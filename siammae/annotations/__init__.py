"""Labels in and out as files: ``masks`` (palette PNG, id maps), ``keypoints`` (CSV), ``formats`` (of other tools).

``model`` is what all formats have in common; ``files`` reads and writes any of them. ``selection`` takes from labels
what propagation starts with, ``followed`` makes labels of what it ends with.
"""
