"""Waits on many descriptors at once and calls what belongs to each.

Links are polled for writing only while they have something to write. One thread owns a
poller.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from partwise.errors import RemoteError
from partwise.remote.frame import Frame
from partwise.remote.link import Link

SPIN_S = 4e-3
"""What a neighbour computes with rounded weights; docs/decisions/0021."""
MAX_SHORT_WAITS = 4096

_READ = select.EPOLLIN
_READ_WRITE = select.EPOLLIN | select.EPOLLOUT


class Poller:
    """Links and other descriptors, and what to do when they are ready.

    ``on_frame(link, frame)`` is called for each frame, ``on_lost(link, error)`` once when a
    link ends; it is removed and closed before that. ``is_pressed``: others wait for what is done
    here, so that a processor is worth being kept awake for short waits.
    """

    def __init__(
        self,
        on_frame: Callable[[Link, Frame], None],
        on_lost: Callable[[Link, RemoteError], None],
        *,
        is_pressed: bool,
    ) -> None:
        self._epoll = select.epoll()
        self._links: dict[int, Link] = {}
        self._writing: set[int] = set()
        self._others: dict[int, Callable[[], None]] = {}
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._is_pressed = is_pressed
        self._short_waits = 0
        self._short_waits_to_spin = 1

    def take_over(
        self,
        on_frame: Callable[[Link, Frame], None],
        on_lost: Callable[[Link, RemoteError], None],
    ) -> None:
        """From now on call these instead."""
        self._on_frame, self._on_lost = on_frame, on_lost

    def add_link(self, link: Link) -> None:
        """Read ``link`` from now on, and write what waits on it."""
        fd = link.channel.fileno()
        self._links[fd] = link
        self._epoll.register(fd, _READ)

    def add(self, fd: int, on_ready: Callable[[], None]) -> None:
        """Call ``on_ready`` whenever ``fd`` polls readable."""
        self._others[fd] = on_ready
        self._epoll.register(fd, _READ)

    def remove(self, link: Link) -> None:
        """Forget and close ``link``; `on_lost` is not called."""
        fd = link.channel.fileno()
        if self._links.get(fd) is link:
            del self._links[fd]
            self._writing.discard(fd)
            self._epoll.unregister(fd)
            link.close()

    def poll(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s`` for something to be ready, and handle what is."""
        self._watch_writes()
        for fd, _ in self._wait(timeout_s):
            link = self._links.get(fd)
            if link is not None:
                self._serve(fd, link)
            elif fd in self._others:
                self._others[fd]()

    def _wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """What is ready. Falling asleep and waking up costs more than a short wait itself (50 us
        and more between two processors of a virtual machine): after short waits this looks
        again and again instead, for SPIN_S at most. When that was in vain, because the other
        side is slow or needs this very processor, it takes twice as many short waits until
        the next try."""
        ready = self._epoll.poll(0)
        if ready or not timeout_s:
            return ready
        if not self._is_pressed:
            return self._epoll.poll(timeout_s)
        start_s = time.perf_counter()
        if self._short_waits >= self._short_waits_to_spin:
            while time.perf_counter() - start_s < SPIN_S:
                if ready := self._epoll.poll(0):
                    self._short_waits_to_spin = 1
                    return ready
                os.sched_yield()  # to whoever computes and has no processor
            self._short_waits = 0
            self._short_waits_to_spin = min(2 * self._short_waits_to_spin, MAX_SHORT_WAITS)
        ready = self._epoll.poll(timeout_s)
        is_short = time.perf_counter() - start_s < SPIN_S
        self._short_waits = self._short_waits + 1 if is_short else 0
        return ready

    def _watch_writes(self) -> None:
        for fd, link in self._links.items():
            if not link.has_output and fd not in self._writing:
                continue
            if link.wants_write != (fd in self._writing) and link.channel.polls_writable:
                self._epoll.modify(fd, _READ_WRITE if link.wants_write else _READ)
                self._writing.symmetric_difference_update((fd,))

    def _serve(self, fd: int, link: Link) -> None:
        try:
            frames = link.receive()
        except RemoteError as exc:
            self.lose(link, exc)
            return
        for frame in frames:
            self._on_frame(link, frame)
            if self._links.get(fd) is not link:
                return  # what the frame caused ended the link
        # After the frames: a failed write must not hide what the other side said last.
        try:
            if link.has_output:
                link.flush()
        except RemoteError as exc:
            self.lose(link, exc)

    def lose(self, link: Link, error: RemoteError) -> None:
        """End ``link`` because of ``error``."""
        self.remove(link)
        self._on_lost(link, error)

    def close(self) -> None:
        for link in list(self._links.values()):
            self.remove(link)
        self._epoll.close()
