"""A small model whose kinds of neurons have different counts."""

from __future__ import annotations

import pytest

from partwise.model import Model
from support.large import describe_llama


@pytest.fixture(scope="session")
def model() -> Model:
    """Embedding, four blocks, norm and head: 4 KV groups, 12 MLP units, 30 rows."""
    return describe_llama(num_blocks=4, hidden=16, inner=12, heads=8, kv_heads=4, vocabulary=30)
