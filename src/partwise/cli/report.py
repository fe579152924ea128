"""What a run answered and what each part did, as text and as JSON; with what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partwise.answer import Answer
    from partwise.cli.format import Cell
    from partwise.distributor.cost import Prediction
    from partwise.engine.reports import ExchangeReport, LinkReport, PartReport

HEADERS = (
    "part",
    "server",
    "layers",
    "weights MiB",
    "resident MiB",
    "compute ms/token",
    "wait ms/token",
    "hop ms/token",
    "sent bytes/token",
)
EXCHANGE_HEADERS = (
    "part",
    "exchanges",
    "sent bytes",
    "us/exchange",
    "of it waiting %",
    "ms/token",
    "sent bytes/token",
)
EXPECTED_HEADER = "expected ms/token"
TIME_HEADERS = (
    "part",
    "compute s",
    "wait s",
    "exposed communication s",
    "hidden communication s",
)
LINK_HEADERS = (
    "link",
    "codec",
    "frames",
    "bytes",
    "of fp32 %",
    "pack us/frame",
    "unpack us/frame",
    "beside computing %",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An answer that is complete, and its run. ``start_s`` is until the parts were ready;
    ``prediction`` is for the tokens that it has (None: the run had no cluster)."""

    answer: Answer
    parts: Sequence[PartReport]
    start_s: float
    prediction: Prediction | None = None

    @property
    def expected_ms(self) -> dict[str, float]:
        """The milliseconds of computing that are expected a token, by part."""
        costs = self.prediction.parts if self.prediction else ()
        return {cost.part: 1e3 * cost.compute_s for cost in costs}


def describe(report: Report) -> dict[str, Any]:
    """The report as a JSON document."""
    answer, expected_ms = report.answer, report.expected_ms
    parts = [asdict(part) for part in report.parts]
    for part in parts:
        del part["server"]
        if part["name"] in expected_ms:
            part["expected_compute_ms_per_token"] = expected_ms[part["name"]]
    document = {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "prompt_tokens": answer.prompt_tokens,
        "finish_reason": answer.finish_reason,
        "start_s": report.start_s,
        "first_token_s": answer.generation.first_token_s,
        "decode_tokens_per_s": answer.generation.decode_tokens_per_s,
        "parts": parts,
    }
    if report.prediction is not None:
        document["expected_decode_tokens_per_s"] = report.prediction.tokens_per_s
    return document


def render(report: Report) -> str:
    """The report as text for people, without the answer itself."""
    from partwise.cli.format import format_table

    expected_ms = report.expected_ms
    headers = [*HEADERS, *([EXPECTED_HEADER] if expected_ms else [])]
    rows = [
        (*_list_cells(part), *([expected_ms[part.name]] if expected_ms else []))
        for part in report.parts
    ]
    lines = [f"\n{format_table(headers, rows)}", f"\n{render_times(report.parts)}"]
    lines.append(f"\n{render_speed(report)}")
    if report.prediction is not None:
        rate = report.answer.generation.decode_tokens_per_s
        lines.append(render_expected(report.prediction.tokens_per_s, rate))
    return "\n".join(lines)


def render_times(parts: Sequence[PartReport]) -> str:
    """Where the time of each part went, prompts too, what each link carried, and what members of a
    stage exchanged."""
    from partwise.cli.format import format_table

    times = [(p.name, p.compute_s, p.wait_s, p.exposed_s, p.hidden_s) for p in parts]
    tables = [format_table(TIME_HEADERS, times)]
    links = [_list_link(link) for part in parts for link in part.links]
    if links:
        tables.append(format_table(LINK_HEADERS, links))
    exchanges = [_list_exchange(p.name, p.exchange) for p in parts if p.exchange is not None]
    if exchanges:
        tables.append(format_table(EXCHANGE_HEADERS, exchanges))
    return "\n\n".join(tables)


def render_speed(report: Report) -> str:
    """One line: how many tokens, how soon, how fast."""
    answer = report.answer
    words = [
        f"{answer.prompt_tokens:,} prompt tokens",
        f"{len(answer.token_ids):,} tokens ({answer.finish_reason})",
        f"ready after {report.start_s:.2f} s",
    ]
    first_token_s = answer.generation.first_token_s
    if first_token_s is not None:
        words.append(f"first token {first_token_s:.2f} s later")
    rate = answer.generation.decode_tokens_per_s
    if rate is not None:
        words.append(f"then {rate:.1f} tokens/s")
    return "; ".join(words)


def render_expected(expected_tokens_per_s: float, measured_tokens_per_s: float | None) -> str:
    """One line: the tokens per second that were expected, and those that were measured."""
    expected = f"expected {expected_tokens_per_s:.1f} tokens/s"
    if measured_tokens_per_s is None:
        return f"{expected}, measured none: that takes 2 tokens or more"
    percent = 100 * (expected_tokens_per_s / measured_tokens_per_s - 1)
    error = f"{abs(percent):.0f} % too {'high' if percent > 0 else 'low'}"
    return f"{expected}, measured {measured_tokens_per_s:.1f}: the expectation was {error}"


def _list_cells(part: PartReport) -> tuple[Cell, ...]:
    from partwise.cli.format import MIB

    sent = part.sent_bytes_per_token
    return (
        part.name,
        part.server,
        part.layers,
        part.weight_bytes / MIB,
        part.resident_bytes / MIB,
        part.compute_ms_per_token,
        part.wait_ms_per_token,
        part.hop_ms_per_token,
        None if sent is None else round(sent),
    )


def _list_exchange(part: str, exchange: ExchangeReport) -> tuple[Cell, ...]:
    sent = exchange.sent_bytes_per_token
    return (
        part,
        exchange.calls,
        exchange.sent_bytes,
        1e6 * exchange.exchange_s / exchange.calls if exchange.calls else None,
        100 * exchange.wait_s / exchange.exchange_s if exchange.exchange_s else None,
        exchange.ms_per_token,
        None if sent is None else round(sent),
    )


def _list_link(link: LinkReport) -> tuple[Cell, ...]:
    return (
        f"{link.source} > {link.target}",
        link.codec,
        link.frames,
        link.moved_bytes,
        100 * link.moved_bytes / link.plain_bytes if link.plain_bytes else None,
        link.pack_us_per_frame,
        link.unpack_us_per_frame,
        link.beside_percent,
    )
