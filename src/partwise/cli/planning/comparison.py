"""Strategies side by side as text for people, from the JSON document of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from partwise.cli.format import tabulate
from partwise.cli.planning.words import format_figure, render_asked, render_measure

if TYPE_CHECKING:
    from partwise.cli.format import Cell

HEADERS = (
    "strategy",
    "servers",
    "stages",
    "latency ms",
    "tokens/s",
    "hop bytes a token",
    "J a token",
)


def render_comparison(
    question: dict[str, Any], document: dict[str, Any], idle: Sequence[str]
) -> str:
    """All strategies side by side, then why some fall behind, or make no plan.

    ``idle`` are those that are not in the table, for want of their options.
    """
    candidates = document["candidates"]
    measures = dict.fromkeys(
        render_measure(verdict, question)
        for candidate in candidates
        for verdict in candidate["beats_one_machine"]
    )
    rows = [_list_cells(one, len(measures)) for one in candidates if one["expected"]]
    headers = (*HEADERS, *(f"beats one machine {measure}" for measure in measures))
    lines = [
        f"{render_asked(question, document['streams'])}: best by {document['goal']} first",
        "",
        tabulate(headers, rows),
        "",
        *_explain(candidates, question),
    ]
    if idle:
        lines.append(f"not tried without their options: {', '.join(idle)}")
    return "\n".join(lines)


def _list_cells(candidate: dict[str, Any], num_measures: int) -> tuple[Cell, ...]:
    expected, by = candidate["expected"], candidate["machine"] or candidate["made_by"]
    joules = expected["joules_per_token"]
    verdicts: list[Cell] = [_shorten(verdict) for verdict in candidate["beats_one_machine"]]
    return (
        candidate["name"] if by == candidate["name"] else f"{candidate['name']}: {by}",
        candidate["num_servers"],
        candidate["num_stages"],
        format_figure(1e3 * expected["latency_s"]),
        format_figure(expected["tokens_per_s"]),
        expected["hop_bytes_per_token"],
        None if joules is None else format_figure(joules),
        *(verdicts or [""] * num_measures),
    )


def _shorten(verdict: dict[str, Any]) -> str:
    """The verdict without its reason, which stands below the table."""
    text: str = verdict["verdict"]
    return "only way" if verdict["speedup"] is None else text.partition(", because ")[0]


def _explain(candidates: Sequence[dict[str, Any]], question: dict[str, Any]) -> Iterator[str]:
    """A line for each lost comparison, then one for each candidate that comes to nothing."""
    for candidate in candidates:
        if candidate["made_by"] != candidate["name"]:
            continue  # another candidate's plan, which has its own lines
        for verdict in candidate["beats_one_machine"]:
            if not verdict["is_faster"] and not verdict["is_one_machine"]:
                measure = render_measure(verdict, question)
                yield f"{candidate['name']} {measure}: {verdict['verdict']}"
    for candidate in candidates:
        if candidate["obstacle"]:
            yield f"{candidate['name']}: {candidate['obstacle']}"
