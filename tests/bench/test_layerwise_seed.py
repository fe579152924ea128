"""The layer-wise seed's tables, against figures worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import harness
from experiments import layerwise_seed
from experiments.layerwise import picks
from experiments.layerwise.claims import Arithmetic, measure_bits
from experiments.layerwise.memory import (
    MODELS,
    count_devices,
    find_block,
    measure_step,
    tabulate_answers,
)
from experiments.layerwise.residency import measure_layer, measure_on_one, shrink
from experiments.layerwise.scaling import measure_layer_wise
from experiments.layerwise.sensitivity import list_cases
from experiments.layerwise.speed import (
    BASELINE,
    GRIDS,
    LAYER_WISE,
    compare_seed,
    find_ratios,
    halve,
    measure_copies,
    measure_grid,
    measure_one,
)
from experiments.layerwise.world import (
    FULL,
    HALVED,
    NETWORKS,
    NVLINK_BOXES,
    SLOW_LINKS,
    SMALLER,
    STEPS,
    Step,
    describe_claimed,
    describe_gated,
    join_cards,
    name_layout,
    name_plan,
    open_cluster,
    plan_grid,
    pose,
)
from experiments.page import PAGES, Table, fill_page, round_figure
from partwise.cluster import Cluster

MB = 1_000_000
HIDDEN, UNITS, HEADS, HEAD_DIM, ROWS = 4096, 16384, 32, 128, 64
ATTENTION = 4 * HIDDEN * HIDDEN
GATED = ATTENTION + 3 * HIDDEN * UNITS + 2 * HIDDEN
"""With two RMS norms."""
PLAIN = ATTENTION + 2 * HIDDEN * UNITS + 9 * HIDDEN + UNITS
"""With two layer norms, and biases of q, k, v, out, of the units and of the output."""
HALVED_GATED = ATTENTION + 3 * HIDDEN * UNITS // 2 + 2 * HIDDEN
PAST_BYTES = 2 * HIDDEN * 4 * 128 // 2
"""K and V in fp32 of half of 128 tokens."""
WAY_S, CALL_S, MEMORY_BYTES_PER_S, LINK_BYTES_PER_S = 5e-6, 5e-6, 2.0e12, 50e9


@pytest.mark.parametrize(("name", "elements"), [("gated", GATED), ("two matrices", PLAIN)])
def test_the_layer_has_the_parameters_of_the_seed_s_dimensions(name: str, elements: int) -> None:
    model = MODELS[name](16)
    blocks = [layer for layer in model.layers if layer.kind == "block"]
    assert [layer.num_elements for layer in blocks] == [elements] * 16


def test_the_steps_leave_the_weights_that_arithmetic_leaves() -> None:
    model = describe_gated(1)
    found = [measure_step(model, step, is_training=False) for step in STEPS]
    assert [f.weight_bytes for f in found] == [2 * GATED, GATED, *[HALVED_GATED] * 3]
    assert [f.kv_bytes for f in found] == [2 * PAST_BYTES] * 5
    assert found[4].buffer_bytes == round(0.2 * found[3].buffer_bytes)
    assert (found[0].weight_bytes // MB, found[2].weight_bytes // MB) == (536, 167)


def test_checkpointing_drops_what_training_saves_and_computes_it_again() -> None:
    model = describe_gated(1)
    kept, dropped = (measure_step(model, step, is_training=True) for step in STEPS[2:4])
    assert dropped.saved_activation_bytes == 128 * HIDDEN * 4
    assert dropped.saved_activation_bytes < 0.1 * kept.saved_activation_bytes
    # A card that holds one layer has to hold what it computes again: nothing is gained.
    assert dropped.total_bytes == kept.total_bytes


def can_hold(num_members: int, step: Step, cache_bytes: float) -> bool:
    """Whether members with heads as even as can be have room for all units of a layer."""
    element_bytes = {"fp16": 2.0, "int8": 1.0, "int4": 0.5625}[step.precision]
    rows = math.ceil(ROWS / num_members) * HIDDEN * element_bytes
    head_bytes = 4 * HEAD_DIM * HIDDEN * element_bytes + PAST_BYTES / HEADS
    kept = 1 - step.mlp_sparsity
    room = 0.0
    for i in range(num_members):
        heads = HEADS // num_members + (i < HEADS % num_members)
        left = cache_bytes - 3 * HIDDEN * element_bytes - rows - heads * head_bytes
        if left < 0:
            return False
        room += left // (3 * HIDDEN * element_bytes) / kept
    return room >= UNITS


@pytest.mark.parametrize("cache_mb", [50, 32])
@pytest.mark.parametrize("step", [*STEPS[:3], *SMALLER], ids=lambda step: step.name)
def test_the_planner_finds_the_fewest_devices_that_hold_a_layer(step: Step, cache_mb: int) -> None:
    expected = next(n for n in range(1, 33) if can_hold(n, step, cache_mb * MB))
    assert count_devices(describe_gated(1), step, cache_mb) == expected


def test_one_layer_needs_four_devices_of_50_mb_and_six_of_32() -> None:
    assert [count_devices(describe_gated(1), HALVED, mb) for mb in (50, 32)] == [4, 6]


def layer_s() -> float:
    """One layer read from memory by one row, with its past."""
    return (HALVED_GATED + PAST_BYTES) / MEMORY_BYTES_PER_S


ENDS_S = (ROWS * HIDDEN + 2 * HIDDEN) / MEMORY_BYTES_PER_S
"""The head of 64 rows, the last norm, a row of the table."""


def test_one_card_reads_all_layers_from_its_memory() -> None:
    found = measure_one(describe_gated(), open_cluster(32), halve(1))
    assert found.token_ms == pytest.approx(1e3 * (16 * layer_s() + ENDS_S + CALL_S), rel=1e-6)
    assert found.token_joules == pytest.approx(350 * found.token_ms / 1e3)


def test_layer_wise_adds_a_call_a_layer_and_fifteen_hops() -> None:
    found = measure_grid(describe_gated(), open_cluster(50), halve(1), (16, 1))
    hops_s = 15 * (WAY_S + 4 * HIDDEN / LINK_BYTES_PER_S)
    back_s = WAY_S + 8 / LINK_BYTES_PER_S
    expected_s = 16 * (layer_s() + CALL_S) + ENDS_S + hops_s + back_s
    assert found.token_ms == pytest.approx(1e3 * expected_s, rel=1e-6)
    assert found.token_joules == pytest.approx(16 * 350 * found.token_ms / 1e3)


@pytest.mark.parametrize(
    ("network", "way_s", "link"), [(SLOW_LINKS, WAY_S, 50e9), (NVLINK_BOXES, 2e-6, 450e9)]
)
def test_the_baseline_reads_an_eighth_and_sums_twice_a_layer(
    network: str, way_s: float, link: float
) -> None:
    found = measure_grid(describe_gated(), open_cluster(50, network), halve(1), (2, 8))
    norms_s = 7 / 8 * 33 * HIDDEN / MEMORY_BYTES_PER_S
    """Every member reads the norms of its layers whole."""
    messages_s = 7 * CALL_S / 5
    """A member sends to each other one, each time a fifth of what starting a graph takes."""
    sum_s = 2 * (way_s + messages_s + 4 * HIDDEN * 7 / 8 / link)
    pick_s = way_s + messages_s + 7 * 8 / link
    hop_s = WAY_S + 4 * HIDDEN / LINK_BYTES_PER_S
    back_s = WAY_S + 8 / LINK_BYTES_PER_S
    # The table's rows are shared too: one more sum.
    expected_s = (16 * layer_s() + ENDS_S) / 8 + norms_s + 2 * CALL_S + 33 * sum_s + pick_s
    assert found.token_ms == pytest.approx(1e3 * (expected_s + hop_s + back_s), rel=1e-3)


def test_copies_serve_as_many_times_the_streams_at_one_card_s_pace() -> None:
    one = measure_one(describe_gated(), open_cluster(32), halve(4))
    copies = measure_copies(describe_gated(), open_cluster(32), halve, 64)
    assert copies.tokens_per_s == pytest.approx(16 * one.tokens_per_s)
    assert copies.token_ms == pytest.approx(one.token_ms)
    assert copies.token_joules == pytest.approx(one.token_joules)
    # Three streams leave 13 cards without work, and off.
    few = measure_copies(describe_gated(), open_cluster(32), halve, 3)
    alone = measure_one(describe_gated(), open_cluster(32), halve(1))
    assert few.token_joules == pytest.approx(alone.token_joules)


def test_a_layer_of_the_claimed_size_is_read_from_l2_if_50_mb_are_fast() -> None:
    model = describe_claimed()
    elements = model.layers[find_block(model)].num_elements
    assert elements / MB == pytest.approx(49.5, abs=0.05)
    num_bytes = elements + 2 * 2048 * 4 * 8
    claimed, measured = (measure_layer(model, shrink(1), mb, 1, SLOW_LINKS) for mb in (50, 32))
    assert claimed.compute_us == pytest.approx(num_bytes / 6.9e6 + 5, rel=1e-6)
    assert measured.compute_us > 3 * num_bytes / 6.9e6
    assert claimed.hop_us == pytest.approx(5 + 2048 * 4 / 50e3)
    assert claimed.total_us < measure_on_one(model, shrink(1)).total_us < measured.total_us


def test_a_layer_on_a_card_that_holds_all_is_a_sixteenth_of_its_pass() -> None:
    found = measure_on_one(describe_gated(), halve(1))
    assert found.compute_us == pytest.approx(1e6 * (layer_s() + (ENDS_S + CALL_S) / 16), rel=1e-6)
    assert found.total_us == found.compute_us
    assert found.working_set_mb == pytest.approx(
        (layer_s() + ENDS_S / 16) * MEMORY_BYTES_PER_S / MB
    )


def test_layers_over_more_cards_begin_at_one_card_and_end_at_the_last_layer() -> None:
    one, few, many = (measure_layer_wise(16, n, 64) for n in (1, 4, 64))
    alone = measure_one(describe_gated(), open_cluster(32), halve(64))
    assert one == (pytest.approx(alone.tokens_per_s), 1)
    assert few[1] == 4
    # 16 blocks, and cards of their own for the embedding and for norm and head.
    assert many[1] <= 19
    # Each of 64 streams' tokens passes 16 layers of at least what one row takes.
    assert many[0] < 64 / (16 * layer_s())


def test_each_assumption_is_changed_alone() -> None:
    cases = {case.name: case for case in list_cases()}
    base = cases["as assumed"]
    ratio = find_ratios(compare_seed(SLOW_LINKS))
    assert base.find_ratio(16) == pytest.approx(ratio[16])
    assert cases[NVLINK_BOXES].find_ratio(16) == pytest.approx(
        find_ratios(compare_seed(NVLINK_BOXES))[16]
    )
    half = cases["activations and KV in fp16"]
    assert half.cluster.default_link.transfer_s(1e6) == pytest.approx(5e-6 + 1e6 / 100e9)
    sxm = cases[f"{NVLINK_BOXES}, memory of the SXM card"].cluster.hosts[0]
    assert [sxm.one_core_bytes_per_s.at(x * MB) for x in (1, 34, 500)] == [6.9e12, 6.9e12, 3.35e12]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_planner_s_pick_is_no_worse_than_any_layout_compared(network: str) -> None:
    for streams, row in compare_seed(network).items():
        if streams in picks.STREAMS:
            best = max(row[name_layout(*grid)].tokens_per_s for grid in GRIDS)
            assert picks.predict_pick(network, streams).tokens_per_s >= best * (1 - 1e-9)


def test_the_planner_picks_layer_wise_for_many_streams_over_slow_links_alone() -> None:
    last = {network: name_plan(picks.adapt(network).spans[-1].plan) for network in NETWORKS}
    assert last[SLOW_LINKS] == LAYER_WISE
    assert last[NVLINK_BOXES] != LAYER_WISE


def test_a_plan_is_named_by_the_members_of_its_stages() -> None:
    problem = pose(describe_gated(), open_cluster(32), halve(1))
    names = [name_plan(plan_grid(problem, *grid)) for grid in ((2, 8), (16, 1), (4, 4))]
    assert names == [BASELINE, LAYER_WISE, "4 stages x 4"]
    assert "members by stage: 1, 16 x 4" in str(tabulate_answers().rows[1])


def test_the_seed_s_figures_contradict_each_other() -> None:
    found = Arithmetic()
    assert found.ratio == pytest.approx(10.85, abs=0.01)
    assert found.cache_percent == pytest.approx(99)
    assert found.tokens_in_tpot == pytest.approx(1, abs=0.01)
    assert (round(found.baseline_card_watts), round(found.card_watts)) == (702, 649)
    assert measure_bits("gated") == pytest.approx(8 * 49.5 * MB / GATED)


def test_boxes_join_eight_cards_each() -> None:
    cluster: Cluster = join_cards(50, 17, NVLINK_BOXES)
    names = [server.name for server in cluster.servers]
    assert cluster.link(names[0], names[7]).bandwidth_bytes_per_s == 450e9
    assert cluster.link(names[9], names[15]).bandwidth_bytes_per_s == 450e9
    assert cluster.link(names[7], names[8]) == cluster.default_link
    assert cluster.link(names[15], names[16]) == cluster.default_link


def test_figures_are_rounded_to_three_digits() -> None:
    values = [0, 0.123456, 0.9996, 1.005, 12.34, 99.96, 656.14, 1060.76, 233087.08]
    texts = ["0", "0.123", "1.000", "1.00", "12.3", "100.0", "656", "1,060", "233,000"]
    assert [round_figure(value) for value in values] == texts


TABLE = Table(name="b", title="T", headers=("x", "y"), rows=[("one", 2.0), ("two", 3)])
PAGE = "before\n<!-- table b -->\nold\n<!-- end b -->\nafter\n"


def test_a_page_gets_the_tables_of_the_run_and_keeps_its_prose() -> None:
    page = fill_page(PAGE, [TABLE])
    table = "**T**\n\n| x | y |\n| --- | --: |\n| one | 2.00 |\n| two | 3 |"
    assert page == f"before\n<!-- table b -->\n{table}\n<!-- end b -->\nafter\n"
    assert fill_page(page, [TABLE]) == page


def test_a_page_with_other_tables_than_the_run_is_refused() -> None:
    for text, tables in ((PAGE, []), ("no tables", [TABLE]), (PAGE + PAGE, [TABLE])):
        with pytest.raises(ValueError, match="do not have the same tables: see b"):
            fill_page(text, tables)


def test_the_page_shows_what_the_bench_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = PAGES / "layerwise-seed.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text())
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["layerwise_seed.py", "--page", str(copy)])
    assert layerwise_seed.main() == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["bench"] == "layerwise_seed"
    assert figures["layer_fp16_mb"] == pytest.approx(2 * GATED / MB)
    assert figures["layer_compressed_mb"] == pytest.approx(HALVED_GATED / MB)
    assert copy.read_text() == page.read_text(), (
        "the planner says other figures now: run bench/experiments/layerwise_seed.py, and read"
        " whether the page's prose still holds"
    )
    assert not (tmp_path / "layerwise_seed.json").exists()


def test_the_full_precision_layer_is_the_seed_s_537_mb() -> None:
    found = measure_step(describe_gated(1), FULL, is_training=False)
    assert round(found.weight_bytes / MB) == 537
