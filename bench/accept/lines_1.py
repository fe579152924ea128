"""What issue 1/4 must show: a real language model runs in parts."""

from __future__ import annotations

from accept.judges import Bound, Figures, Succeeds, TestsPass, run_tests
from accept.line import Line

BAD_INPUT = "tests/scenarios/test_bad_input.py::test_"
TEST_LIMIT_S = 300.0

SHOWN = (
    Line(
        id="1.01",
        text="make demo on a fresh clone: Paris, 3 part servers, transformers' ids",
        command=("python", "bench/accept/fresh_clone.py"),
        judge=Figures(
            bounds=(
                Bound("says_paris", "==", True),
                Bound("num_parts", "==", 3),
                Bound("num_parts_shown", "==", 3),
                Bound("ids_equal", "==", True),
                Bound("is_set_up_once", "==", True),
            )
        ),
        limit_s=1200.0,
        is_fresh_clone=True,
    ),
    Line(
        id="1.02",
        text="warm, partwise generate reaches its first token",
        command=("python", "bench/first_token.py"),
        judge=Figures(bounds=(Bound("first_token_s", "<", 9.0),), results="first_token"),
        limit_s=300.0,
        is_performance=True,
    ),
    Line(
        id="1.03",
        text="logits and ids of transformers on 1, 2, 3, 5 parts; deterministic: same bits",
        command=("python", "bench/oracle.py"),
        judge=Figures(
            bounds=(
                Bound("prompts", "==", 20),
                Bound("tokens", "==", 64),
                Bound("parts", "==", [1, 2, 3, 5]),
                Bound("max_abs_difference", "<=", 1e-4),
                Bound("onnx_max_abs_difference", "<=", 1e-3),
                Bound("ids_identical", "==", True),
                Bound("bit_equal_parts", "==", [1, 2, 3, 5]),
            ),
            results="oracle",
        ),
        limit_s=2400.0,
    ),
    Line(
        id="1.04",
        text="the same test fails when the model is broken",
        command=run_tests("tests/scenarios/test_mutations.py"),
        judge=TestsPass(min_tests=14),
        limit_s=TEST_LIMIT_S,
    ),
    Line(
        id="1.05",
        text="two network namespaces: 2 servers, one answer",
        command=run_tests("tests/scenarios/test_two_hosts.py"),
        judge=TestsPass(),
        limit_s=TEST_LIMIT_S,
    ),
    Line(
        id="1.06",
        text="a hop against a raw socket",
        command=("python", "bench/hop.py"),
        judge=Figures(
            bounds=(Bound("added_us_4k", "<=", 50), Bound("added_ratio_256k", "<=", 0.5)),
            results="hop",
        ),
        limit_s=300.0,
        is_performance=True,
    ),
    Line(
        id="1.07",
        text="a ring of 4 passing 32 MiB both ways does not stall",
        command=run_tests("tests/remote/test_ring.py"),
        judge=TestsPass(),
        limit_s=TEST_LIMIT_S,
    ),
    Line(
        id="1.08",
        text="decode speed of parts",
        command=("python", "bench/decode.py"),
        judge=Figures(
            bounds=(
                Bound("two_parts_one_stream", ">=", 0.93),
                Bound("two_parts_four_streams", ">=", 1.7),
                Bound("two_parts_over_two_threads", ">=", 0.9),
                Bound("one_part_over_transformers", ">=", 1.0),
            ),
            results="decode",
        ),
        limit_s=900.0,
        is_performance=True,
    ),
    Line(
        id="1.09",
        text="memory of each server over its share",
        command=("python", "bench/memory.py"),
        judge=Figures(bounds=(Bound("worst_ratio", "<=", 1.1),), results="memory"),
        limit_s=300.0,
    ),
    Line(
        id="1.10",
        text="1,000 random (model, N) pairs tile exactly",
        command=run_tests("tests/distributor/test_tiling.py"),
        judge=TestsPass(),
        limit_s=TEST_LIMIT_S,
    ),
)

BUILT = (
    Line(
        id="1.11",
        text="partwise --help and --version",
        command=("python", "bench/accept/start_times.py"),
        judge=Figures(bounds=(Bound("help_s", "<", 0.5), Bound("version_s", "<", 0.5))),
        limit_s=60.0,
        is_performance=True,
    ),
    Line(
        id="1.12",
        text="headers of 405B parameters are described in a second",
        command=run_tests(
            "tests/model/test_open_model.py::test_405_billion_parameters_are_described_in_a_second"
        ),
        judge=TestsPass(),
        limit_s=TEST_LIMIT_S,
        is_performance=True,
    ),
    Line(
        id="1.13",
        text="a second set-up does nothing",
        command=("make", "-q", "setup", "model"),
        judge=Succeeds(bound="nothing is out of date"),
        limit_s=60.0,
    ),
    Line(
        id="1.14",
        text="no orphan after Ctrl-C, kill, kill -9; a dead server's last line",
        command=run_tests("tests/scenarios/test_orphans.py"),
        judge=TestsPass(min_tests=6),
        limit_s=TEST_LIMIT_S,
    ),
)

REFUSED = (
    ("1.20", "a missing shard", 1, ("a_missing_shard_is_named",)),
    ("1.21", "a truncated shard", 1, ("a_truncated_shard_is_named",)),
    ("1.22", "an unknown architecture", 1, ("an_unknown_architecture_is_named",)),
    ("1.23", "more parts than layers", 1, ("more_parts_than_layers_are_refused",)),
    ("1.24", "a prompt over the context", 1, ("a_prompt_longer_than_the_context_is_refused",)),
    (
        "1.25",
        "an empty prompt",
        3,
        ("an_empty_prompt_is_refused", "an_empty_prompt_on_stdin_is_refused"),
    ),
    ("1.26", "a plan for another model", 1, ("a_plan_for_another_model_is_refused",)),
    ("1.27", "a plan with a gap, an overlap", 2, ("a_plan_with_a_gap_or_an_overlap_is_refused",)),
    ("1.28", "a plan with an unknown server", 1, ("a_plan_with_an_unknown_server_is_refused",)),
    ("1.29", "a port in use", 1, ("a_port_in_use_is_named",)),
    (
        "1.30",
        "a server that does not answer",
        2,
        ("a_server_that_does_not_answer_is_named", "a_server_that_nobody_started_is_named"),
    ),
    ("1.31", "a wrong token", 1, ("a_wrong_token_is_refused",)),
    ("1.32", "NaN logits", 1, ("logits_that_are_not_numbers_stop_and_name_the_part",)),
)
"""Id, what is refused, how many tests there are at least, and their names."""

LINES = (
    *SHOWN,
    *BUILT,
    *(
        Line(
            id=line_id,
            text=f"bad input: {text}",
            command=run_tests(*(BAD_INPUT + name for name in names)),
            judge=TestsPass(min_tests=min_tests),
            limit_s=TEST_LIMIT_S,
        )
        for line_id, text, min_tests, names in REFUSED
    ),
)
