"""Plans for a cluster as text for people, from their JSON documents."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from partwise.cli.format import GIB, MIB, tabulate
from partwise.cli.planning.buffers import render_buffers
from partwise.cli.planning.equal import render_replicated
from partwise.cli.planning.words import count, format_figure, render_asked, render_measure

if TYPE_CHECKING:
    from partwise.cli.format import Cell
    from partwise.cli.planning.answer import PlanAnswer

HEADERS = (
    "server",
    "layers",
    "neurons %",
    "weights",
    "GiB",
    "of GiB",
    "working set MiB",
    "cache MiB",
    "ms a pass",
    "exchange ms",
    "hop ms",
    "hop codec",
    "bound by",
)


def render_planned(question: dict[str, Any], one: PlanAnswer) -> str:
    """A plan: its table, its picture, what is expected of it, and its notes."""
    from partwise.distributor.picture_text import draw_text

    document = one.document
    rows = [_list_cells(part, question["precision"]) for part in document["parts"]]
    lines = (
        render_heading(question, document),
        "",
        tabulate(HEADERS, rows),
        "",
        draw_text(one.picture),
        "",
        *render_outlook(question, document),
    )
    return "\n".join(lines)


def render_heading(question: dict[str, Any], document: dict[str, Any]) -> str:
    """What was asked, and by which strategy it is answered."""
    used = f"{len(document['parts'])} of {count(len(question['servers']), 'server')}"
    stages = count(document["num_stages"], "stage")
    asked = render_asked(question, document["streams"])
    strategy, made_by = document["strategy"], document["made_by"]
    made = strategy if made_by == strategy else f"{strategy} ({made_by})"
    return f"{asked}: strategy {made}, {used}, {stages}"


def render_outlook(question: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """What to expect of a plan, a line each: figures, verdicts, notes."""
    notes = (f"note: {note}" for note in document["notes"])
    tied = (render_replicated(row) for row in document["tied"])
    codecs = dict.fromkeys((link["codec"], link["why"]) for link in document["links"])
    links = (f"links: {codec}, {why}" for codec, why in codecs)
    buffers = [] if question["is_training"] else [render_buffers(document["parts"])]
    return [*render_figures(question, document), *buffers, *links, *notes, *tied]


def render_figures(
    question: dict[str, Any],
    document: dict[str, Any],
    measures: Collection[str] = ("latency", "throughput"),
) -> list[str]:
    """What is predicted of a plan, and the verdicts on it by ``measures``, a line each."""
    verdicts = (
        f"beats one machine {render_measure(verdict, question)}: {verdict['verdict']}"
        for verdict in document["beats_one_machine"]
        if verdict["measure"] in measures
    )
    return [f"expected: {render_expected(question, document)}", *verdicts]


def render_expected(question: dict[str, Any], document: dict[str, Any]) -> str:
    """What a plan is predicted to do, in one line."""
    expected, streams = document["expected"], document["streams"]
    if question["is_training"]:
        noun, served = "microbatch", f"over {count(streams, 'microbatch')} a step"
    else:
        noun, served = "token", f"at {count(streams, 'stream')}"
    words = [
        f"{format_figure(expected['tokens_per_s'])} tokens/s {served}",
        f"{format_figure(1e3 * expected['latency_s'])} ms a {noun} alone",
    ]
    num_hops = document["num_stages"] - 1
    if num_hops:
        per_hop = expected["hop_bytes_per_token"] // num_hops
        each = "in each of " if num_hops > 1 else "in "
        words.append(f"{per_hop:,} bytes a token {each}{count(num_hops, 'hop')}")
    if expected["joules_per_token"] is not None:
        words.append(f"{format_figure(expected['joules_per_token'])} J a token")
    return ", ".join(words)


def render_neurons(percent: dict[str, float]) -> str:
    """The shares of the kinds, one number where all are the same."""
    shares = {kind: f"{value:.0f}" for kind, value in percent.items()}
    if len(set(shares.values())) <= 1:
        return next(iter(shares.values()), "100")
    return ", ".join(f"{kind} {share}" for kind, share in shares.items())


def _list_cells(part: dict[str, Any], precision: str) -> tuple[Cell, ...]:
    cache = part["cache_bytes"]
    return (
        part["server"],
        part["layers"],
        render_neurons(part["neurons_percent"]),
        _describe_reduction(part, precision),
        part["memory_bytes"] / GIB,
        part["server_memory_bytes"] / GIB,
        part["working_set_bytes"] / MIB,
        None if cache is None else cache / MIB,
        format_figure(1e3 * part["pass_s"]),
        format_figure(1e3 * part["exchange_s"]) if part["exchange_s"] else None,
        format_figure(1e3 * part["hop_s"]) if part["hop_s"] else None,
        ", ".join(part["input_codecs"]) or None,
        part["bound_by"],
    )


def _describe_reduction(part: dict[str, Any], precision: str) -> str | None:
    """What a part's weights are reduced to; None where they are as asked."""
    sparsity = part["mlp_sparsity"]
    if part["precision"] == precision and not sparsity:
        return None
    removed = f" without {100 * sparsity:g} % of MLP" if sparsity else ""
    return f"{part['precision']}{removed}"
