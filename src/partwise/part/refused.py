"""Clients that a server turned away and that may still be reading why."""

from __future__ import annotations

import time

from partwise.errors import RemoteError
from partwise.remote.link import Link
from partwise.remote.messages import Failed, message_frame
from partwise.remote.poller import Poller

MAX_REFUSED, REFUSED_S = 16, 2.0
"""How many may be reading at once, and for how long."""


class RefusedClients:
    """Links that are told one error and then closed. The server's thread alone calls it."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._stop_s: dict[Link, float] = {}  # until when a link may be read

    def __contains__(self, link: Link) -> bool:
        return link in self._stop_s

    def refuse(self, link: Link, text: str) -> None:
        """Send ``text`` as the reason; close ``link`` when it was read, or after REFUSED_S."""
        try:
            link.send(message_frame(Failed(error="LaunchError", text=text)))
        except RemoteError:  # it may be gone already
            link.close()
            return
        if len(self._stop_s) >= MAX_REFUSED:
            link.close()
            return
        # Closing now, with its first message unread, could destroy ours.
        self._stop_s[link] = time.monotonic() + REFUSED_S
        self._poller.add_link(link)

    def forget(self, link: Link) -> None:
        """The link ended by itself."""
        del self._stop_s[link]

    def close_late(self, now_s: float) -> None:
        """Close those whose time is over."""
        for link in [link for link, stop_s in self._stop_s.items() if now_s > stop_s]:
            self.forget(link)
            self._poller.remove(link)
