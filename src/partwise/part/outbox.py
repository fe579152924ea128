"""What a part computes, on its way to every part that has it from this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from partwise.part.accounts import Accounts
from partwise.part.converter import Converter
from partwise.part.links import PartLinks
from partwise.part.packer import Packer, Way
from partwise.remote.frame import Frame
from partwise.remote.link import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """Sends each frame to all targets, packed for each by the codec of its link. The server's
    thread alone uses it. ``send`` puts a frame on a link, None where that ended; ``fail`` is told
    why one cannot be packed."""

    links: PartLinks
    converter: Converter
    accounts: Accounts
    send: Callable[[Link | None, Frame], None]
    fail: Callable[[Exception], None]
    packers: dict[str, Packer] = field(default_factory=dict)

    def add(self, source: str, target: str, codec: str) -> None:
        """From now on ``target``, whose link stands, has every frame from the part ``source``."""
        find = self.links.needed.get

        def is_sent() -> bool:
            link = find(target)
            return not (link and link.has_output)

        way = Way(
            codec=codec,
            source=source,
            target=target,
            send=lambda frame: self.send(find(target), frame),
            is_sent=is_sent,
            fail=self.fail,
        )
        accounts = self.accounts
        self.packers[target] = Packer(way, self.converter, accounts.timeline, accounts.sent)

    def push(self, frame: Frame, *, has_more: bool) -> None:
        """Send ``frame``, whose tensors are plain; ``has_more``: there is more to compute."""
        for packer in self.packers.values():
            packer.push(frame, has_more=has_more)
