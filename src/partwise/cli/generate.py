"""`partwise generate`: answer one prompt over several servers, then say what each part did."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from partwise.cli.computing import (
    add_device,
    add_precision,
    add_runner,
    describe_choice,
    read_wish,
)
from partwise.cli.notices import warn_of_codecs, warn_of_full_context, warn_of_plain_text
from partwise.cli.planning.problem import CODECS
from partwise.cli.version import add_version, check_version
from partwise.errors import PromptError, UsageError

if TYPE_CHECKING:
    from partwise.answer import Answer
    from partwise.cli.expectation import Expectation
    from partwise.deployment import Net
    from partwise.distributor.plan import Plan
    from partwise.engine.prepared import Prepared

NAME = "generate"
HELP = "answer a prompt with a model in parts over several servers"
EXAMPLES = (
    'partwise generate models/SmolLM2-135M-Instruct "What is the capital of France?" --parts 3',
    "partwise generate MODEL - --servers 10.0.0.5:7070,lab-2:7070 --token-file F < prompt.txt",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise generate``."""
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="a Hugging Face model directory")
    add("prompt", metavar="PROMPT", help="the prompt; - reads it from stdin")
    add("--parts", metavar="N", type=int, help="servers of this machine (default: 1)")
    add("--servers", metavar="HOST:PORT,...", help="servers that listen, a part each, in order")
    add("--plan", metavar="FILE", type=Path, help="a plan that says which server holds what")
    add(
        "--cluster",
        metavar="FILE|PRESET",
        help="servers called HOST:PORT or local-0, local-1, ...; says what is expected of them",
    )
    add("--host", metavar="FILE", type=Path, help="the machine that --cluster local-N cuts")
    add_version(parser)
    add_precision(parser)
    add_runner(parser)
    add_device(parser, "the servers of this machine")
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
    add(
        "--codec",
        choices=CODECS,
        default="auto",
        help="of what links carry; all but fp32 change results (default: auto, as the plan says;"
        " with --cluster what pays)",
    )
    add("--step-timeout", metavar="S", type=float, help="seconds for a step (default: 60)")
    add("--json", action="store_true", help="print one JSON document at the end")


def run(args: argparse.Namespace) -> int:
    """Generate, streaming to stdout; progress, notices and figures go to stderr."""
    began_s = time.monotonic()
    check_options(args)
    from partwise.cli.format import format_json
    from partwise.cli.planning.buffers import describe_parts, render_buffers
    from partwise.cli.report import Report, describe, render

    prompt = read_prompt(args.prompt)
    prepared, expectation = prepare_run(args)
    chat = choose_form(args, prepared)
    # Now, so that no server starts in vain.
    request = prepared.request(prompt, max_tokens=args.max_tokens, chat=chat)
    warn_of_full_context(prepared, request, args.max_tokens)
    warn_of_plain_text(prepared)
    warn_of_codecs(prepared)
    with deploy(prepared, args, expectation) as net:
        start_s = time.monotonic() - began_s
        for note in net.notes:
            print(f"note: {note}", file=sys.stderr)
        before = net.counters()
        answer = net.generate(prompt, max_tokens=args.max_tokens, chat=chat)
        finish(answer, is_streaming=not args.json)
        # Now: an error is one line.
        print(describe_choice(prepared.plan, prepared.why), file=sys.stderr)
        prediction = None
        if expectation is not None:
            prediction = expectation.predict(answer.prompt_tokens, len(answer.token_ids))
        report = Report(
            answer=answer, parts=net.reports(before), start_s=start_s, prediction=prediction
        )
        num_tokens = answer.prompt_tokens + len(answer.token_ids)
        buffers = describe_parts(prepared.plan, prepared.model, num_tokens)
        if args.json:
            print(format_json(describe(report) | {"buffers": buffers}))
        else:
            print(f"{render_buffers(buffers)}\n{render(report)}", file=sys.stderr)
    return 0


def read_prompt(given: str) -> str:
    """The prompt as given, or what stdin holds.

    Raises:
        PromptError: stdin holds no UTF-8 text.
    """
    if given != "-":
        return given
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as exc:
        raise PromptError(f"stdin is not UTF-8 text ({exc}): convert it") from exc


def prepare_run(args: argparse.Namespace) -> tuple[Prepared, Expectation | None]:
    """What is to be deployed, and with ``--cluster`` what is expected of it.

    Raises:
        UsageError, ModelError, ClusterError, PlanError: it cannot be deployed so.
    """
    from partwise.cli.cluster import open_cluster
    from partwise.cli.computing import refuse_runner
    from partwise.cli.expectation import Expectation, choose_threads, find_addresses, plan_for_run
    from partwise.distributor import read_plan
    from partwise.engine.prepared import prepare

    servers = args.servers.split(",") if args.servers is not None else []
    wish = read_wish(args, is_deterministic=args.deterministic, device=args.device)
    plan = read_plan(args.plan) if args.plan is not None else None
    if args.cluster is None:
        prepared = prepare(
            args.model,
            parts=args.parts,
            servers=servers,
            plan=plan,
            version=args.model_version,
            wish=wish,
        )
        return replace(prepared, plan=choose_codec(args, prepared.plan)), None
    cluster = open_cluster(args.cluster, host_file=args.host)
    if plan is None:
        refuse_runner(args)
        plan = plan_for_run(
            args.model, cluster, args.model_version or 0, precision=args.precision or "fp32"
        )
    plan = choose_codec(args, plan)
    servers = servers or find_addresses(plan)
    if servers and args.token_file is None:
        raise UsageError("servers of the cluster that listen need --token-file, their token")
    prepared = prepare(
        args.model,
        parts=args.parts,
        servers=servers,
        plan=plan,
        version=args.model_version,
        wish=wish,
    )
    threads = args.threads or (1 if args.deterministic else choose_threads(plan, cluster))
    expectation = Expectation(plan=plan, model=prepared.model, cluster=cluster, threads=threads)
    return prepared, expectation


def choose_codec(args: argparse.Namespace, plan: Plan) -> Plan:
    """``plan`` with the codec asked for on every link; says so where its own are given up."""
    from partwise.distributor.codecs import with_codec

    if args.codec != "auto":
        return with_codec(plan, args.codec)
    own = sorted({link.codec for link in plan.links} - {"fp32"})
    if not args.deterministic or not own:
        return plan
    print(
        f"note: --deterministic sends fp32 over every link, not {', '.join(own)} as planned",
        file=sys.stderr,
    )
    return with_codec(plan, "fp32")


def check_options(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, and options that do nothing together.

    Raises:
        UsageError: which, and what to give instead.
    """
    from partwise.distributor.devices import check_device

    check_numbers(args)
    check_device(args.device)
    if args.servers is not None and args.token_file is None:
        raise UsageError("--servers needs --token-file, the token that the servers were given")
    if args.token_file is not None and args.servers is None and args.cluster is None:
        raise UsageError("--token-file is for --servers: give both or neither")
    if args.host is not None and args.cluster is None:
        raise UsageError("--host is for --cluster local-N: give both or neither")
    if args.deterministic and args.codec not in ("auto", "fp32"):
        raise UsageError(
            f"--deterministic needs fp32 on every link, --codec is {args.codec}: leave one out"
        )
    if args.pin and args.servers is not None:
        raise UsageError("--pin is for servers of this machine: leave it out with --servers")


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        UsageError: which, and what to give instead.
    """
    from partwise.cluster.presets import MAX_LOCAL
    from partwise.engine.coordinator import MAX_STEP_S
    from partwise.remote.messages import MAX_THREADS

    for option, most in (("parts", MAX_LOCAL), ("threads", MAX_THREADS), ("max-tokens", None)):
        value = getattr(args, option.replace("-", "_"))
        if value is not None and value < 1:
            raise UsageError(f"--{option} is {value}, it must be at least 1: give 1 or more")
        if value is not None and most is not None and value > most:
            raise UsageError(f"--{option} is {value}, it must be at most {most}")
    check_version(args.model_version)
    if args.step_timeout is not None and not 0 < args.step_timeout <= MAX_STEP_S:
        raise UsageError(
            f"--step-timeout is {args.step_timeout:g}: give seconds above 0, at most"
            f" {MAX_STEP_S:g}, a day"
        )


def deploy(prepared: Prepared, args: argparse.Namespace, expectation: Expectation | None) -> Net:
    """Deploy as the options say, and as is expected, with progress on stderr."""
    from partwise.cli.progress import Progress
    from partwise.deploy_options import DeployOptions
    from partwise.deployment import start
    from partwise.engine.coordinator import STEP_S

    with Progress() as progress:
        options = DeployOptions(
            threads=args.threads or (expectation.threads if expectation else 0),
            is_pinned=args.pin,
            is_deterministic=args.deterministic,
            step_timeout_s=args.step_timeout or STEP_S,
            token_file=args.token_file,
            device=args.device,
            on_load=lambda done, total: progress.report("loading bytes", done, total),
            on_notice=lambda text: print(f"note: {text}", file=sys.stderr),
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
