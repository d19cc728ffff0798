"""Pictures from results: masks, keypoints and heat over a frame, contact sheets, features as colours.

Every picture is RGB ``uint8``, ``(H, W, 3)``, and new: the frames given are never written to. What runs a network
first is not loaded here: ``siammae.visualize.reconstruction`` and ``siammae.visualize.maps``.
"""

from siammae.visualize.features import feature_pca
from siammae.visualize.heat import mark_patch, overlay_heat, patch_at
from siammae.visualize.overlays import label_color, overlay_keypoints, overlay_masks
from siammae.visualize.sheets import contact_sheet, picture_table

__all__ = [
    "contact_sheet",
    "feature_pca",
    "label_color",
    "mark_patch",
    "overlay_heat",
    "overlay_keypoints",
    "overlay_masks",
    "patch_at",
    "picture_table",
]
