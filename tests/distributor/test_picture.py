"""The picture of a plan: everything is in it, in its place, within its width."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.distributor.cost import predict
from partwise.distributor.picture import MAX_COLUMNS, Picture, arrange, share_columns, shorten, wrap
from partwise.distributor.picture_svg import draw_svg
from partwise.distributor.picture_text import draw_text
from partwise.distributor.strategies import STRATEGIES
from partwise.errors import Infeasible
from partwise.model import Model
from support.planning import GIB, make_cluster, make_problem, pose

SVG = "{http://www.w3.org/2000/svg}"
COUNTS = (1, 2, 3, 7, 16, 33, 64)


def draw(model: Model, strategy: str, names: Sequence[str], **options: Any) -> Picture:
    """The picture of a plan over equal servers of these names."""
    cluster = make_cluster([1.0] * len(names), [GIB] * len(names))
    renamed = zip(cluster.servers, names, strict=True)
    servers = tuple(replace(server, name=name) for server, name in renamed)
    problem = pose(model, replace(cluster, servers=servers), **options)
    plan = STRATEGIES[strategy].plan(problem)
    return arrange(plan, model, predict(plan, model, problem.cluster, problem.workload))


def one_block_each(names: Sequence[str], num_blocks: int) -> dict[str, str]:
    bounds = [num_blocks * i // len(names) for i in range(len(names) + 1)]
    return {name: f"{a}:{b}" for name, a, b in zip(names, bounds, bounds[1:], strict=False)}


# The text


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("prefix", ["s", "10.0.0.5:70", "a-server-with-quite-a-long-name-"])
def test_servers_of_a_pipeline_are_in_it_from_top_to_bottom(
    wide_model: Model, count: int, prefix: str
) -> None:
    names = [f"{prefix}{i:02}" for i in range(count)]
    picture = draw(wide_model, "layers", names, layers=one_block_each(names, 64))
    text = draw_text(picture)
    lines = text.splitlines()
    assert {len(line) for line in lines} == {MAX_COLUMNS}
    places = [text.index(name) for name in names]
    assert places == sorted(places)
    assert [text.count(name) for name in names] == [1] * count
    assert text.count("▼") == count - 1
    for name, blocks in one_block_each(names, 64).items():
        (line,) = (line for line in lines if name in line)
        assert re.search(rf"\bblocks {blocks}\b", line)
        assert " ms" in line
    assert "embedding" in text
    assert "norm + head" in text


@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("prefix", ["s", "10.0.0.5:70", "a-server-with-quite-a-long-name-"])
def test_members_are_side_by_side_and_all_there(wide_model: Model, count: int, prefix: str) -> None:
    names = [f"{prefix}{i:02}" for i in range(count)]
    picture = draw(wide_model, "count", names)
    text = draw_text(picture)
    lines = text.splitlines()
    assert {len(line) for line in lines} == {MAX_COLUMNS}
    found = [name for line in lines for name in names if name in line]
    assert found == names
    assert "embedding + blocks 0:64 + norm + head" in lines[1]
    # As many side by side as their names, shares and times leave room for.
    cells = [cell for row in picture.bands[0].rows for cell in row]
    widest = max(len(text) for cell in cells for text in (cell.server, *cell.words))
    per_row = (MAX_COLUMNS - 1) // (widest + 3)
    num_rows = sum(any(name in line for name in names) for line in lines)
    assert num_rows == -(-count // per_row)


def test_borders_join_the_cells_above_and_below(wide_model: Model) -> None:
    names = [f"s{i}" for i in range(20)]
    lines = draw_text(draw(wide_model, "count", names)).splitlines()
    joints = {(False, False): "─", (True, False): "┴", (False, True): "┬", (True, True): "┼"}
    for above, border, below in zip(lines[:-2], lines[1:-1], lines[2:], strict=True):
        if border[0] == "├":
            for column in range(1, MAX_COLUMNS - 1):
                assert border[column] == joints[above[column] == "│", below[column] == "│"]


def test_a_member_is_as_wide_as_its_share(wide_model: Model) -> None:
    picture = draw(wide_model, "percentage", ["a", "b", "c"], percentages=[50, 25, 25])
    ((cells,),) = (band.rows for band in picture.bands)
    assert [cell.columns for cell in cells] == [48, 24, 24]
    assert [cell.words[0] for cell in cells] == ["50 %", "25 %", "25 %"]


def test_kinds_are_named_where_a_member_lacks_some(model: Model) -> None:
    types = {"attention": "a", "mlp": "b", "embedding": "a", "head": "a"}
    ((cells,),) = (band.rows for band in draw(model, "type", ["a", "b"], types=types).bands)
    assert [cell.words[-1] for cell in cells] == ["vocabulary_row + kv_group", "mlp_unit"]


def test_words_that_do_not_fit_beside_each_other_stand_below(model: Model) -> None:
    types = {"attention": "a", "mlp": "b", "embedding": "a", "head": "a"}
    picture = draw(model, "type", ["a", "b"], types=types)
    text = draw_text(picture)
    cells = [cell for band in picture.bands for row in band.rows for cell in row]
    assert all(word in text for cell in cells for word in (cell.server, *cell.words))
    # As narrow as cells get: a line for each word.
    narrow = [replace(cell, columns=max(map(len, cell.words)) + 2) for cell in cells]
    columns = sum(cell.columns for cell in narrow) + 1
    bands = (replace(picture.bands[0], rows=(tuple(narrow),)),)
    text = draw_text(Picture(columns=columns, bands=bands))
    assert {len(line) for line in text.splitlines()} == {columns + 2}
    assert all(word in text for cell in narrow for word in cell.words)


def test_words_longer_than_the_picture_are_shortened(model: Model) -> None:
    problem = make_problem(model, 2)
    plan = STRATEGIES["count"].plan(problem)
    prediction = predict(plan, model, problem.cluster, problem.workload)
    slow = tuple(replace(cost, compute_s=1e200, hop_s=1e200) for cost in prediction.parts)
    picture = arrange(plan, model, replace(prediction, parts=slow))
    assert {len(line) for line in draw_text(picture).splitlines()} == {MAX_COLUMNS}
    assert "…" in draw_text(picture)


def test_what_binds_a_part_and_what_it_receives_are_known_with_a_prediction(model: Model) -> None:
    problem = make_problem(model, 2, layers={"s0": "0:1", "s1": "1:4"})
    plan = STRATEGIES["layers"].plan(problem)
    bare = arrange(plan, model)
    assert [band.hop for band in bare.bands] == ["", ""]
    assert {cell.bound_by for band in bare.bands for cell in band.rows[0]} == {""}
    assert "ms" not in draw_text(bare)
    known = draw(model, "layers", ["s0", "s1"], layers={"s0": "0:1", "s1": "1:4"})
    assert known.bands[0].hop == ""
    assert known.bands[1].hop.startswith(f"{16 * 4} bytes, ")
    assert {cell.bound_by for band in known.bands for cell in band.rows[0]} == {"overhead"}


def test_every_strategy_on_random_models_has_a_picture(make_synthetic) -> None:
    rng = random.Random(5)
    for _ in range(40):
        model = make_synthetic(rng).model
        names = [rng.choice("xyz") * rng.choice([1, 9, 120]) + str(i) for i in range(3)]
        try:
            picture = draw(model, rng.choice(["greedy", "balanced", "count"]), names)
        except Infeasible:
            continue
        text = draw_text(picture)
        assert {len(line) for line in text.splitlines()} == {MAX_COLUMNS}
        ET.fromstring(draw_svg(picture, "a <title> & more"))


# Its columns


@given(
    st.lists(st.tuples(st.integers(1, 20), st.floats(0, 1)), min_size=1, max_size=12),
    st.integers(0, 50),
)
def test_columns_add_up_and_none_is_below_its_minimum(
    cells: list[tuple[int, float]], spare: int
) -> None:
    minimums, shares = [least for least, _ in cells], [share for _, share in cells]
    columns = sum(minimums) + spare
    widths = share_columns(columns, minimums, shares)
    assert sum(widths) == columns
    assert all(width >= least for width, least in zip(widths, minimums, strict=True))
    for share, width, least in zip(shares, widths, minimums, strict=True):
        for other, its in zip(shares, widths, strict=True):
            # A larger share is narrower only where the other is at its minimum.
            if share > other and width + 1 < its:
                assert its in minimums
        assert width >= least


@given(st.lists(st.integers(1, 30), min_size=1, max_size=70))
def test_cells_are_wrapped_in_order_and_as_few_rows_as_an_even_filling_takes(
    minimums: list[int],
) -> None:
    rows = wrap(minimums, 30)
    assert [i for a, b in rows for i in range(a, b)] == list(range(len(minimums)))
    assert all(sum(minimums[a:b]) + b - a - 1 <= 30 for a, b in rows)
    sizes = [b - a for a, b in rows]
    assert max(sizes) - min(sizes) <= 1


def test_a_name_too_long_loses_its_middle() -> None:
    assert shorten("abcdefgh", 8) == "abcdefgh"
    assert shorten("abcdefgh", 7) == "abc…fgh"
    assert shorten("abcdefgh", 6) == "ab…fgh"


# The SVG


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("strategy", ["layers", "count"])
def test_no_label_of_the_svg_leaves_its_cell_or_meets_another(
    wide_model: Model, strategy: str, count: int
) -> None:
    names = [f"10.0.0.{i}:7070" for i in range(count)]
    options = {"layers": one_block_each(names, 64)} if strategy == "layers" else {}
    picture = draw(wide_model, strategy, names, **options)
    root = ET.fromstring(draw_svg(picture, "T " * 90, ["a note & <more> " * 20]))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    texts = [box_of_text(one) for one in root.iter(f"{SVG}text") if one.text]
    cells = list(root.iter(f"{SVG}g"))
    assert len(cells) == count
    assert [cell.find(f"{SVG}text").text for cell in cells] == names  # type: ignore[union-attr]
    for left, top, right, bottom in texts:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    for group in cells:
        frame = box_of_rect(group.find(f"{SVG}rect"))
        for one in group.findall(f"{SVG}text"):
            assert is_inside(box_of_text(one), frame)
    frames = [box_of_rect(group.find(f"{SVG}rect")) for group in cells]
    assert min(frame[0] for frame in frames) == width - max(frame[2] for frame in frames) > 0
    outside = [box_of_text(one) for one in root.findall(f"{SVG}text") if one.text]
    assert not any(overlap(box, frame) for box in outside for frame in frames)
    for boxes in (texts, frames):
        for i, box in enumerate(boxes):
            assert not any(overlap(box, other) for other in boxes[:i])


Box = tuple[float, float, float, float]


def box_of_text(element: Any) -> Box:
    """13 px high letters of 8 px each, whose baseline is ``y``."""
    x, y = float(element.get("x")), float(element.get("y"))
    return x, y - 11, x + 8 * len(element.text), y + 3


def box_of_rect(element: Any) -> Box:
    x, y, width, height = (float(element.get(key)) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def is_inside(box: Box, frame: Box) -> bool:
    return frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_the_svg_is_readable_on_light_and_on_dark(model: Model) -> None:
    """The contrast of text and every fill, as WCAG 2 defines it."""
    picture = draw(model, "count", ["a", "b"])
    style = draw_svg(picture, "t").partition("<style>")[2].partition("</style>")[0]
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    for colours in (light, dark):
        fills = dict(re.findall(r"^\.?(?:rect\.)?(\w+) \{.*fill: (#\w{6})", colours, re.MULTILINE))
        for text in ("text", "faint"):
            for surface in ("page", "cell", "bandwidth", "compute", "overhead", "exchange"):
                assert contrast(fills[text], fills[surface]) >= 7


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_the_svg_says_is_escaped(model: Model) -> None:
    picture = draw(model, "layers", ["<&>"], layers={"<&>": "0:4"})
    root = ET.fromstring(draw_svg(picture, 'a "title"', ["1 < 2"]))
    said = [element.text for element in root.iter(f"{SVG}text")]
    assert "<&>" in said
    assert said[-1] == "1 < 2"
    assert root.get("aria-label") == 'a "title"'
