"""Lists and tables as the command line writes them: ``70,30``, ``a=0:3,b=3:6``, ``1,8,64``."""

from __future__ import annotations

import re

from partwise.errors import UsageError

MAX_STREAMS = 1_000_000
"""Of streams and of sequences: far beyond what any cluster holds the KV caches of."""
_LONG_NUMBER = re.compile(r"\d{13,}")


def read_percentages(text: str) -> list[float] | dict[str, float]:
    """Percentages in the servers' order, or by server."""
    if "=" not in text:
        return [_number(word) for word in split_words(text)]
    return {name: _number(value) for name, value in read_pairs("percent", text).items()}


def read_types(text: str) -> dict[str, list[str]]:
    """Servers by kind."""
    return {kind: names.split("+") for kind, names in read_pairs("types", text).items()}


def read_granules(text: str) -> dict[str, int]:
    """Neurons that must stay together, by kind.

    Raises:
        UsageError: a number that is not whole or below 1.
    """
    pairs = read_pairs("granules", text)
    for kind, value in pairs.items():
        if not (value.isdecimal() and int(value)):
            raise UsageError(f"--granules has {kind}={value}: give a whole number of at least 1")
    return {kind: int(value) for kind, value in pairs.items()}


def read_ids(texts: list[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Identifiers by layers, kind and server.

    Raises:
        UsageError: a text of another form.
    """
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for text in texts:
        refuse_long_numbers("ids", text)
        key, _, ids = text.partition("=")
        words = key.split("/", 2)
        if len(words) < 3 or not all(words) or not ids:
            raise UsageError(
                f"--ids is {text!r}: give LAYERS/KIND/NAME=IDS, as in */kv_group/lab-0=0:3,7"
            )
        layers, kind, server = words
        by_server = tables.setdefault(layers, {}).setdefault(kind, {})
        by_server[server] = f"{by_server[server]},{ids}" if server in by_server else ids
    return tables


def read_streams(text: str | None) -> list[int]:
    """The numbers of streams, ascending; 1 where none is given.

    Raises:
        UsageError: no whole numbers from 1 to MAX_STREAMS, or one twice.
    """
    if text is None:
        return [1]
    words = split_words(text)
    refuse_long_numbers("streams", text)
    if not all(word.isdecimal() and int(word) for word in words) or len(set(words)) < len(words):
        raise UsageError(f"--streams is {text!r}: give whole numbers from 1 on, as in 1,8,64")
    streams = sorted(map(int, words))
    refuse_more("streams", streams[-1])
    return streams


def refuse_more(option: str, number: int) -> None:
    """Refuse more than MAX_STREAMS.

    Raises:
        UsageError: it is more.
    """
    if number > MAX_STREAMS:
        raise UsageError(f"--{option} is {number}, it must be at most {MAX_STREAMS:,}")


def refuse_long_numbers(option: str, text: str) -> None:
    """Refuse what no list means, and what Python would not even read.

    Raises:
        UsageError: a number of more than a dozen digits.
    """
    found = _LONG_NUMBER.search(text)
    if found:
        raise UsageError(
            f"--{option} has a number of {len(found[0]):,} digits, {found[0][:9]}...: give smaller"
            " ones"
        )


def split_words(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word.strip() for word in text.split(",")]


def read_pairs(option: str, text: str) -> dict[str, str]:
    """``A=x,B=y`` as a table.

    Raises:
        UsageError: a text of another form, or a name twice.
    """
    refuse_long_numbers(option, text)
    pairs: dict[str, str] = {}
    for word in split_words(text):
        name, _, value = word.partition("=")
        if not (name and value) or name in pairs:
            raise UsageError(f"--{option} has {word!r}: give NAME=VALUE,... with each name once")
        pairs[name] = value
    return pairs


def _number(word: str) -> float:
    try:
        return int(word) if word.isdecimal() else float(word)
    except ValueError as exc:
        raise UsageError(f"--percent has {word!r}: give numbers, as in 70,30") from exc
