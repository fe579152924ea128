"""What a relay carries: the lines of a long way, and the two flows of each connection over them.

Nothing here waits; `relay.py` says when.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Line:
    """One direction of a long way, shared by all connections. May be changed at any time."""

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    free_s: float = 0.0

    def schedule(self, num_bytes: int, now_s: float) -> float:
        """When the last of ``num_bytes`` that came in at ``now_s`` is at the other end."""
        if self.bytes_per_s is None:
            return now_s + self.delay_s
        self.free_s = max(now_s, self.free_s) + num_bytes / self.bytes_per_s
        return self.free_s + self.delay_s


@dataclass(slots=True, eq=False)
class End:
    """One of a connection's two sockets. Until it is connected it takes nothing."""

    sock: socket.socket
    takes_nothing: bool
    mask: int = 0
    is_watched: bool = True


@dataclass(slots=True, eq=False)
class Flow:
    """One direction of a connection: what waits, and until when; an empty piece is the end.

    ``has_ended``: nothing more is read. ``is_finished``: nothing more is written either.
    """

    line: Line
    source: End
    target: End
    pieces: deque[tuple[float, memoryview]] = field(default_factory=deque)
    num_bytes: int = 0
    has_ended: bool = False
    is_finished: bool = False
    is_scheduled: bool = False

    def put(self, data: bytes, arrival_s: float) -> None:
        """Take what came in at that time; nothing: the source has ended."""
        self.has_ended = not data
        self.num_bytes += len(data)
        due_s = self.line.schedule(len(data), arrival_s)
        self.pieces.append((due_s, memoryview(data)))

    def write_due(self) -> None:
        """Write what is due, as far as the target takes it.

        Raises:
            OSError: the target is gone.
        """
        now_s = time.monotonic()
        while self.pieces and self.pieces[0][0] <= now_s and not self.target.takes_nothing:
            due_s, piece = self.pieces[0]
            if not piece:
                self.finish()
                self.target.sock.shutdown(socket.SHUT_WR)
                return
            try:
                count = self.target.sock.send(piece)
            except BlockingIOError:
                self.target.takes_nothing = True
                return
            self.num_bytes -= count
            self.pieces.popleft()
            if count < len(piece):
                self.pieces.appendleft((due_s, piece[count:]))

    def finish(self) -> None:
        """Read and write nothing more."""
        self.pieces.clear()
        self.num_bytes = 0
        self.has_ended = self.is_finished = True
