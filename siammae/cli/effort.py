"""What a run's features took: said at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siammae.features import FeatureExtractor, FeatureStream


class Effort:
    """An extractor whose streams are counted; in everything else it is the one that it is given.

    Args:
        extractor: does the work.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor: Any = extractor
        self._streams: list[FeatureStream] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- whatever the extractor has
        return getattr(self._extractor, name)

    def open_stream(self, **options: Any) -> FeatureStream:  # noqa: ANN401 -- an extractor's own
        """Open a stream, and look at it again at the end."""
        stream: FeatureStream = self._extractor.open_stream(**options)
        self._streams.append(stream)
        return stream

    @property
    def kind(self) -> str:
        """What messages call the extractor."""
        return type(self._extractor).__name__

    def line(self) -> str:
        """Say in which dtype the features were made, and of which part of the patches."""
        dtype = str(self._extractor.dtype).removeprefix("torch.")
        asked = sum(stream.asked for stream in self._streams)
        if not asked:
            return f"features in {dtype}, every patch encoded"
        share = sum(stream.computed for stream in self._streams) / asked
        return f"features in {dtype}, {share:.0%} of the patches encoded: the others had not changed"
