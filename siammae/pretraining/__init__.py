"""Pretraining from pairs of video frames.

The loop is ``trainer``, to be read first; the others in the order of the data:

- what there is to train on: ``sources`` finds ``clips``, ``opening`` reads their frames, ``shards`` are clips decoded
  before (``sharding`` writes them), ``frame_cache`` keeps frames, ``broken`` counts what cannot be read;
- what a sample is: ``pairs`` draws two frames, ``crops`` what they show, ``batches`` which of them a process gets;
- what happens to it: ``learner`` is the network with all that changes, ``step`` one step of it, ``schedule`` its rate;
- what stays: ``checkpoint`` states, ``journal`` the log, ``loggers`` other people's, ``watching`` pictures and scores,
  ``stopping`` how a run is asked to end.
"""

from siammae.config import PretrainConfig
from siammae.pretraining.trainer import pretrain

__all__ = ["PretrainConfig", "pretrain"]
