"""How much is believed of files from strangers, before memory is taken for it.

Each bound is far above what honest files hold. An environment variable of its name sets another one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class Bound(NamedTuple):
    """The most of something.

    Attributes:
        most: unless the environment variable says otherwise.
        what: of which, for the documentation.
    """

    most: int
    what: str


BOUNDS: Mapping[str, Bound] = {
    # 8192 x 8192, or a phone's 64 megapixels; decoding takes up to 14 bytes a pixel
    "SIAMMAE_MAX_PIXELS": Bound(2**26, "pixels of a frame, a picture, a mask, or a frame of labels"),
    "SIAMMAE_MAX_SIDE": Bound(32_768, "pixels of a side of a frame of labels"),
    "SIAMMAE_MAX_CONFIG_BYTES": Bound(2**20, "bytes of a checkpoint's `config.json`; ours have about 1,000"),
    "SIAMMAE_MAX_HEADER_BYTES": Bound(2**24, "bytes of a safetensors file's header: about 100,000 tensors"),
    "SIAMMAE_MAX_UNPACKED": Bound(4, "times its size to which a checkpoint unpacks; PyTorch does not pack its files"),
    "SIAMMAE_MAX_TENSORS": Bound(20_000, "tensors of a checkpoint that is converted; a large training has 5,000"),
    "SIAMMAE_MAX_LABEL_BYTES": Bound(200_000_000, "bytes of a file of labels that is read as a whole"),
    "SIAMMAE_MAX_CORNERS": Bound(1_000_000, "corners of a polygon, each of which takes memory when it is filled"),
    # JSON takes up to 25 times its length in memory
    "SIAMMAE_MAX_INDEX_BYTES": Bound(2**28, "bytes of the `index.json` of shards: four million clips"),
    "SIAMMAE_MAX_DESCRIPTION_BYTES": Bound(2**24, "bytes of a clip's description in a shard: two million frames"),
}


def bound(name: str) -> int:
    """Return a bound of ``BOUNDS``, or what the environment variable of its name says.

    Raises:
        ValueError: that variable is no whole number.
    """
    text = os.environ.get(name, "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(f"{name} is {text!r}: it must be a whole number such as {BOUNDS[name].most}.")
    return int(text) if text else BOUNDS[name].most
