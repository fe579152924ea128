"""What issue 3/4 must show: fast compressed parts, and what compressing costs."""

from __future__ import annotations

from accept.judges import Bound, Figures, TestsPass, run_tests
from accept.line import Line

TEST_LIMIT_S = 300.0
ONNX = "tests/part/onnx/"
COMPRESS = "tests/cli/test_compress.py::test_"
BAD_PLAN = "tests/cli/test_plan_bad_input.py::test_"

SHOWN = (
    Line(
        id="3.01",
        text="int4 and int8 parts against onnxruntime-genai and against one part",
        command=("python", "bench/fast.py"),
        judge=Figures(
            bounds=(
                Bound("int4_over_genai", ">=", 0.95),
                Bound("int8_over_genai", ">=", 0.95),
                Bound("prefill_over_genai", ">=", 0.9),
                Bound("two_parts_one_stream", ">=", 0.93),
                Bound("two_parts_8_streams", ">=", 3.0),
                Bound("two_parts_16_streams", ">=", 3.5),
                Bound("two_parts_over_one_thread", ">=", 1.7),
                Bound("two_parts_over_two_threads", ">=", 0.95),
            ),
            results="fast",
        ),
        limit_s=1200.0,
        is_performance=True,
    ),
    Line(
        id="3.02",
        text="fp32 through ONNX: logits and ids of transformers, every covered family",
        command=run_tests(ONNX + "test_runner.py"),
        judge=TestsPass(min_tests=36),
        limit_s=TEST_LIMIT_S,
    ),
    Line(
        id="3.03",
        text="the same test fails when the graph is broken",
        command=run_tests(ONNX + "test_mutations.py"),
        judge=TestsPass(min_tests=10),
        limit_s=TEST_LIMIT_S,
    ),
    Line(
        id="3.04",
        text="perplexity of int8, and of int4 against onnxruntime-genai's",
        command=("python", "bench/accuracy.py"),
        judge=Figures(
            bounds=(
                Bound("int8_perplexity_change", "<=", 0.005),
                Bound("int8_part_perplexity_change_size", "<=", 0.005),
                Bound("int4_rtn_over_genai", "<=", 1.0),
                Bound("int4_part_over_genai", "<=", 1.0),
                Bound("int4_grid_perplexity_change", "<=", 1e-6),
                Bound("half_of_mlp_perplexity_change", ">=", 0.0),
            ),
            results="accuracy",
        ),
        limit_s=1500.0,
    ),
    Line(
        id="3.05",
        text="int8 links: perplexity, bytes, tokens/s over 100 Mbit/s",
        command=("python", "bench/link_codecs.py"),
        judge=Figures(
            bounds=(
                Bound("change_2_parts_int8", "<=", 0.002),
                Bound("change_2_parts_int8", ">=", -0.002),
                Bound("change_3_parts_int8", "<=", 0.002),
                Bound("change_3_parts_int8", ">=", -0.002),
                Bound("bytes_ratio_2_parts_int8", "<=", 0.27),
                Bound("bytes_ratio_3_parts_int8", "<=", 0.27),
                Bound("streams", "==", 16),
                Bound("mbit_per_s", "==", 100.0),
                Bound("wide_chosen", "==", "int8"),
                Bound("wide_over_fp32", ">=", 1.5),
            ),
            results="link_codecs",
        ),
        limit_s=1800.0,
        is_performance=True,
    ),
    Line(
        id="3.06",
        text="int4 servers: resident memory beside share and KV; a second start",
        command=("python", "bench/int4_server.py"),
        judge=Figures(
            bounds=(
                Bound("beside_bytes_max", "<=", 150e6),
                Bound("beside_bytes_max_building", "<=", 150e6),
                Bound("second_start_s", "<", 5.0),
            ),
            results="int4_server",
        ),
        limit_s=600.0,
        is_performance=True,
    ),
    Line(
        id="3.07",
        text="what it is worth that a part stays in cache, beside the cost model",
        command=("python", "bench/cache_fit.py"),
        judge=Figures(
            bounds=(
                Bound("fp32_gain_least_fitting", ">=", 1.1),
                Bound("fp32_gain_error_fitting", "<=", 0.25),
                Bound("computing_gain", "<=", 1.1),
                Bound("computing_gain_error", "<=", 0.25),
                Bound("computing_is_bound_by_it", "==", 1),
            ),
            results="cache_fit",
        ),
        limit_s=1200.0,
        is_performance=True,
    ),
)

REFUSED = (
    (
        "3.20",
        "a precision that the operators lack",
        10,
        (
            "tests/distributor/test_runners.py",
            BAD_PLAN + "a_precision_that_no_runner_has_is_named_with_those_there_are",
            BAD_PLAN + "int4_is_refused_for_a_family_without_its_operators",
        ),
    ),
    (
        "3.21",
        "a block that does not divide, sparsity out of range",
        4,
        (
            COMPRESS + "bad_input_is_one_line_and_writes_nothing",
            "tests/compress/test_blocks.py::test_a_block_that_does_not_suit_is_named_with_those_that_do",
        ),
    ),
    (
        "3.22",
        "a calibration text that is too short",
        2,
        (
            COMPRESS + "a_calibration_text_that_is_too_short_is_refused",
            "tests/compress/test_text.py",
        ),
    ),
    (
        "3.23",
        "a cached graph with a wrong digest, a full disk while building",
        2,
        (
            ONNX + "test_cache.py::test_a_wrong_digest_is_built_again_and_said",
            ONNX + "test_cache.py::test_a_full_disk_is_one_line_and_leaves_the_old_graph",
        ),
    ),
)
"""Id, what is refused, how many tests there are at least, and their names."""

LINES = (
    *SHOWN,
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
