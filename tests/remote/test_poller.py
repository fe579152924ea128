"""When a poller looks again instead of falling asleep, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from partwise.remote import poller as poller_module
from partwise.remote.poller import MAX_SHORT_WAITS, SPIN_S, Poller

LOOK_S = SPIN_S / 10
READY = [(7, 1)]


class Clock:
    """The kernel: something is ready ``after_s`` from when a wait begins. ``num_sleeps`` counts
    the waits in which the process fell asleep, ``num_looks`` the other calls."""

    def __init__(self) -> None:
        self.now_s = self.ready_s = 0.0
        self.num_sleeps = self.num_looks = 0

    def poll(self, timeout_s: float) -> list[tuple[int, int]]:
        if timeout_s:
            self.num_sleeps += 1
            self.now_s = max(self.now_s, min(self.ready_s, self.now_s + timeout_s))
        else:
            self.num_looks += 1
            self.now_s += LOOK_S
        return READY if self.now_s >= self.ready_s else []

    def perf_counter(self) -> float:
        return self.now_s

    def close(self) -> None:
        pass


class Waits:
    """A poller whose waits the test makes short or long."""

    def __init__(self, poller: Poller, clock: Clock) -> None:
        self._poller = poller
        self._clock = clock

    def wait(self, after_s: float, timeout_s: float = 1.0) -> bool:
        """Wait for what is ready ``after_s`` from now; whether the process fell asleep."""
        sleeps = self._clock.num_sleeps
        self._clock.ready_s = self._clock.now_s + after_s
        ready = self._poller._wait(timeout_s)
        assert ready == (READY if after_s <= timeout_s else [])
        return self._clock.num_sleeps > sleeps


SHORT_S, LONG_S = SPIN_S / 2, 20 * SPIN_S


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waits(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    poller = Poller(lambda link, frame: None, lambda link, error: None, is_pressed=True)
    poller._epoll.close()
    monkeypatch.setattr(poller, "_epoll", clock)
    monkeypatch.setattr(poller_module, "time", clock)
    yield Waits(poller, clock)
    poller.close()


def test_after_a_short_wait_it_looks_again_instead_of_sleeping(waits: Waits) -> None:
    assert waits.wait(SHORT_S)  # it knows nothing yet
    assert not any(waits.wait(SHORT_S) for _ in range(50))


def test_long_waits_are_slept_through(waits: Waits) -> None:
    assert all(waits.wait(LONG_S) for _ in range(50))


def test_looking_in_vain_takes_twice_as_many_short_waits_to_be_tried_again(
    waits: Waits, clock: Clock
) -> None:
    needed = []
    for _ in range(5):
        count = 0
        while waits.wait(SHORT_S):
            count += 1
        needed.append(count)
        # Spinning works now: make it useless until it is given up.
        looks = clock.num_looks
        assert waits.wait(LONG_S)
        assert clock.num_looks - looks >= SPIN_S / LOOK_S - 1
        looks = clock.num_looks
        assert waits.wait(LONG_S)
        assert clock.num_looks - looks == 1  # it sleeps at once
    assert needed == [1, 2, 2, 2, 2]


def test_in_vain_again_and_again_it_backs_off_up_to_a_limit(waits: Waits, clock: Clock) -> None:
    limits = []
    while len(limits) < 16:
        count = 0
        # Short waits build up the hope that spinning pays; each spin is then disappointed.
        while waits._poller._short_waits < waits._poller._short_waits_to_spin:
            assert waits.wait(SHORT_S)
            count += 1
        limits.append(count)
        assert waits.wait(LONG_S)
    assert limits[:5] == [1, 2, 4, 8, 16]
    assert limits[-2:] == [MAX_SHORT_WAITS] * 2


def test_without_a_timeout_it_looks_once(waits: Waits, clock: Clock) -> None:
    waits.wait(SHORT_S)
    assert not waits.wait(SHORT_S)  # it spins now
    looks = clock.num_looks
    assert not waits.wait(SHORT_S, timeout_s=0)
    assert clock.num_looks - looks == 1
