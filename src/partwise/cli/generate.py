"""`partwise generate`: answer one prompt over several servers, then say what each part did."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partwise.errors import UsageError

if TYPE_CHECKING:
    from partwise.deployment import Answer, Net, PartReport
    from partwise.engine.prepared import Prepared
    from partwise.engine.sequence import Request

NAME = "generate"
HELP = "answer a prompt with a model in parts over several servers"
EXAMPLES = (
    'partwise generate models/SmolLM2-135M-Instruct "What is the capital of France?" --parts 3',
    "partwise generate MODEL - --servers 10.0.0.5:7070,lab-2:7070 --token-file F < prompt.txt",
)

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise generate``."""
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="a Hugging Face model directory")
    add("prompt", metavar="PROMPT", help="the prompt; - reads it from stdin")
    add("--parts", metavar="N", type=int, help="servers of this machine (default: 1)")
    add("--servers", metavar="HOST:PORT,...", help="servers that listen, a part each, in order")
    add("--plan", metavar="FILE", type=Path, help="a plan that says which server holds what")
    add("--token-file", metavar="FILE", type=Path, help="the cluster token of --servers")
    add(
        "--threads",
        metavar="T",
        type=int,
        help="threads a server (default: its share; 1 if deterministic)",
    )
    add("--pin", action="store_true", help="give each local server processors of its own")
    add("--max-tokens", metavar="N", type=int, default=256, help="at most (default: 256)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--chat", action="store_true", help="as a chat message (default, if the model can)"
    )
    form.add_argument("--raw", action="store_true", help="as text to go on from")
    add(
        "--deterministic",
        action="store_true",
        help="the same bits for every number of parts; threads default to 1, more of them or"
        " fewer give other bits",
    )
    add("--step-timeout", metavar="S", type=float, help="seconds for a step (default: 60)")
    add("--json", action="store_true", help="print one JSON document at the end")


def run(args: argparse.Namespace) -> int:
    """Generate, streaming to stdout; progress, notices and figures go to stderr."""
    began_s = time.monotonic()
    check_options(args)
    from partwise.distributor import read_plan
    from partwise.engine.prepared import prepare

    servers = args.servers.split(",") if args.servers is not None else []
    plan = read_plan(args.plan) if args.plan is not None else None
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    prepared = prepare(args.model, parts=args.parts, servers=servers, plan=plan)
    chat = choose_form(args, prepared)
    # Now, so that no server starts in vain.
    request = prepared.request(prompt, max_tokens=args.max_tokens, chat=chat)
    warn_of_full_context(prepared, request, args.max_tokens)
    warn_of_plain_text(prepared)
    with deploy(prepared, args) as net:
        start_s = time.monotonic() - began_s
        before = net.counters()
        answer = net.generate(prompt, max_tokens=args.max_tokens, chat=chat)
        finish(answer, is_streaming=not args.json)
        reports = net.reports(before)
        if args.json:
            print(json.dumps(describe(answer, reports, start_s), indent=1))
        else:
            print(render(answer, reports, start_s), file=sys.stderr)
    return 0


def check_options(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, and options that do nothing together.

    Raises:
        UsageError: which, and what to give instead.
    """
    for option in ("parts", "threads", "max-tokens"):
        value = getattr(args, option.replace("-", "_"))
        if value is not None and value < 1:
            raise UsageError(f"--{option} is {value}, it must be at least 1: give 1 or more")
    if args.step_timeout is not None and not 0 < args.step_timeout < float("inf"):
        raise UsageError(f"--step-timeout is {args.step_timeout:g}: give seconds above 0")
    if args.servers is not None and args.token_file is None:
        raise UsageError("--servers needs --token-file, the token that the servers were given")
    if args.token_file is not None and args.servers is None:
        raise UsageError("--token-file is for --servers: give both or neither")
    if args.pin and args.servers is not None:
        raise UsageError("--pin is for servers of this machine: leave it out with --servers")


def deploy(prepared: Prepared, args: argparse.Namespace) -> Net:
    """Deploy as the options say, with progress on stderr."""
    from partwise.cli.progress import Progress
    from partwise.deployment import DeployOptions, start
    from partwise.engine.coordinator import STEP_S

    with Progress() as progress:
        options = DeployOptions(
            threads=args.threads or 0,
            is_pinned=args.pin,
            is_deterministic=args.deterministic,
            step_timeout_s=args.step_timeout or STEP_S,
            token_file=args.token_file,
            on_load=lambda done, total: progress.report("loading bytes", done, total),
        )
        return start(prepared, options)


def choose_form(args: argparse.Namespace, prepared: Prepared) -> bool:
    """Whether the prompt is a chat message; says so where nobody chose and it is not."""
    if args.chat or args.raw:
        return bool(args.chat)
    if not prepared.text.has_chat_template:
        name = prepared.model.name
        print(f"note: {name} has no chat template, so the prompt is raw text", file=sys.stderr)
    return prepared.text.has_chat_template


def warn_of_full_context(prepared: Prepared, request: Request, max_tokens: int) -> None:
    """Say that the answer may have fewer tokens than were asked for."""
    if request.max_tokens < max_tokens:
        print(
            f"note: at most {request.max_tokens:,} tokens instead of {max_tokens:,}: the prompt"
            f" has {len(request.prompt_ids):,}, the context of {prepared.model.name} is"
            f" {prepared.model.context_tokens:,}",
            file=sys.stderr,
        )


def warn_of_plain_text(prepared: Prepared) -> None:
    """Say that what leaves this machine can be read and changed on its way."""
    if not all(address.is_loopback for address in prepared.addresses.values()):
        print(
            "note: these servers prove the token when they connect; after that traffic is neither"
            " encrypted nor protected against changes (TLS comes later): use a network that you"
            " trust",
            file=sys.stderr,
        )


def finish(answer: Answer, *, is_streaming: bool) -> None:
    """Follow the answer to its end; print each piece as it comes if ``is_streaming``."""
    has_printed = False
    try:
        for piece in answer:
            if is_streaming:
                has_printed = True
                print(piece, end="", flush=True)
    finally:
        if is_streaming and (has_printed or answer.finish_reason is not None):
            print(flush=True)


def describe(answer: Answer, reports: Sequence[PartReport], start_s: float) -> dict[str, Any]:
    """The answer and what each part did, as a JSON document."""
    parts = [asdict(report) for report in reports]
    for part in parts:
        del part["server"]
    return {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "prompt_tokens": answer.prompt_tokens,
        "finish_reason": answer.finish_reason,
        "start_s": start_s,
        "first_token_s": answer.generation.first_token_s,
        "decode_tokens_per_s": answer.generation.decode_tokens_per_s,
        "parts": parts,
    }


def render(answer: Answer, reports: Sequence[PartReport], start_s: float) -> str:
    """What each part did, and the speed, as text for people."""
    from partwise.cli.format import MIB, format_table

    rows = [
        (
            report.name,
            report.server,
            report.layers,
            report.weight_bytes / MIB,
            report.resident_bytes / MIB,
            report.compute_ms_per_token,
            report.wait_ms_per_token,
            report.hop_ms_per_token,
            None if report.sent_bytes_per_token is None else round(report.sent_bytes_per_token),
        )
        for report in reports
    ]
    return f"\n{format_table(HEADERS, rows)}\n\n{render_speed(answer, start_s)}"


def render_speed(answer: Answer, start_s: float) -> str:
    """One line: how many tokens, how soon, how fast."""
    words = [
        f"{answer.prompt_tokens:,} prompt tokens",
        f"{len(answer.token_ids):,} tokens ({answer.finish_reason})",
        f"ready after {start_s:.2f} s",
    ]
    first_token_s = answer.generation.first_token_s
    if first_token_s is not None:
        words.append(f"first token {first_token_s:.2f} s later")
    rate = answer.generation.decode_tokens_per_s
    if rate is not None:
        words.append(f"then {rate:.1f} tokens/s")
    return "; ".join(words)
