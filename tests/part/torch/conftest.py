from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from support.passes import save_family


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the model of a name, made when it is first asked for."""

    @cache
    def find(name: str) -> Path:
        return save_family(tmp_path_factory.mktemp(name.replace(" ", "-")), name)

    return find
