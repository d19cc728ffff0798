"""Training samples: the clips of ``siammae.clips`` -> ``pairs`` -> ``crops`` -> ``batches``.

``sharding`` keeps decoded frames, ``frame_cache`` the last ones; ``copy_paste`` is an augmentation.
"""
