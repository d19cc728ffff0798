"""What the settings classes share: checks that name field, value and what is allowed; strict JSON dictionaries."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from siammae.errors import name_some

_short = reprlib.Repr()  # values may come from a stranger's file: deep ones and long ones are cut
_short.maxlevel, _short.maxdict = 4, 40
_short.maxtuple = _short.maxlist = 20
_short.maxstring = _short.maxother = _short.maxlong = 200
_DEEPEST = 8  # lists within lists; our fields need two


def check(valid: bool, field: str, got: object, allowed: str) -> None:
    """Raise a ValueError that names a field, its value and what is allowed, unless it is valid."""
    if not valid:
        raise ValueError(f"{field} is {_short.repr(got)}: it must be {allowed}.")


# Of a softmax over cosines: less is the largest one alone, more the plain mean.
TEMPERATURES = (1e-6, 1e6)


def check_range(field: str, got: float, limits: tuple[float, float]) -> None:
    """Refuse a number below the first or above the second limit, and nan."""
    least, most = limits
    check(least <= got <= most, field, got, f"{least:g} to {most:g}")


def check_choice(field: str, got: object, choices: tuple[object, ...]) -> None:
    """Refuse a value that is none of the choices."""
    check(got in choices, field, got, "one of " + ", ".join(map(repr, choices)))


def check_color(field: str, got: Sequence[float], *, least: float) -> None:
    """Refuse what is not one number for red, green and blue."""
    valid = len(got) == 3 and all(math.isfinite(value) and value >= least for value in got)
    check(valid, field, got, f"three numbers (R, G, B), finite and at least {least}")


def _tuples(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 -- any JSON value
    """JSON knows lists only; our fields are tuples."""
    if not isinstance(value, list):
        return value
    if depth >= _DEEPEST:
        raise ValueError(f"lists lie in lists deeper than {_DEEPEST}: no field has such a value.")
    return tuple(_tuples(item, depth + 1) for item in value)


def check_integers(settings: Settings) -> None:
    """Refuse 2.5 or True where a whole number belongs: it would fail much later, far from its cause."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        got = getattr(settings, field.name)
        if field.type == "int" or (field.type == "int | None" and got is not None):
            check(isinstance(got, int) and not isinstance(got, bool), field.name, got, "a whole number")


def check_flags(settings: Settings) -> None:
    """Refuse ``"false"`` where True or False belongs: it would count as True."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        if field.type == "bool":
            got = getattr(settings, field.name)
            check(isinstance(got, bool), field.name, got, "True or False")


class Settings:
    """What the three settings share: JSON-ready dictionaries, strict on the way in."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON-ready values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s result.

        Raises:
            ValueError: a field is unknown, missing or out of range; the message names it.
        """
        fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - fields):
            raise ValueError(f"unknown {cls.__name__} fields {name_some(unknown)}: known are {sorted(fields)}.")
        try:
            return cls(**{name: _tuples(value) for name, value in values.items()})
        except TypeError as error:
            raise ValueError(f"{cls.__name__} cannot be built from {_short.repr(dict(values))}: {error}.") from error

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401 -- the fields' own types
        """Return a copy with some fields changed; the copy is checked again.

        Raises:
            ValueError: a field is unknown or out of range.
        """
        return type(self).from_dict({**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, **changes})  # type: ignore[arg-type]
