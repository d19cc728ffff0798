"""Values that a page sends, each taken out under its name and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_CORNERS = 5000  # of a scribble
_LONGEST = 300  # characters of a text


class Values:
    """What came with a request.

    Args:
        values: by name, as from JSON or the address.
        client: which page sent it, by the name that it chose itself.
    """

    def __init__(self, values: Mapping[str, Any], client: str = "") -> None:
        self._values, self.client = values, client[:_LONGEST]

    @classmethod
    def parse(cls, body: bytes, client: str = "") -> Values:
        """Read a JSON object.

        Raises:
            ValueError: it is none.
        """
        try:
            values = json.loads(body or b"{}")
        except (ValueError, RecursionError) as error:
            raise ValueError("the request is no JSON.") from error
        if not isinstance(values, dict):
            raise ValueError("the request must be a JSON object.")
        return cls(values, client)

    def has(self, name: str) -> bool:
        """Say whether there is a value."""
        return self._values.get(name) is not None

    def whole(self, name: str, least: int, most: int) -> int:
        """Return a whole number, which may be written as text."""
        value = self._values.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}.")
        return value

    def number(self, name: str, least: float, most: float, default: float | None = None) -> float:
        """Return a number."""
        value = self._values.get(name, default)
        if not _is_number(value) or not least <= value <= most:
            raise ValueError(f"{name} must be a number from {least:g} to {most:g}.")
        return float(value)

    def numbers(self, name: str, count: int) -> list[float] | None:
        """Return so many numbers, or None."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count or not all(map(_is_number, value)):
            raise ValueError(f"{name} must be {count} numbers.")
        return [max(-1e6, min(1e6, float(one))) for one in value]

    def line(self, name: str) -> list[list[float]]:
        """Return corners x, y of a line, which may have none."""
        value = self._values.get(name) or []
        fits = isinstance(value, list) and len(value) <= _CORNERS
        if not fits or not all(isinstance(one, list) and len(one) == 2 and all(map(_is_number, one)) for one in value):
            raise ValueError(f"{name} must be at most {_CORNERS} corners [x, y].")
        return [[max(-1e5, min(1e5, float(x))), max(-1e5, min(1e5, float(y)))] for x, y in value]

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text."""
        value = self._values.get(name, default)
        if not isinstance(value, str) or len(value) > _LONGEST:
            raise ValueError(f"{name} must be a text of at most {_LONGEST} characters.")
        return value

    def texts(self, name: str) -> list[str]:
        """Return several texts."""
        value = self._values.get(name)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{name} must be a list of texts.")
        return value

    def flag(self, name: str) -> bool:
        """Return whether something is so."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false.")
        return value


def _is_number(value: Any) -> bool:  # noqa: ANN401 -- that is the question
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
