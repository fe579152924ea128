"""Why a part cannot go on, as its coordinator is told."""

from __future__ import annotations

import sys
import traceback

from partwise.errors import DeadlineExceeded, FrameError, PartFailed, PartwiseError, RemoteError


def explain_failure(part: str, error: Exception) -> PartwiseError:
    """``error``, which ended what ``part`` did; one of the code goes to stderr, too, with where it
    was raised."""
    if isinstance(error, PartwiseError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    return PartFailed(f"{part} stopped: {type(error).__name__}: {error}", part=part)


def explain_loss(part: str, other: str, error: RemoteError, where: str) -> RemoteError:
    """Why ``part`` cannot go on, ``where`` it stands: its link to ``other``, which it needs, ended
    by ``error``."""
    is_telling = isinstance(error, DeadlineExceeded | FrameError)
    kind = type(error) if is_telling else RemoteError
    return kind(f"{part} lost its link to {other} {where}: {error}")
