"""What is extracted of a video and how it is stored."""

from __future__ import annotations

import dataclasses
from typing import Any

from siammae.config.settings import Settings, check, check_choice, check_flags, check_integers

STORES, SCALES, POOLS, FORMATS = (
    ("float32", "float16", "int8"),
    ("channel", "patch"),
    (None, "mean", "cls"),
    (
        "safetensors",
        "zarr",
    ),
)
_WAY = ("batch_size",)  # changes roundings at most, and no id


@dataclasses.dataclass(frozen=True)
class ExtractionConfig(Settings):
    """Settings of :func:`siammae.extract_to` and :func:`siammae.extract_corpus`.

    Attributes:
        short_side: of the frames when they enter the network, in pixels; None = the frames' own.
        layer: the block whose output is taken, as a Python index.
        norm: apply the final layer norm.
        start: first frame, from 0.
        stop: frame to stop before; None = the end.
        every: only every so manieth frame, counted from ``start``; of shards, of the frames that they keep.
        pool: None = a vector a patch; ``"mean"`` of the patches or ``"cls"`` = one vector a frame.
        pca: keep so many principal components, fitted on a sample of frames; None = all channels.
        store: type of the stored numbers. int8 is symmetric, with a scale for each ...
        scale: ... ``"channel"`` of a frame, or ``"patch"`` of it (of pooled features, each frame).
        format: ``"safetensors"``, or ``"zarr"`` with one chunk a frame (extra of its name).
        reader: decodes videos, see :func:`siammae.read_frames`.
        batch_size: frames encoded at once; the only setting that two runs may differ in and share results.

    Example:
        >>> import siammae
        >>> siammae.ExtractionConfig(short_side=240, store="int8").replace(every=5).store
        'int8'
    """

    short_side: int | None = None
    layer: int = -1
    norm: bool = True
    start: int = 0
    stop: int | None = None
    every: int = 1
    pool: str | None = None
    pca: int | None = None
    store: str = "float32"
    scale: str = "channel"
    format: str = "safetensors"
    reader: str = "auto"
    batch_size: int = 4

    def __post_init__(self) -> None:
        check_integers(self)
        check_flags(self)
        for field in ("short_side", "pca", "every", "batch_size"):
            got = getattr(self, field)
            check(got is None or got >= 1, field, got, "at least 1" + ", or None" * (field in ("short_side", "pca")))
        check(self.start >= 0, "start", self.start, "at least 0")
        check(self.stop is None or self.stop > self.start, "stop", self.stop, f"above start, {self.start}, or None")
        for field, choices in (("store", STORES), ("scale", SCALES), ("pool", POOLS), ("format", FORMATS)):
            check_choice(field, getattr(self, field), choices)
        check_choice("reader", self.reader, ("auto", "opencv", "pyav", "torchcodec"))

    def rules(self) -> dict[str, Any]:
        """Return the settings that change what is stored, and so the ids of results."""
        return {name: value for name, value in self.to_dict().items() if name not in _WAY}
