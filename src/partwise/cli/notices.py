"""What a run says on stderr before it starts, of what its user may not expect."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partwise.engine.prepared import Prepared
    from partwise.engine.sequence import Request


def warn_of_full_context(prepared: Prepared, request: Request, max_tokens: int) -> None:
    """Say that the answer may have fewer tokens than were asked for."""
    if request.max_tokens < max_tokens:
        print(
            f"note: at most {request.max_tokens:,} tokens instead of {max_tokens:,}: the prompt"
            f" has {len(request.prompt_ids):,}, the context of {prepared.model.name} is"
            f" {prepared.model.context_tokens:,}",
            file=sys.stderr,
        )


def warn_of_plain_text(prepared: Prepared) -> None:
    """Say that what leaves this machine can be read and changed on its way."""
    if not all(address.is_loopback for address in prepared.addresses.values()):
        print(
            "note: these servers prove the token when they connect; after that traffic is neither"
            " encrypted nor protected against changes (TLS comes later): use a network that you"
            " trust",
            file=sys.stderr,
        )


def warn_of_codecs(prepared: Prepared) -> None:
    """Say which links change what they carry."""
    for codec in sorted({link.codec for link in prepared.plan.links} - {"fp32"}):
        links = [f"{k.source} > {k.target}" for k in prepared.plan.links if k.codec == codec]
        more = f" and {len(links) - 4} more" if len(links) > 4 else ""
        print(
            f"note: links {', '.join(links[:4])}{more} carry {codec}, which changes results:"
            " --codec fp32 keeps them",
            file=sys.stderr,
        )
