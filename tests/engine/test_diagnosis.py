"""Who is named for a step that is late, from what the parts answered."""

from __future__ import annotations

import pytest

from partwise.distributor.plan import Part
from partwise.engine.diagnosis import Diagnosis
from partwise.errors import DeadlineExceeded
from partwise.remote.messages import Pong

PARTS = [Part(name="part0", server="a"), Part(name="part1", server="b")]
DONE = {"received_step": 7, "finished_step": 7}


def pong(**standing: object) -> Pong:
    return Pong(number=0, sent_ns=0, clock_ns=0, **{**DONE, **standing})


@pytest.mark.parametrize(
    ("first", "last", "says"),
    [
        (None, pong(), "part0 on server 'a' does not answer at step 7"),
        (pong(), None, "part1 on server 'b' does not answer at step 7"),
        (pong(oldest_step=7), pong(received_step=6), "part0 on server 'a' computes at step 7"),
        (pong(), pong(received_step=6), "part1 on server 'b' still waits for its input at step 7"),
        # Another step may have overtaken this one, and be finished.
        (
            pong(received_step=8, finished_step=8, oldest_step=7, waits_for_picks=True),
            pong(received_step=8),
            "part0 on server 'a' waits at step 7 .* for what part1 on server 'b' picked",
        ),
        (pong(oldest_step=8), pong(), "every part finished at step 7"),
    ],
)
def test_the_first_part_that_holds_the_step_is_named(
    first: Pong | None, last: Pong | None, says: str
) -> None:
    pongs = {part.name: p for part, p in zip(PARTS, (first, last), strict=True) if p is not None}
    diagnosis = Diagnosis(
        microbatch=3, step=7, plan_version=2, step_s=60, answer_s=3, stop_s=0, pongs=pongs
    )
    with pytest.raises(DeadlineExceeded, match=says):
        raise diagnosis.explain(PARTS, PARTS[-1])


STAGE = [Part(name=f"part{i}", server=f"s{i}") for i in range(4)]  # the last is the next stage's
WAITS = {"received_step": 7, "finished_step": 6, "oldest_step": 7}
BUSY, STARVED = pong(**WAITS), pong(received_step=6, finished_step=6)


@pytest.mark.parametrize(
    ("pongs", "says"),
    [
        ([pong(**WAITS, waits_for="part1"), BUSY, pong(**WAITS, waits_for="part1"), STARVED],
         "part1 on server 's1' computes at step 7"),
        ([pong(**WAITS, waits_for="part2"), pong(**WAITS, waits_for="part0"), None, STARVED],
         "part2 on server 's2' does not answer at step 7"),
        ([pong(**WAITS, waits_for="part1"), STARVED, pong(**WAITS, waits_for="part1"), STARVED],
         "part1 on server 's1' still waits for its input at step 7"),
        ([pong(**WAITS, waits_for="part1"), pong(**WAITS, waits_for="part2"), BUSY, STARVED],
         "part2 on server 's2' computes at step 7"),
        ([pong(**WAITS, waits_for="part1"), pong(**WAITS, waits_for="part0"), pong(), STARVED],
         "part1 on server 's1' waits at step 7 .* for part0, a member of its stage: can the one"),
        ([pong(), pong(**WAITS, waits_for="part0"), pong(), STARVED],
         "part1 on server 's1' waits at step 7 .* for part0, a member of its stage"),
        ([pong(**WAITS, waits_for="nobody"), pong(), pong(), STARVED],
         "part0 on server 's0' waits at step 7 .* for nobody"),
    ],
    ids=["two wait", "one is silent", "one lacks its input", "in a chain", "for each other",
         "for one that is done", "for a stranger"],
)  # fmt: skip
def test_where_members_wait_the_one_that_they_wait_for_is_named(
    pongs: list[Pong | None], says: str
) -> None:
    given = {part.name: p for part, p in zip(STAGE, pongs, strict=True) if p is not None}
    diagnosis = Diagnosis(
        microbatch=3, step=7, plan_version=2, step_s=60, answer_s=3, stop_s=0, pongs=given
    )
    with pytest.raises(DeadlineExceeded, match=says):
        raise diagnosis.explain(STAGE, STAGE[-1])
