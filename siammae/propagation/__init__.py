"""Labels through a video, in reading order: ``affinity``, ``labels``, ``context``, ``propagator``, ``video``.

``keypoint_propagator`` is the propagator's twin for keypoints; ``keyframes`` joins several annotated frames; ``focus``
says where to look in the next frame, ``refinement`` makes masks finer when they are rendered.
"""
