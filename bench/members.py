"""Members of a stage, each a process of its own, against the unsplit model: logits, ids, bytes.

- fp32, by torch and by ONNX Runtime, against transformers: SmolLM2 with 2, 3 and 4 members, in even
  and uneven shares and by explicit ids, a mixed plan of layers and neurons, a random gpt2 with 4
  members, and a random mixtral whose experts are shared;
- int8 and int4, by granules, against one part that holds the same rounded weights.

No logit may be further from the unsplit model's than 1e-4 of the largest one, and ids must be the
same up to ties of that size. Products of rounded weights round their inputs to int8 too, where a
sum in another order may fall on the other side: their bounds are wider (`ROUNDED`), and
`members_rounded.py` holds the same members to 1e-4 where inputs are not rounded.

Then one stream runs alone, and what every part sent to members of its stage and to the next one is
compared with what the plan predicts, byte for byte.

    python bench/members.py [--tokens N] [--only WORD]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import partwise
from harness import SMOLLM2, has_defaults, report
from oracle_cases import Case, make_cases, run_transformers
from oracle_comparison import Comparison, Reference
from partwise.cli.format import format_table
from partwise.cluster.presets import preset
from partwise.distributor.build import build_plan, name_parts
from partwise.distributor.plan import Member, Plan, RunnerName, Stage
from partwise.distributor.problem import Problem
from partwise.distributor.shares import share_out, split_by_weight
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.engine.reports import report_parts
from partwise.model import Model, open_model
from partwise.registry.routes import compile_routes
from partwise.remote.messages import Stats

RELATIVE = 1e-4
ROUNDED = 0.05
NUM_ORACLE_PROMPTS, NUM_PROMPTS, NUM_TOKENS = 20, 4, 16
ALONE_PROMPT, ALONE_TOKENS = (7, 8, 9), 5
SETTLE_S = 10.0
SMALL = "SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How a model is split: by a strategy of the distributor with these options, or by
    ``stages``, each (share of the layers, number of members)."""

    name: str
    num_servers: int
    strategy: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    stages: tuple[tuple[float, int], ...] = ()


EVEN = tuple(Split(name=f"{n} even", num_servers=n, strategy="count") for n in (2, 3, 4))


def split_by_percentages(*percentages: int) -> Split:
    return Split(
        name=" / ".join(map(str, percentages)) + " %",
        num_servers=len(percentages),
        strategy="percentage",
        options={"percentages": list(percentages)},
    )


BY_IDS = Split(
    name="2 by ids",
    num_servers=2,
    strategy="ids",
    options={
        "ids": {
            "*": {
                "kv_group": {"local-0": "1", "local-1": "0,2"},
                "mlp_unit": {"local-0": "0:320,1024:1536", "local-1": "320:1024"},
                "vocabulary_row": {"local-0": "10001:49152", "local-1": "0:10001"},
            }
        }
    },
)
MIXED = Split(
    name="layers, 2 members, layers", num_servers=4, stages=((0.3, 1), (0.4, 2), (0.3, 1))
)
MIXED_MEMBERS = Split(name="3 members, then 2", num_servers=5, stages=((0.5, 3), (0.5, 2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One deployment."""

    model: str
    split: Split
    runner: RunnerName = "torch"
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.model}, {self.runner}, {self.precision}, {self.split.name}"

    @property
    def bound(self) -> float:
        """How far a logit may be off, as a share of the largest."""
        return RELATIVE if self.precision == "fp32" else ROUNDED


def list_setups() -> list[Setup]:
    shares = (*EVEN[:2], split_by_percentages(70, 30), split_by_percentages(60, 30, 10))
    small = (*shares, BY_IDS, split_by_percentages(40, 30, 20, 10), MIXED, MIXED_MEMBERS)
    mixture = (EVEN[0], split_by_percentages(50, 30, 20), MIXED)
    return [
        *(Setup(model=SMALL, split=split) for split in small),
        *(Setup(model=SMALL, split=split, runner="onnx") for split in (*shares, MIXED)),
        *(
            Setup(model=SMALL, split=split, runner="onnx", precision=precision)
            for precision in ("int8", "int4")
            for split in shares
        ),
        Setup(model="random gpt2", split=EVEN[2]),
        *(Setup(model="random mixtral", split=split) for split in mixture),
    ]


def plan(setup: Setup, model: Model) -> Plan:
    """The plan that is deployed, over servers of this machine."""
    split = setup.split
    cluster = preset(f"local-{split.num_servers}")
    problem = Problem(
        model=model,
        cluster=cluster,
        workload=Workload(context_tokens=512, precision=setup.precision),
        servers=tuple(server.name for server in cluster.servers),
        options=split.options,
    )
    if split.stages:
        made = build_plan(problem, "by hand", cut_stages(model, split.stages), problem.servers)
    else:
        made = STRATEGIES[split.strategy].plan(problem)
    parts = [msgspec.structs.replace(part, runner=setup.runner) for part in made.parts]
    links = [msgspec.structs.replace(link, codec="fp32") for link in made.links]
    return msgspec.structs.replace(made, parts=tuple(parts), links=tuple(links))


def cut_stages(model: Model, stages: Sequence[tuple[float, int]]) -> tuple[Stage, ...]:
    """Stages of about these shares of the layers, each shared evenly among its members."""
    names = iter(name_parts([f"server{i}" for i in range(sum(n for _, n in stages))]).values())
    made, start, done = [], 0, 0.0
    for share, num_members in stages:
        done += share
        stop = round(done * len(model.layers))
        own = [next(names) for _ in range(num_members)]
        if num_members == 1:
            members: tuple[Member, ...] = (Member(part=own[0]),)
        else:
            choose = split_by_weight([1] * num_members, {})
            members = share_out(model, (start, stop), own, choose, {})
        made.append(Stage(start=start, stop=stop, members=members))
        start = stop
    return tuple(made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Of one deployment: how far its logits are from the unsplit model's, as a share of the
    largest; ids that differ and are no ties; bytes sent in excess of the plan's prediction, to
    members and to the next stage, of the part that is furthest off."""

    relative: float
    num_steps: int
    num_wrong_ids: int
    num_ties: int
    exchanged_bytes: int
    exchanged_bytes_off: int
    hop_bytes: int
    hop_bytes_off: int


def generate(
    net: partwise.Net, prompts: Sequence[Sequence[int]], num_tokens: int
) -> list[list[partwise.Token]]:
    """All prompts at once; for each its tokens with their logits."""
    running = [
        net.submit(
            partwise.Request(prompt_ids=tuple(prompt), max_tokens=num_tokens, wants_logits=True)
        )
        for prompt in prompts
    ]
    return [list(generation) for generation in running]


def run(setup: Setup, case: Case, references: Sequence[Reference], num_tokens: int) -> Found:
    """Deploy ``case`` as ``setup`` says, and compare it with what the unsplit model said."""
    model = open_model(case.path)
    made = plan(setup, model)
    scale = max(float(np.abs(reference.logits).max()) for reference in references)
    comparison = Comparison(
        model=setup.model, parts=len(made.parts), mode=str(setup), bound=setup.bound * scale
    )
    options = partwise.DeployOptions(threads=1)
    with partwise.deploy(case.path, plan=made, options=options) as net:
        comparison.add_all(references, generate(net, case.prompts, num_tokens))
        exchanged, hops = measure_bytes(net, model)
    return Found(
        relative=comparison.max_abs_difference / scale,
        num_steps=comparison.num_steps,
        num_wrong_ids=comparison.num_wrong_ids,
        num_ties=len(comparison.ties),
        exchanged_bytes=sum(sent for sent, _ in exchanged),
        exchanged_bytes_off=find_furthest(exchanged),
        hop_bytes=sum(sent for sent, _ in hops),
        hop_bytes_off=find_furthest(hops),
    )


Pairs = list[tuple[int, int]]
"""Of each part: bytes measured, and predicted."""


def find_furthest(pairs: Pairs) -> int:
    return max((measured - predicted for measured, predicted in pairs), key=abs)


def measure_bytes(net: partwise.Net, model: Model) -> tuple[Pairs, Pairs]:
    """What one stream sends to other members, and to the next stage."""
    names = [member.part for stage in net.plan.stages for member in stage.members]
    ways = [compile_routes(net.plan, model, name) for name in names]
    before = settle(net, [0] * len(ways))
    request = partwise.Request(prompt_ids=ALONE_PROMPT, max_tokens=ALONE_TOKENS)
    list(net.submit(request))
    calls = [
        stats.exchanged.calls + ALONE_TOKENS * len(way.exchanges)
        for stats, way in zip(before, ways, strict=True)
    ]
    after = settle(net, calls)
    reports = {report.name: report for report in report_parts(net.plan, model, after, before)}
    # A pass for the prompt, then one for each token but the last; one is picked after each.
    passes = [len(ALONE_PROMPT)] + [1] * (ALONE_TOKENS - 1)
    exchanged, hops = [], []
    for way in ways:
        found = reports[way.part]
        sent_bytes = found.exchange.sent_bytes if found.exchange else 0
        exchanged.append((sent_bytes, sum(way.exchanged_bytes(n, 1) for n in passes)))
        hop_bytes = sum(link.moved_bytes for link in found.links)
        hops.append((hop_bytes, sum(map(way.sent_hop_bytes, passes))))
    return exchanged, hops


def settle(net: partwise.Net, least_calls: Sequence[int]) -> list[Stats]:
    """The counters of all parts when each made its calls and none goes on: members other than the
    one that answers may be behind it."""
    stop_s = time.monotonic() + SETTLE_S
    last: list[int] = []
    while True:
        stats = net.counters()
        calls = [each.exchanged.calls for each in stats]
        is_done = all(made >= least for made, least in zip(calls, least_calls, strict=True))
        if is_done and calls == last:
            return stats
        assert time.monotonic() < stop_s, f"{calls} exchanges, {least_calls} were due"
        last = calls
        time.sleep(0.05)


def choose_cases(folder: Path) -> list[Case]:
    """Those of `oracle.py`, with a few prompts of each length."""
    cases = make_cases(folder, SMOLLM2, NUM_ORACLE_PROMPTS)
    return [
        replace(case, prompts=case.prompts[:: max(1, len(case.prompts) // NUM_PROMPTS)])
        for case in cases
    ]


def refer(setup: Setup, case: Case, num_tokens: int) -> list[Reference]:
    """What the unsplit model says: transformers, or of rounded weights one part."""
    if setup.precision == "fp32":
        return run_transformers(case, num_tokens)
    options = partwise.DeployOptions(threads=1, precision=setup.precision)
    with partwise.deploy(case.path, parts=1, options=options) as net:
        answers = generate(net, case.prompts, num_tokens)
    return [
        Reference(
            ids=tuple(token.token_id for token in answer),
            logits=np.stack([token.logits for token in answer if token.logits is not None]),
        )
        for answer in answers
    ]


def summarise(found: Mapping[Setup, Found]) -> dict[str, Any]:
    """The figures of the JSON line."""
    largest: dict[str, float] = {}
    for setup, one in found.items():
        largest[setup.precision] = max(largest.get(setup.precision, 0.0), one.relative)
    return {
        "num_deployments": len(found),
        "num_members_max": max(setup.split.num_servers for setup in found),
        **{f"{key}_relative_max": value for key, value in largest.items()},
        "num_wrong_ids": sum(one.num_wrong_ids for one in found.values()),
        "num_ties": sum(one.num_ties for one in found.values()),
        "exchanged_bytes_off": max((one.exchanged_bytes_off for one in found.values()), key=abs),
        "hop_bytes_off": max((one.hop_bytes_off for one in found.values()), key=abs),
    }


def render(found: Mapping[Setup, Found]) -> str:
    headers = ("deployed", "off by", "bound", "steps", "wrong ids", "ties", "exchanged bytes",
               "off by", "hop bytes", "off by")  # fmt: skip
    rows = [
        (
            str(setup), f"{one.relative:.1e}", f"{setup.bound:.1e}", one.num_steps,
            one.num_wrong_ids, one.num_ties, one.exchanged_bytes, one.exchanged_bytes_off,
            one.hop_bytes, one.hop_bytes_off,
        )
        for setup, one in found.items()
    ]  # fmt: skip
    return format_table(headers, rows)


def is_met(found: Mapping[Setup, Found]) -> bool:
    """Whether every deployment is within its bounds."""
    return all(
        one.relative <= setup.bound
        and one.num_steps > 0
        and (one.num_wrong_ids, one.exchanged_bytes_off, one.hop_bytes_off) == (0, 0, 0)
        for setup, one in found.items()
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS)
    parser.add_argument("--only", default="", help="deployments in whose name this stands")
    args = parser.parse_args()
    setups = [setup for setup in list_setups() if args.only in str(setup)]
    found: dict[Setup, Found] = {}
    known: dict[tuple[str, str], list[Reference]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = {case.name: case for case in choose_cases(Path(folder))}
        for setup in setups:
            start_s, key = time.monotonic(), (setup.model, setup.precision)
            case = cases[setup.model]
            if key not in known:
                known[key] = refer(setup, case, args.tokens)
            found[setup] = run(setup, case, known[key], args.tokens)
            print(f"{setup}: {time.monotonic() - start_s:.0f} s", file=sys.stderr)
    print(render(found))
    details = {str(setup): asdict(one) for setup, one in found.items()}
    report("members", summarise(found), details, is_default=has_defaults(parser, args))
    return int(not is_met(found))


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
