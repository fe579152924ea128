"""Whole runs with real processes whose links pack what they carry, against the one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import partwise
from partwise.engine.sequence import Request
from partwise.model import open_model

PROMPTS = ([5, 17, 3, 99, 42], list(range(1, 150)), [7])
TOLERANCE = {"fp32": 1e-4, "fp16": 4e-3, "bf16": 3e-2, "int8": 6e-2}
"""Largest difference of a logit, as a share of the spread of all: a cut each loses what its
codec states, and layers carry that on."""


def logits_of(net: partwise.Net) -> list[np.ndarray]:
    """The first token's logits of every prompt, all at once: from tokens that are given."""
    generations = [
        net.submit(Request(prompt_ids=tuple(ids), max_tokens=1, wants_logits=True))
        for ids in PROMPTS
    ]
    return [next(iter(generation)).logits for generation in generations]


@pytest.fixture(scope="module")
def expected(tiny_llama: Path) -> list[np.ndarray]:
    with partwise.deploy(tiny_llama, options=partwise.DeployOptions(threads=1)) as net:
        return logits_of(net)


@pytest.mark.parametrize("num_parts", [2, 3])
@pytest.mark.parametrize("codec", TOLERANCE)
def test_parts_over_packed_links_answer_as_the_one_process_within_what_the_codec_loses(
    tiny_llama: Path, expected: list[np.ndarray], codec: str, num_parts: int
) -> None:
    options = partwise.DeployOptions(threads=1, codec=codec)
    with partwise.deploy(tiny_llama, parts=num_parts, options=options) as net:
        found = logits_of(net)
        reports = net.reports()
    errors = [
        float(np.abs(ours - theirs).max() / theirs.std())
        for ours, theirs in zip(found, expected, strict=True)
    ]
    assert max(errors) <= TOLERANCE[codec]
    if codec != "fp32":
        assert max(errors) > 1e-5, "nothing was lost: was anything packed?"
    links = [link for report in reports[:-1] for link in report.links]
    assert len(links) == num_parts - 1
    share = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5}
    width = open_model(tiny_llama).hidden_size
    for link in links:
        ratio = link.moved_bytes / link.plain_bytes
        assert ratio == pytest.approx(share.get(codec, (width + 28) / (4 * width)))
        assert link.frames > 0
    assert reports[-1].links == ()
