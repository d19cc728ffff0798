"""Training samples: ``sources`` -> ``clips`` -> ``open_clip`` -> ``pairs`` -> ``crops`` -> ``batches``.

``shards`` and ``sharding`` keep decoded frames, ``frame_cache`` the last ones, ``skipped`` what could not be read;
``copy_paste`` is an augmentation.
"""
