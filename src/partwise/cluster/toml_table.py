"""Checked reads of one TOML table: known keys, their types, numbers above their limits; and how
keys, numbers and texts are written.

Every error names the key as the file spells it. What the keys mean is in `toml_file.py`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from partwise.cluster.checks import shorten
from partwise.errors import ClusterError

DECIMAL_UNITS = {"gb_per_s": 9, "gmacs_per_s": 9, "us": -6}
"""Powers of ten by the unit that ends a key."""
BINARY_UNITS = {"gib": 30, "mib": 20, "kib": 10}
"""Powers of two by the unit that ends a key."""
MOST_DIGITS, MOST_WHOLE = 20, 1_000_000
"""No quantity has more digits before its point, and nothing is counted further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the file. ``where`` names it in errors; it may hold no key but ``keys``."""

    where: str
    values: Mapping[str, Any]
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        for key in self.values:
            if key not in self.keys:
                raise ClusterError(f"{self.where} has {self._explain(key)}")

    def text(self, key: str) -> str:
        """The text under ``key``.

        Raises:
            ClusterError: there is none, or something else.
        """
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, 'text, as in "lab"')
        return value

    def whole(self, key: str) -> int:
        """The whole number of at least 1 under ``key``.

        Raises:
            ClusterError: there is none, or something else.
        """
        value = self._get(key)
        if type(value) is not int or value < 1:
            raise self._wrong(key, value, "a whole number of at least 1")
        if value > MOST_WHOLE:
            raise self._wrong(key, value, f"at most {MOST_WHOLE:,}")
        return value

    def number(self, key: str, *, has_zero: bool = False) -> float:
        """The number under ``key`` in the base unit of what the key ends with.

        Raises:
            ClusterError: there is none, it is no number, or too small.
        """
        return self._scale(key, self._get(key), has_zero=has_zero)

    def optional(self, key: str, *, has_zero: bool = False) -> float | None:
        """As `number`; None where the key is absent."""
        return self.number(key, has_zero=has_zero) if key in self.values else None

    def numbers(self, key: str) -> tuple[float, ...]:
        """The list of numbers under ``key``, each as by `number`.

        Raises:
            ClusterError: there is no list, or one of them is wrong.
        """
        value = self._get(key)
        if not isinstance(value, list):
            raise self._wrong(key, value, "a list of numbers, as in [1, 4, 16]")
        return tuple(self._scale(key, item) for item in value)

    def table(self, key: str, keys: tuple[str, ...], where: str = "") -> Table:
        """The table under ``key``, which may hold ``keys``.

        Raises:
            ClusterError: there is none, or it holds another key.
        """
        value = self._get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, value, "a table")
        where = where or (f"{self.where}: {key}" if self.where != "the file" else key)
        return Table(where=where, values=value, keys=keys)

    def tables(self, key: str) -> list[Mapping[str, Any]]:
        """The tables under ``key``, written as ``[[key]]``; none where it is absent.

        Raises:
            ClusterError: something else is there.
        """
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(key, value, f"tables, each headed [[{key}]]")
        return value

    def _get(self, key: str) -> Any:
        if key not in self.values:
            raise ClusterError(f"{self.where} has no {key}: add it")
        return self.values[key]

    def _scale(self, key: str, value: Any, *, has_zero: bool = False) -> float:
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self._wrong(key, value, "a number")
        number = Decimal(value)
        if not number.is_finite() or number < 0 or (number == 0 and not has_zero):
            raise self._wrong(key, value, "0 or more" if has_zero else "a number above 0")
        if number.adjusted() > MOST_DIGITS:
            raise self._wrong(key, value, f"a number below 1e{MOST_DIGITS}")
        return from_unit(key, number)

    def _wrong(self, key: str, value: Any, expected: str) -> ClusterError:
        shown = str(value) if isinstance(value, Decimal) else repr(value)
        return ClusterError(f"{self.where} has {key} = {shorten(shown)}, expected {expected}")

    def _explain(self, key: str) -> str:
        with_unit = [known for known in self.keys if known.startswith(f"{key}_")]
        if with_unit:
            return f"the key {key!r} without its unit: write {' or '.join(with_unit)}"
        close = difflib.get_close_matches(key, self.keys, n=1, cutoff=0.5)
        advice = f"did you mean {close[0]}?" if close else f"it may have {', '.join(self.keys)}"
        return f"the unknown key {shorten(key)!r}: {advice}"


def name_table(noun: str, values: Mapping[str, Any]) -> str:
    """What errors call the table of a ``noun``."""
    name = values.get("name")
    return f"{noun} {shorten(name)!r}" if isinstance(name, str) else f"a {noun} without a name"


def write_number(key: str, value: float) -> str:
    """The line that gives ``key`` its value."""
    return f"{key} = {to_unit(key, value)}"


def quote(text: str) -> str:
    """``text`` as TOML writes it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def from_unit(key: str, number: Decimal) -> float:
    """``number`` of the unit that ends ``key``, in the base unit."""
    for unit, power in DECIMAL_UNITS.items():
        if key.endswith(f"_{unit}"):
            return float(number.scaleb(power))
    for unit, power in BINARY_UNITS.items():
        if key.endswith(f"_{unit}"):
            return float(number) * 2.0**power
    return float(number)


def to_unit(key: str, value: float) -> str:
    """The text that `from_unit` reads back as exactly ``value``."""
    for unit, power in BINARY_UNITS.items():
        if key.endswith(f"_{unit}"):
            value = value / 2.0**power
    # Decimal arithmetic: dividing a float by 1e9 and multiplying it again may change it.
    number = Decimal(repr(value))
    for unit, power in DECIMAL_UNITS.items():
        if key.endswith(f"_{unit}"):
            number = number.scaleb(-power)
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
