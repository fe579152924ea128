"""The links of one server: its coordinator, and by the part that it serves those to other parts."""

from __future__ import annotations

from collections.abc import Iterable

from partwise import errors
from partwise.part.refused import RefusedClients
from partwise.remote.authenticate import Hello
from partwise.remote.channel import Channel
from partwise.remote.frame import Frame
from partwise.remote.link import Link
from partwise.remote.poller import Poller
from partwise.remote.transport import Listener

STALL_S = 30.0
"""A link that takes nothing for so long of what may go is given up."""


class ServerLinks:
    """Who is connected to a server. The server's thread alone uses it.

    ``coordinator`` is None while there is none.
    """

    def __init__(self, name: str, listener: Listener, poller: Poller) -> None:
        self.coordinator: Link | None = None
        self.refused = RefusedClients(poller)
        self._name = name
        self._listener = listener
        self._poller = poller
        self._senders: dict[int, Link] = {}  # by the id of a received frame's lease

    def accept(self) -> list[tuple[Hello, Channel]]:
        """Take in, or turn away, the coordinators that came since; the parts that did."""
        parts = []
        for hello, channel in self._listener.accepted():
            if hello.role == "coordinator":
                self._accept_coordinator(hello, channel)
            elif hello.role == "part":
                parts.append((hello, channel))
            else:
                channel.close()
        return parts

    def _accept_coordinator(self, hello: Hello, channel: Channel) -> None:
        link = Link(channel, hello.name)
        if self.coordinator is not None:
            text = f"server {self._name} already serves another coordinator: stop that one first"
            self.refused.refuse(link, text)
            return
        self.coordinator = link
        self._poller.add_link(link)

    def give_up_stalled(self, now_s: float, needed: Iterable[Link]) -> None:
        """End those of the ``needed`` links, and of the coordinator's, that took nothing for
        STALL_S, and those of clients turned away."""
        self.refused.close_late(now_s)
        for link in (*needed, self.coordinator):
            if link and link.wants_write and now_s - link.last_progress_s > STALL_S:
                text = f"it took nothing for {STALL_S:g} s"
                self._poller.lose(link, errors.DeadlineExceeded(text))

    def hold(self, link: Link, frame: Frame) -> None:
        """``frame`` came over ``link`` and is not yet done with."""
        self._senders[id(frame.lease)] = link

    def release(self, frame: Frame) -> None:
        """``frame`` is done with."""
        link = self._senders.pop(id(frame.lease), None)
        if link is not None:
            link.release(frame)

    def reset(self) -> None:
        """The coordinator went away, and with it all that came."""
        self.coordinator = None
        self._senders.clear()


class PartLinks:
    """The links of one part to others. ``needed`` are those by part without which it cannot serve:
    those it sends to, and the other members of its stage."""

    def __init__(self, poller: Poller) -> None:
        self.needed: dict[str, Link] = {}
        self._poller = poller
        self._inbound: set[Link] = set()

    def __contains__(self, link: Link) -> bool:
        return link in self._inbound or self.needed.get(link.name) is link

    def take_in(self, channel: Channel, part: str) -> None:
        """``part`` sends over ``channel``, and nothing is sent to it."""
        self._inbound.add(link := Link(channel, part))
        self._poller.add_link(link)

    def need(self, channel: Channel, part: str) -> Link:
        """``channel`` leads to ``part``, without which this one cannot serve."""
        link = self.needed[part] = Link(channel, part)
        self._poller.add_link(link)
        return link

    def forget(self, link: Link) -> bool:
        """A link of these ended; whether it was needed."""
        if self.needed.get(link.name) is link:
            del self.needed[link.name]
            return True
        # The part before may be replaced: this one keeps what it holds, and the
        # coordinator, which sees that part's end itself, decides.
        self._inbound.discard(link)
        return False

    def close(self) -> None:
        """All of them."""
        for link in (*self._inbound, *self.needed.values()):
            self._poller.remove(link)
        self._inbound, self.needed = set(), {}
