"""Assembling where a server is silent."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from partwise.engine import assembly
from partwise.errors import DeadlineExceeded
from partwise.part.runner import Runner, RunnerOptions
from support.parts import Parts, Setting, counting_runner


def slow(*, is_telling: bool) -> Setting:
    """A runner that takes a second to load, and gives news of it or not."""

    def make(options: RunnerOptions) -> Runner:
        for done in range(10):
            time.sleep(0.1)
            if is_telling:
                options.on_progress(done, 10)
        return counting_runner()(options)

    return Setting(num_parts=1, make_runner=make)


def test_a_server_that_gives_no_news_while_it_loads_is_given_up(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "LOAD_STALL_S", 0.3)
    says = r"part0 on server 'server0' did not load its weights .* gave no news for 0\.3 s"
    with pytest.raises(DeadlineExceeded, match=says), Parts(tiny_llama, slow(is_telling=False)):
        pass


def test_a_server_that_loads_slowly_and_says_so_is_waited_for(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "LOAD_STALL_S", 0.5)
    with Parts(tiny_llama, slow(is_telling=True)) as parts:
        assert [len(tokens) for tokens in parts.generate([[1]], 2)] == [2]
