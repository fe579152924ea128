"""Digests of stored bytes: recorded when a block is first read, checked ever after.

A block is a run of one tensor's bytes, counted from the tensor's start, so that a part that
owns whole tensors hashes just its own bytes. The digests live in a side file beside the
manifest; many processes add to it, each merging what it has read. Nothing here reads blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from partwise.errors import DigestMismatch, StoreError
from partwise.store.durable import locked, replace_file
from partwise.store.manifest import (
    DIGESTS_NAME,
    MANIFEST_NAME,
    Manifest,
    fingerprint_of,
    read_manifest,
)

BLOCK_BYTES = 16 * 2**20
"""Large enough that a digest is 2 millionths of its bytes, small enough that a slice reads
little beyond its own."""

DIGESTS_FORMAT = 1

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class DigestFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The side file: for each tensor the digest of each block, null where not read yet."""

    format: int = DIGESTS_FORMAT
    manifest_sha256: Digest
    block_bytes: int
    sha256: dict[str, list[Digest | None]]


class DigestBook:
    """The digests of one version, as far as they are known. One thread at a time."""

    def __init__(self, folder: Path, manifest: Manifest, block_bytes: int) -> None:
        """Load the side file of ``folder``; ``manifest`` is the one that stands beside it.

        Raises:
            StoreError: the side file is torn, invalid, or of another manifest.
        """
        self.path = folder / DIGESTS_NAME
        self.block_bytes = block_bytes
        self._manifest = manifest
        self._manifest_sha256 = fingerprint_of(manifest)
        self._known = self._load()
        self._unsaved: dict[tuple[str, int], str] = {}

    def check(self, name: str, block: int, digest: str) -> None:
        """Compare a digest with the one on record, or record it where there is none.

        Raises:
            DigestMismatch: the bytes are not those first read.
        """
        digests = self._known.setdefault(name, self._blank(name))
        if digests[block] is None:
            digests[block] = self._unsaved[name, block] = digest
        elif digests[block] != digest:
            raise self._mismatch(name, block, "differs from its digest of the first read")

    def known(self, name: str) -> list[str | None]:
        """The digests of a tensor's blocks, as far as they are on record."""
        return list(self._known.get(name) or self._blank(name))

    def flush(self) -> None:
        """Add what was recorded since the last flush to the side file.

        Raises:
            DigestMismatch: another process has first read other bytes of the same block.
            StoreError: the side file is invalid, cannot be written, or was made anew for
                other headers.
        """
        if not self._unsaved:
            return
        with locked(self.path.parent):
            if read_manifest(self.path.with_name(MANIFEST_NAME)) != self._manifest:
                raise StoreError(
                    f"the manifest beside {self.path} was made anew while the model was open: "
                    "its files were changed, open it again"
                )
            merged = self._load()
            for (name, block), digest in self._unsaved.items():
                digests = merged.setdefault(name, self._blank(name))
                if digests[block] not in (None, digest):
                    raise self._mismatch(name, block, "was read as other bytes by another process")
                digests[block] = digest
            replace_file(self.path, self._encode(merged))
        self._known = merged
        self._unsaved = {}

    def write(self, sha256: Mapping[str, Sequence[str | None]]) -> None:
        """Make ``sha256`` the digests of a version whose manifest is not in place yet.

        Raises:
            StoreError: the side file cannot be written.
        """
        replace_file(self.path, self._encode({name: list(d) for name, d in sha256.items()}))

    def _blank(self, name: str) -> list[str | None]:
        return [None] * -(-self._manifest.tensors[name].num_bytes // self.block_bytes)

    def _encode(self, sha256: dict[str, list[str | None]]) -> bytes:
        return msgspec.json.encode(
            DigestFile(
                manifest_sha256=self._manifest_sha256, block_bytes=self.block_bytes, sha256=sha256
            ),
            order="deterministic",
        )

    def _load(self) -> dict[str, list[str | None]]:
        try:
            file = msgspec.json.decode(self.path.read_bytes(), type=DigestFile)
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise StoreError(f"cannot read the digests {self.path}: {exc.strerror}") from exc
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._invalid(f"torn or not a digest file ({exc})") from exc
        if file.format != DIGESTS_FORMAT:
            raise self._invalid(f"of format {file.format}, this partwise reads {DIGESTS_FORMAT}")
        if file.block_bytes != self.block_bytes:
            raise self._invalid(f"for blocks of {file.block_bytes} bytes, not {self.block_bytes}")
        if file.manifest_sha256 != self._manifest_sha256:
            raise self._invalid("for other headers than those this process opened")
        for name, digests in file.sha256.items():
            if name not in self._manifest.tensors or len(digests) != len(self._blank(name)):
                raise self._invalid(f"at odds with the model about tensor {name!r}")
        return file.sha256

    def _invalid(self, what: str) -> StoreError:
        return StoreError(
            f"the digests {self.path} are {what}: if you trust the model's files as they are, "
            "delete it and open the model again, they are then digested anew"
        )

    def _mismatch(self, name: str, block: int, what: str) -> DigestMismatch:
        tensor = self._manifest.tensors[name]
        start = block * self.block_bytes
        stop = min(start + self.block_bytes, tensor.num_bytes)
        return DigestMismatch(
            f"block {block} of tensor {name!r} {what}: bytes {tensor.offset + start}:"
            f"{tensor.offset + stop} of {tensor.file} have changed; restore that file, or if the "
            f"change was meant, delete {self.path}"
        )
