"""What issue 4/4 must show: neurons on several servers, and any PyTorch network."""

from __future__ import annotations

from accept.judges import Bound, Figures, TestsPass, run_tests
from accept.line import Line

TEST_LIMIT_S = 600.0
MODULE = "tests/part/module/test_"
TORCH = "tests/part/torch/test_"
ONNX = "tests/part/onnx/test_members.py::test_"
SCENARIO = "tests/scenarios/test_neurons.py::test_"
SHARED_STAGES = "tests/engine/test_shared_stages.py::test_"
STRATEGIES = "tests/distributor/test_neuron_strategies.py::test_"

BENCHES = (
    Line(
        id="4.01",
        text="real processes: SmolLM2 by 2 to 5 members, int8, int4, a mixture, mixed plans; bytes",
        command=("python", "bench/members.py"),
        judge=Figures(
            bounds=(
                Bound("num_deployments", ">=", 25),
                Bound("num_members_max", ">=", 4),
                Bound("fp32_relative_max", "<=", 1e-4),
                Bound("int8_relative_max", "<=", 0.05),
                Bound("int4_relative_max", "<=", 0.05),
                Bound("num_wrong_ids", "==", 0),
                Bound("exchanged_bytes_off", "==", 0),
                Bound("hop_bytes_off", "==", 0),
            ),
            results="members",
        ),
        limit_s=2400.0,
    ),
    Line(
        id="4.02",
        text="SmolLM2 in int8 and int4 by granules: inputs in fp32, and as deployed",
        command=("python", "bench/members_rounded.py"),
        judge=Figures(
            bounds=(
                Bound("num_members_max", ">=", 3),
                Bound("int8_relative_max", "<=", 1e-4),
                Bound("int4_relative_max", "<=", 1e-4),
                Bound("num_wrong_ids", "==", 0),
                Bound("int8_deployed_over_last_bit", "<=", 2.0),
                Bound("int4_deployed_over_last_bit", "<=", 2.0),
            ),
            results="members_rounded",
        ),
        limit_s=1800.0,
    ),
    Line(
        id="4.03",
        text="a 1B llama and SmolLM2: 2 members against 1 part, predicted and measured",
        command=("python", "bench/neurons.py"),
        judge=Figures(
            bounds=(
                Bound("int8_members_over_one_part", ">=", 1.5),
                Bound("int4_members_over_one_part", ">=", 1.5),
                Bound("int8_members_over_two_threads", ">=", 0.85),
                Bound("int4_members_over_two_threads", ">=", 0.85),
                Bound("prediction_error_max", "<=", 0.15),
                Bound("exchange_us", "<", float("inf")),
                Bound("smollm2_num_verdicts", ">=", 9),
                Bound("smollm2_wrong_verdicts", "==", []),
            ),
            results="neurons",
        ),
        limit_s=2400.0,
        is_performance=True,
    ),
    Line(
        id="4.04",
        text="routes of a part of 405B over 128 servers; a new plan for 128 subscribers",
        command=("python", "bench/registry.py"),
        judge=Figures(
            bounds=(
                Bound("routes_128_stages_s", "<", 1.0),
                Bound("routes_16_stages_s", "<", 1.0),
                Bound("prepare_128_stages_p99_ms", "<", 200),
                Bound("switch_128_stages_p99_ms", "<", 200),
                Bound("switch_16_stages_p99_ms", "<", 200),
            ),
            results="registry",
        ),
        limit_s=900.0,
        is_performance=True,
    ),
    Line(
        id="4.05",
        text="frames of 3 members, 8 microbatches in flight: 10,000 schedules of random delays",
        command=("python", "bench/schedules.py"),
        judge=Figures(
            bounds=(
                Bound("num_schedules", "==", 10_000),
                Bound("members", "==", 3),
                Bound("microbatches_in_flight", "==", 8),
                Bound("num_wrong", "==", 0),
            ),
            results="schedules",
        ),
        limit_s=1800.0,
    ),
    Line(
        id="4.06",
        text="the block-sparse chain over 8 servers: bytes pushed, beside the predicted cut",
        command=("python", "bench/sparse_module.py"),
        judge=Figures(
            bounds=(
                Bound("num_servers", "==", 8),
                Bound("bytes_off", "==", 0),
                Bound("saved_8_times", ">=", 5),
                Bound("error_max", "<=", 1e-5),
            ),
            results="sparse_module",
        ),
        limit_s=300.0,
    ),
    Line(
        id="4.07",
        text="experiment 1: one server, layers, neurons over bandwidths and delays",
        command=("python", "bench/experiments/latency.py"),
        judge=Figures(
            bounds=(Bound("num_conditions", ">=", 48),),
            results="latency",
        ),
        limit_s=7200.0,
        is_performance=True,
    ),
)

SHOWN = (
    (
        "4.08",
        "every splittable family by torch: any shares, all members the same bits",
        100,
        (
            TORCH + "neurons.py",
            TORCH + "vocabulary.py",
            TORCH + "halves.py",
            TORCH + "picks.py",
        ),
    ),
    (
        "4.09",
        "every covered family by ONNX, int8 and int4 by granules, all members the same bits",
        45,
        (
            ONNX + "every_family_is_computed_in_shares",
            ONNX + "shares_of_all_kinds_add_up",
            ONNX + "rounded_shares_are_as_the_rounded_whole",
            ONNX + "rounded_shares_add_up_where_inputs_are_not_rounded",
            ONNX + "they_say_what_transformers_says",
            ONNX + "a_stage_of_members_stands_between_others",
            ONNX + "a_member_may_own_nothing_of_its_stage",
            ONNX + "caches_grow_and_sequences_come_and_go",
            "tests/part/onnx/test_pieces.py",
        ),
    ),
    (
        "4.10",
        "mixtures by experts",
        35,
        (TORCH + "expert_members.py", TORCH + "experts.py"),
    ),
    (
        "4.11",
        "members over servers: mixed plans, 4 members, the same bits, bytes as predicted",
        16,
        ("tests/scenarios/test_neurons.py",),
    ),
    (
        "4.12",
        "sums of 2 pairwise, of more in one order: the same bits, bytes as routes predict",
        20,
        (
            "tests/part/test_members.py::test_every_member_holds_the_bits_of_the_sum_in_the_order_of_the_plan",
            "tests/part/test_members.py::test_large_partials_that_all_send_at_once_do_not_stall",
            "tests/part/test_members.py::test_what_is_counted_is_what_routes_predict",
            "tests/registry/test_routes.py",
        ),
    ),
    (
        "4.13",
        "the mutations of 1/4, swapped shares and other broken members are caught",
        60,
        (
            "tests/scenarios/test_mutations.py",
            TORCH + "neuron_mutations.py",
            TORCH + "expert_members.py::test_a_mutation_is_seen",
            ONNX + "swapped_shares_are_caught",
            ONNX + "the_comparison_fails_when_members_are_broken",
        ),
    ),
    (
        "4.14",
        "every strategy's plan runs, of models and of modules",
        28,
        (
            "tests/scenarios/test_strategies_run.py",
            MODULE + "runner.py::test_the_plan_of_every_strategy_runs",
        ),
    ),
    (
        "4.15",
        "modules by real servers: MLP and CNN on digits, ResNet, GPT-2, ViT, LSTM",
        5,
        ("tests/scenarios/test_modules.py",),
    ),
    (
        "4.16",
        "modules layer-wise: the same bits; by neurons: 1e-5; bytes as predicted",
        30,
        (
            MODULE + "runner.py::test_layers_in_parts_give_the_bits_of_the_module",
            MODULE + "runner.py::test_neurons_in_parts_give_the_values_of_the_module",
            MODULE
            + "runner.py::test_a_stage_of_neurons_between_layers_gives_the_values_of_the_module",
            MODULE + "runner.py::test_results_follow_the_weights_of_every_layer",
            MODULE + "runner.py::test_on_sparse_blocks_the_bytes_are_those_of_the_predicted_cut",
            MODULE + "server.py::test_servers_joined_in_memory_give_the_bits_of_the_module",
            MODULE + "server.py::test_what_servers_push_is_what_the_plan_predicts",
            MODULE + "server.py::test_on_sparse_blocks_servers_push_the_bytes_of_the_predicted_cut",
        ),
    ),
    (
        "4.17",
        "1,000 cases of any neurons at any owners on random MLPs",
        1,
        (MODULE + "runner.py::test_any_neurons_at_any_owners_give_the_values_of_the_module",),
    ),
    (
        "4.18",
        "the registry: every neuron's owner; one plan_version a step at all parts; locate",
        60,
        (
            "tests/registry",
            "tests/cli/test_locate.py",
            "tests/engine/test_replan.py",
            "tests/scenarios/test_replan.py",
        ),
    ),
    (
        "4.19",
        "frames under schedules: 10,000 of events, servers over delayed links and TCP",
        14,
        (
            "tests/part/test_member_schedules.py",
            SHARED_STAGES
            + "eight_microbatches_in_flight_stay_whole_and_ordered_under_random_delays",
            SHARED_STAGES + "the_same_over_tcp",
        ),
    ),
)
"""Id, what is shown, how many tests there are at least, and their names."""

REFUSED = (
    (
        "4.20",
        "ids out of range, claimed twice, of nobody",
        20,
        (
            STRATEGIES + "ids_that_do_not_own_each_neuron_once_are_refused",
            "tests/distributor/test_verify_neurons.py::test_shares_that_contradict_each_other_are_refused",
        ),
    ),
    (
        "4.21",
        "ids off the granule, with the nearest that fit",
        3,
        (
            ONNX + "a_cut_within_a_block_names_the_nearest_that_fits",
            "tests/distributor/test_verify_neurons.py::test_a_rounded_part_owns_whole_blocks_whatever_its_shares_say",
        ),
    ),
    (
        "4.22",
        "more members than granules",
        3,
        (
            STRATEGIES + "more_servers_than_kv_groups_are_infeasible",
            STRATEGIES + "granules_stay_together",
            "tests/distributor/test_shares.py::test_more_members_than_granules_names_both_numbers",
        ),
    ),
    (
        "4.23",
        "a module that cannot be captured: the line, the reason, what to do",
        6,
        (
            "tests/capture/test_capturing.py::test_a_module_that_cannot_be_captured_is_told_the_line_the_reason_and_what_to_do",
            "tests/capture/test_capturing.py::test_a_change_that_another_view_sees_is_refused_with_its_line",
            "tests/capture/test_capturing.py::test_a_module_that_remembers_its_calls_is_not_taken_for_another",
            "tests/capture/test_capturing.py::test_a_module_in_training_mode_is_refused",
        ),
    ),
    (
        "4.24",
        "members with different versions",
        2,
        (
            SHARED_STAGES + "a_member_of_another_plan_version_is_refused_with_both_numbers",
            MODULE + "server.py::test_a_frame_of_another_plan_version_is_not_computed",
        ),
    ),
    (
        "4.25",
        "a member that answers late, named within its deadline",
        8,
        (
            SHARED_STAGES + "a_late_member_is_named_whoever_waits_for_it",
            SHARED_STAGES + "a_member_that_waits_too_long_says_so_itself",
            "tests/part/test_members.py::test_a_member_that_is_late_is_named_with_step_exchange_and_plan_version",
            "tests/part/test_members.py::test_a_member_that_takes_nothing_of_what_it_is_sent_is_late_too",
            MODULE + "server.py::test_a_part_that_answers_late_is_named_with_its_step",
            MODULE + "server.py::test_a_member_that_waits_in_vain_names_who_owes_it",
        ),
    ),
)
"""Id, what is refused, how many tests there are at least, and their names."""


def _test(line_id: str, text: str, min_tests: int, names: tuple[str, ...]) -> Line:
    return Line(
        id=line_id,
        text=text,
        command=run_tests(*names),
        judge=TestsPass(min_tests=min_tests),
        limit_s=TEST_LIMIT_S,
    )


LINES = (
    *BENCHES,
    *(_test(*line) for line in SHOWN),
    *(
        _test(line_id, f"bad input: {text}", min_tests, names)
        for line_id, text, min_tests, names in REFUSED
    ),
)
