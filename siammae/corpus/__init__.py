"""Features of any number of videos, in bounded memory, on one machine or many.

In the order of the data: ``batches`` (a video's features, some frames at a time), ``principal`` (fewer channels),
``packing`` (smaller numbers), ``writing`` (files that grow), ``extraction`` (one video, whole), then many: ``identity``
(ids of content and settings), ``work`` (one video of many, whose faults are named), ``running`` (all of them),
``engines`` (where), ``manifest`` (what is there), ``estimate`` (how large). ``reading`` opens what was written.
"""
