"""The parameter store: any slice of any parameter of a model, checked as it is read."""

from __future__ import annotations

from partwise.store.aligned import aligned_empty
from partwise.store.digests import BLOCK_BYTES
from partwise.store.manifest import Manifest, Shard, StoredTensor
from partwise.store.reader import Store

__all__ = ["BLOCK_BYTES", "Manifest", "Shard", "Store", "StoredTensor", "aligned_empty"]
