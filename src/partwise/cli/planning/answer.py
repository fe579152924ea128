"""One plan for a cluster, ready to be printed and written."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partwise.cli.planning.document import describe_planned
from partwise.errors import PlanError

if TYPE_CHECKING:
    from partwise.distributor.compare import Planned
    from partwise.distributor.picture import Picture
    from partwise.distributor.plan import Plan
    from partwise.distributor.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAnswer:
    """A plan, its JSON document and its picture, for one number of streams."""

    plan: Plan
    document: dict[str, Any]
    picture: Picture

    @property
    def streams(self) -> int:
        """The number of streams that the figures are for."""
        streams: int = self.document["streams"]
        return streams


def answer(problem: Problem, strategy: str, planned: Planned) -> PlanAnswer:
    """What is to be said of the plan that ``strategy`` made for ``problem``."""
    from partwise.distributor.picture import arrange

    return PlanAnswer(
        plan=planned.plan,
        document=describe_planned(problem, strategy, planned),
        picture=arrange(planned.plan, problem.model, planned.prediction),
    )


def write_files(
    args: argparse.Namespace, plan: Plan, picture: Picture, heading: str, notes: list[str]
) -> None:
    """Write the plan and its picture, each where it was asked for.

    Raises:
        PlanError: a file cannot be written.
    """
    from partwise.distributor import encode_plan
    from partwise.distributor.picture_svg import draw_svg

    if args.out is not None:
        _write(args.out, encode_plan(plan), "the plan", "--out")
    if args.svg is not None:
        _write(args.svg, draw_svg(picture, heading, notes).encode(), "the picture", "--svg")


def _write(path: Path, data: bytes, what: str, option: str) -> None:
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise PlanError(
            f"cannot write {what} to {path}: {exc.strerror}; give another {option}"
        ) from exc
