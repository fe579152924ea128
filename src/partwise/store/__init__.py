"""The parameter store: any slice of any parameter of a model, checked as it is read."""

from __future__ import annotations

from partwise.store.aligned import aligned_empty
from partwise.store.digests import BLOCK_BYTES
from partwise.store.manifest import Manifest, Shard, StoredTensor
from partwise.store.quantized import Quantized
from partwise.store.reader import Store
from partwise.store.versions import list_versions, open_version
from partwise.store.writer import VersionWriter, new_version

__all__ = [
    "BLOCK_BYTES",
    "Manifest",
    "Quantized",
    "Shard",
    "Store",
    "StoredTensor",
    "VersionWriter",
    "aligned_empty",
    "list_versions",
    "new_version",
    "open_version",
]
