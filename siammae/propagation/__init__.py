"""Labels through a video, in reading order: ``affinity``, ``labels``, ``context``, ``propagator``, ``video``."""
