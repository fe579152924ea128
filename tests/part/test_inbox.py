"""What other members sent: what is taken when, and what is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from partwise.errors import FrameError
from partwise.part.inbox import Inbox, Place, list_given
from partwise.part.swaps import Round
from partwise.remote.codecs import Packed
from partwise.remote.frame import Frame, FrameKind
from support.seats import make_routes

VERSION = 4
OWN = np.zeros((2, 3), np.float32)
SUM = Round((OWN, OWN, OWN), ((2, 3),) * 3)


def frame(step: int = 1, exchange: int = 1, number: int = 0, **changes: object) -> Frame:
    made = Frame(
        kind=FrameKind.PARTIAL_SUM,
        plan_version=VERSION,
        step=step,
        layer=exchange,
        attempt=number,
        tensors=(np.full((2, 3), step, np.float32),),
    )
    return msgspec.structs.replace(made, **changes)


def inbox() -> Inbox:
    """Of the second of three members."""
    return Inbox(make_routes(3, 1, VERSION))


def test_a_round_is_whole_when_every_other_member_sent() -> None:
    box = inbox()
    assert (box.num_missing, box.find_missing()) == (2, "part0")
    box.put(2, early := frame())
    assert (box.num_missing, box.find_missing()) == (1, "part0")
    box.put(2, later := frame(exchange=2))
    box.put(0, late := frame())
    assert (box.num_missing, box.find_missing()) == (0, "")
    assert box.take(Place(1, 1, 0), SUM) == [late, early]
    assert (box.num_missing, box.find_missing()) == (1, "part0")
    box.put(0, next_one := frame(step=2))
    with pytest.raises(FrameError, match="part0 is at step 2, exchange 1, round 1 of the exch"):
        box.take(Place(1, 2, 0), SUM)
    assert later is not next_one


def test_what_is_given_is_listed_in_the_order_of_the_plan() -> None:
    first, last = frame(), frame(step=2)
    given = list_given(OWN, 1, [first, last])
    assert [tensor is expected for tensor, expected in zip(
        given, (first.tensors[0], OWN, last.tensors[0]), strict=True
    )] == [True] * 3  # fmt: skip


@pytest.mark.parametrize(
    ("before", "sent", "says"),
    [
        ([], frame(plan_version=3),
         "part2 sent a partial sum of plan_version 3: part1 serves plan_version 4"),
        ([frame()], frame(), r"round 1 \(plan_version 4\) after one of step 1, exchange 1, ro"),
        ([frame(step=9)], frame(step=2, exchange=7), "step 2, exchange 7, .* after one of step 9"),
        ([frame(), frame(exchange=2)], frame(exchange=3), "2 others wait"),
        ([], frame(tensors=()), "sent 0 tensors for step 1, exchange 1"),
        ([], frame(tensors=(OWN, OWN)), "sent 2 tensors"),
        ([], frame(tensors=(Packed("int8", (2, 3), np.zeros(64, np.uint8)),)), "as computed"),
    ],
    ids=["version", "again", "long past", "too far ahead", "none", "two", "packed"],
)  # fmt: skip
def test_what_can_belong_to_no_round_is_refused(
    before: list[Frame], sent: Frame, says: str
) -> None:
    box = inbox()
    for one in before:
        box.put(2, one)
    with pytest.raises(FrameError, match=says):
        box.put(2, sent)


@pytest.mark.parametrize(
    ("tensor", "wanted", "says"),
    [
        (np.zeros((3, 2), np.float32), SUM, r"float32 of shape \(3, 2\) .* of shape \(2, 3\)"),
        (np.zeros((2, 3), np.int64), SUM, "int64 of shape .* part1 expects float32"),
        (np.zeros((2, 3, 1), np.float32), Round((OWN,) * 3), "expects float32 of 2 dimensions"),
        (np.zeros((2, 3), np.float16), Round((OWN,) * 3), "float16 of shape"),
    ],
)
def test_a_tensor_that_does_not_fit_the_round_is_refused_and_its_sender_named(
    tensor: np.ndarray, wanted: Round, says: str
) -> None:
    box = inbox()
    box.put(0, frame())
    box.put(2, frame(tensors=(tensor,)))
    with pytest.raises(FrameError, match=f"part2 sent .*{says}"):
        box.take(Place(1, 1, 0), wanted)


def test_what_all_give_may_have_any_size() -> None:
    box = inbox()
    box.put(0, frame(tensors=(np.zeros((9, 1), np.float32),)))
    box.put(2, frame(tensors=(np.zeros((0, 5), np.float32),)))
    assert len(box.take(Place(1, 1, 0), Round((OWN,) * 3))) == 2
