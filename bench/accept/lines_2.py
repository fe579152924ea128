"""What issue 2/4 must show: the servers are measured, the model is cut, and the plan is true."""

from __future__ import annotations

from accept.judges import Bound, Figures, Succeeds, TestsPass, run_tests
from accept.line import Line

TEST_LIMIT_S = 300.0
PLAN = "tests/cli/test_plan_bad_input.py::test_"
NEURONS = "tests/distributor/test_neuron_strategies.py::test_"
PROBE = "tests/cli/test_probe.py::test_"
FIGURES = "tests/probe/test_figures.py::test_"

SHOWN = (
    Line(
        id="2.01",
        text="plans against exact solvers, in time, and as predicted",
        command=("python", "bench/plan.py"),
        judge=Figures(
            bounds=(
                Bound("balanced_optimal", "==", 1.0),
                Bound("greedy_fewest", "==", 1.0),
                Bound("gap_medium", ">=", 0.0),
                Bound("seconds_1000x128", "<", 0.2),
                Bound("seconds_100000x1000", "<", 10.0),
                Bound("seconds_auto_405b", "<", 5.0),
                Bound("seconds_cubic_200x25", ">=", 0.0),
                Bound("connectivity_saving", ">=", 5.0),
                Bound("prediction_error_median", "<=", 0.15),
                Bound("prediction_error_p90", "<=", 0.30),
            ),
            results="plan",
        ),
        limit_s=2700.0,
        is_performance=True,
    ),
    Line(
        id="2.02",
        text="every strategy on 1,000 random problems: a verified plan, or what is missing",
        command=run_tests("tests/distributor/test_strategies.py"),
        judge=TestsPass(min_tests=2),
        limit_s=TEST_LIMIT_S,
    ),
    Line(
        id="2.03",
        text="counts and percentages exactly as asked",
        command=run_tests(
            NEURONS + "random_shares_are_exactly_those_asked",
            NEURONS + "count_shares_each_kind_evenly_over_all_layers",
            NEURONS + "percentages_are_met_exactly_where_neurons_divide",
        ),
        judge=TestsPass(min_tests=3),
        limit_s=TEST_LIMIT_S,
    ),
    Line(
        id="2.04",
        text="connectivity against count on shuffled blocks",
        command=run_tests("tests/distributor/test_connectivity.py"),
        judge=TestsPass(min_tests=10),
        limit_s=TEST_LIMIT_S,
    ),
)

BUILT = (
    Line(
        id="2.05",
        text="partwise probe: seconds, cache steps, rates",
        command=("python", "bench/accept/probe_figures.py"),
        judge=Figures(
            bounds=(
                Bound("probe_s", "<", 30.0),
                Bound("one_core_cache_step", ">=", 1.5),
                Bound("all_cores_cache_step", ">=", 1.5),
                Bound("own_cache_step", ">=", 1.5),
                Bound("has_rows", "==", True),
                Bound("has_overheads", "==", True),
                Bound("has_disk", "==", True),
            )
        ),
        limit_s=180.0,
        is_performance=True,
    ),
    Line(
        id="2.06",
        text="footprints against what servers allocate",
        command=("python", "bench/footprint.py"),
        judge=Figures(bounds=(Bound("footprint_error_max", "<=", 0.10),), results="footprint"),
        limit_s=600.0,
    ),
    Line(
        id="2.07",
        text="planning is pure",
        command=("lint-imports",),
        judge=Succeeds(bound="contracts are kept"),
        limit_s=120.0,
    ),
    Line(
        id="2.08",
        text="the layer-wise seed's table: the page says what the model says",
        command=run_tests("tests/bench/test_layerwise_seed.py"),
        judge=TestsPass(min_tests=3),
        limit_s=TEST_LIMIT_S,
    ),
    Line(
        id="2.09",
        text="plan: table, picture, SVG, JSON, comparison and verdict, streams",
        command=run_tests("tests/cli/test_plan_cluster.py"),
        judge=TestsPass(min_tests=15),
        limit_s=TEST_LIMIT_S,
    ),
)

REFUSED = (
    (
        "2.20",
        "a missing unit, a negative number",
        4,
        (PLAN + "a_cluster_file_that_describes_none_is_refused",),
    ),
    (
        "2.21",
        "a duplicate server, a server on an unknown host",
        2,
        (
            "tests/cluster/test_toml_file.py::test_a_server_given_twice_is_refused",
            "tests/cluster/test_description.py::test_a_server_on_an_unknown_host_is_refused",
        ),
    ),
    (
        "2.22",
        "percentages that do not add up",
        2,
        (NEURONS + "percentages_that_mean_nothing_are_refused",),
    ),
    (
        "2.23",
        "ids out of range or claimed twice",
        2,
        (NEURONS + "ids_that_do_not_own_each_neuron_once_are_refused",),
    ),
    (
        "2.24",
        "a strategy that does not fit the model",
        10,
        (PLAN + "a_strategy_that_cannot_do_what_is_asked_says_why",),
    ),
    (
        "2.25",
        "a probe on a loaded machine says so, with the spread",
        3,
        (
            PROBE + "a_busy_machine_is_told_so_and_what_to_do",
            FIGURES + "a_busy_machine_is_told_by_whom_it_shares_with_and_by_how_figures_scatter",
            "tests/scenarios/test_probe.py",
        ),
    ),
)
"""Id, what is refused, how many tests there are at least, and their names."""

LINES = (
    *SHOWN,
    *BUILT,
    *(
        Line(
            id=line_id,
            text=f"bad input: {text}",
            command=run_tests(*names),
            judge=TestsPass(min_tests=min_tests),
            limit_s=TEST_LIMIT_S,
        )
        for line_id, text, min_tests, names in REFUSED
    ),
)
