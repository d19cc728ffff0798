"""Several annotated frames: ``both_ways`` is the walk through the video, ``masks`` and ``keypoints`` what they add."""

from siammae.propagation.keyframes.keypoints import follow_keypoint_frames
from siammae.propagation.keyframes.masks import follow_keyframes

__all__ = ["follow_keyframes", "follow_keypoint_frames"]
