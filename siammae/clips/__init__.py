"""Which videos there are, and their frames: ``listing`` -> ``clip`` -> ``open_clip``.

A folder, a list, a table of cuts or shards become clips; pretraining draws its pairs from them, and a corpus is
extracted clip by clip. ``shards`` reads frames that were decoded once, ``skipped`` keeps what could not be read.
"""
