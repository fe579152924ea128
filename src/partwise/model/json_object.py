"""JSON that comes from a model's files, decoded once at the border."""

from __future__ import annotations

import json

from partwise.errors import DamagedModel


def parse_object(data: bytes, source: str) -> dict[str, object]:
    """A JSON object whose names are unique. ``source`` names it in errors.

    Raises:
        DamagedModel: not JSON, not an object, or a name given twice.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = dict(pairs)
        if len(names) < len(pairs):
            twice = next(n for i, (n, _) in enumerate(pairs) if n in dict(pairs[:i]))
            raise ValueError(f"{twice!r} is given twice")
        return names

    try:
        value = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as exc:
        raise DamagedModel(f"{source} does not hold valid JSON ({exc}): download it again") from exc
    if not isinstance(value, dict):
        raise DamagedModel(f"{source} does not hold a JSON object: download it again")
    return value
