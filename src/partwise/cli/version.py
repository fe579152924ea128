"""The option that names a version of a model's parameters. `--version` alone is partwise's own."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from partwise.errors import UsageError

if TYPE_CHECKING:
    from partwise.model.description import Model


def add_version(parser: argparse.ArgumentParser) -> None:
    """Declare ``--model-version``."""
    parser.add_argument(
        "--model-version",
        metavar="N",
        type=int,
        help="a version that `partwise compress` made (default: 0, the model's own files)",
    )


def check_version(version: int | None) -> None:
    """Refuse a number that no version has.

    Raises:
        UsageError: it is negative.
    """
    if version is not None and version < 0:
        raise UsageError(
            f"--model-version is {version}: give 0, or what `partwise compress` printed"
        )


def open_chosen(args: argparse.Namespace) -> Model:
    """The model that the command line names, as it is in the version that it names.

    Raises:
        UsageError: no version has that number.
        ModelError, StoreError: as `open_version`.
    """
    from partwise.model import open_model

    check_version(args.model_version)
    if not args.model_version:  # spares importing numpy
        return open_model(args.model)
    from partwise.store import open_version

    return open_version(args.model, args.model_version)
