"""Labels in and out as files: ``masks`` (palette PNG, id maps) and ``keypoints`` (CSV)."""
