"""Pretraining from pairs of video frames.

The loop is ``trainer``, to be read first; the others in the order of the data:

- ``data`` makes the samples, see there;
- what happens to one: ``learner`` is the network with all that changes, ``step`` one step of it, ``schedule`` its rate;
- what stays: ``checkpoint`` states, ``run_log`` the log, ``loggers`` other people's, ``monitor`` pictures and scores,
  ``stopping`` how a run is asked to end.
"""

from siammae.config import PretrainConfig
from siammae.pretraining.trainer import pretrain

__all__ = ["PretrainConfig", "pretrain"]
