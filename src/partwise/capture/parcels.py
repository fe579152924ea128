"""The frames of a captured module's passes."""

from __future__ import annotations

from collections.abc import Sequence

from partwise.capture.schedule import Parcel
from partwise.remote.frame import Frame, FrameKind, Row
from partwise.remote.layout import Array


def parcel_frame(
    parcel: Parcel, tensors: Sequence[Array], *, step: int, batch: int, version: int
) -> Frame:
    """The frame of a parcel of a pass."""
    return Frame(
        kind=FrameKind.FORWARD, plan_version=version, step=step, layer=parcel.phase,
        rows=(Row(step, 0, batch),), tensors=tuple(tensors),
    )  # fmt: skip
