"""Parts whose link has a codec, as threads: what is packed beside computing, what is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partwise.engine.scheduler import Limits
from partwise.errors import FrameError, NotFinite
from partwise.part import packer as packer_module
from partwise.part import unpacker as unpacker_module
from partwise.part.runner import Runner, RunnerOptions
from partwise.remote.codecs import CODECS
from support.parts import CountingRunner, Parts, Setting, counting_runner, ignore_pass

PROMPT = tuple(range(1, 41))
CHUNKS = Limits(max_in_flight=4, chunk_tokens=8)


def coded(codec: str, **changes) -> Setting:
    return Setting(num_parts=2, codec=codec, limits=CHUNKS, **changes)


@pytest.mark.parametrize("codec", ["fp32", *CODECS])
def test_small_frames_are_packed_at_once(tiny_llama: Path, codec: str) -> None:
    with Parts(tiny_llama, coded(codec, make_runner=counting_runner())) as parts:
        [tokens] = parts.generate([PROMPT], 4)
        first, second = parts.coordinator.stats()
    assert [token.token_id for token in tokens] == [41, 42, 43, 44]
    assert first.sent.frames == second.received.frames > 4
    assert first.sent.moved_bytes == second.received.moved_bytes
    assert first.sent.plain_bytes == second.received.plain_bytes
    assert (first.sent.moved_bytes < first.sent.plain_bytes) == (codec != "fp32")
    assert (first.sent.convert_ns > 0) == (codec != "fp32") == (second.received.convert_ns > 0)
    assert first.sent.beside_ns == second.received.beside_ns == 0


def busy(part: str, number: int, between_layers: Callable[[], None]) -> None:
    """A pass that takes a while, and looks around now and then as runners do."""
    for _ in range(4):
        time.sleep(0.002)
        between_layers()


@pytest.mark.parametrize("seed", [None, 5], ids=["at once", "in pieces"])
def test_large_frames_are_packed_and_unpacked_beside_computing_and_stay_in_order(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    threads: set[str] = set()
    pack = CODECS["int8"].pack

    def watch(codec, values, packed) -> None:
        threads.add(threading.current_thread().name)
        time.sleep(0.001)
        pack(codec, values, packed)

    monkeypatch.setattr(CODECS["int8"], "pack", watch)
    for module in (packer_module, unpacker_module):
        monkeypatch.setattr(module, "BESIDE_BYTES", 1)
    with Parts(tiny_llama, coded("int8", make_runner=counting_runner(busy), seed=seed)) as parts:
        # Chunks of one prompt follow each other: one out of order would be refused.
        answers = parts.generate([PROMPT, PROMPT[:20], PROMPT[:3]], 6)
        first, second = parts.coordinator.stats()
    assert [[t.token_id for t in tokens] for tokens in answers] == [
        list(range(n, n + 6)) for n in (41, 21, 4)
    ]
    assert any(name.startswith("converter") for name in threads)
    sent, received = first.sent, second.received
    assert 0 < sent.beside_ns <= sent.convert_ns
    assert received.beside_ns <= received.convert_ns
    # A millisecond of packing each, and what was beside computing is hidden.
    assert first.spent.hidden_ns >= 0.5 * sent.beside_ns
    assert sent.frames == received.frames


class _Spoiled(CountingRunner):
    """Sends ``value`` among its numbers."""

    def __init__(self, options: RunnerOptions, value: float) -> None:
        super().__init__(options, ignore_pass)
        self._value = value

    def run(self, rows, inputs, between_layers):
        outputs = super().run(rows, inputs, between_layers)
        if not self._is_last:
            outputs[0][-1, -1] = self._value
        return outputs


def spoiling(value: float) -> Callable[[RunnerOptions], Runner]:
    return lambda options: _Spoiled(options, value)


@pytest.mark.parametrize(
    ("codec", "value", "text"),
    [
        ("int8", np.nan, "NaN or infinity cannot travel as int8"),
        ("bf16", np.inf, "NaN or infinity cannot travel as bf16"),
        ("fp16", 70000.0, r"7e\+04 is beyond fp16, which ends at 65520: give this link another"),
    ],
)
def test_what_a_codec_cannot_say_ends_the_run_and_names_part_and_link(
    tiny_llama: Path, codec: str, value: float, text: str
) -> None:
    with (
        Parts(tiny_llama, coded(codec, make_runner=spoiling(value))) as parts,
        pytest.raises(NotFinite, match=f"part0 cannot send to part1: .*{text}"),
    ):
        list(parts.submit(PROMPT, 4))


def test_a_frame_of_another_codec_than_planned_is_refused_by_both_names(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from partwise.part.assignment import Assignment

    monkeypatch.setattr(Assignment, "codec_to", lambda self, part: "bf16")
    with (
        Parts(tiny_llama, coded("int8", make_runner=counting_runner())) as parts,
        pytest.raises(FrameError, match="the plan sends int8 to part1, the frame has bf16"),
    ):
        list(parts.submit(PROMPT, 4))


@pytest.mark.quiet
def test_time_adds_up_to_what_the_run_took(tiny_llama: Path) -> None:
    with Parts(tiny_llama, coded("int8", make_runner=counting_runner(busy))) as parts:
        start_s = time.monotonic()
        parts.generate([PROMPT, PROMPT], 8)
        took_s = time.monotonic() - start_s
        for stats in parts.coordinator.stats():
            spent = stats.spent
            total_s = (spent.compute_ns + spent.wait_ns + spent.exposed_ns) / 1e9
            assert 0.6 * took_s < total_s < 1.05 * took_s
            assert spent.compute_ns / 1e9 > 0.5 * took_s
