"""The manifest: what a version of the parameters consists of, and in which bytes it lies.

Version 0 refers to the model's own shards; nothing is copied. A later version names shards of
its own for what changed, in the same fields, and says how it was made. Digests are not here:
those of version 0 become known when bytes are first read, so they live in a side file
(`digests.py`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from partwise.errors import DamagedModel, StoreError
from partwise.model.headers import TensorEntry, read_headers
from partwise.store.durable import locked, remove_file, replace_file

MANIFEST_FORMAT = 1
MANIFEST_NAME = "manifest.json"
DIGESTS_NAME = "digests.json"
_LENGTH_BYTES = 8
"""safetensors begins with its header's length as a little-endian 64-bit number."""


class Shard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that holds tensors. ``file`` is relative to the model's directory."""

    file: str
    num_bytes: int
    header_sha256: str


class StoredTensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the bytes of one tensor lie: ``num_bytes`` at ``offset`` of ``file``, C-ordered."""

    file: str
    offset: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]


class QuantizedTensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A matrix whose bytes are the tensors NAME.packed, NAME.scales and, where it has zero points,
    NAME.zero_points, as `Quantized` lays them out. ``shape`` is the parameter's; where it
    ``is_transposed`` its inputs come first and the stored matrix is the other way round."""

    bits: int
    block: int
    shape: tuple[int, int]
    has_zero_points: bool = False
    is_transposed: bool = False

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of its tensors end with."""
        return (".packed", ".scales", ".zero_points")[: 2 + self.has_zero_points]


class Derivation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a later version was made. ``config`` holds the values of config.json that differ from
    the model's own; ``quantized`` the parameters that are not stored as they are."""

    parent: int
    recipe: str
    config: dict[str, int | float | str | bool]
    quantized: dict[str, QuantizedTensor]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tensors of one version. Equal manifests refer to the same layout of bytes.

    ``derivation`` is there in every version but 0.
    """

    format: int = MANIFEST_FORMAT
    version: int
    shards: tuple[Shard, ...]
    tensors: dict[str, StoredTensor]
    derivation: Derivation | msgspec.UnsetType = msgspec.UNSET

    @property
    def quantized(self) -> dict[str, QuantizedTensor]:
        """The parameters that are stored as whole numbers, by name."""
        return self.derivation.quantized if self.derivation else {}


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON, the same bytes for the same manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1)


def fingerprint_of(manifest: Manifest) -> str:
    """A digest that ties a side file to its manifest."""
    return hashlib.sha256(encode_manifest(manifest)).hexdigest()


def read_manifest(path: Path) -> Manifest | None:
    """The manifest in a file, or nothing where there is no such file.

    Raises:
        StoreError: the file cannot be read, or is not a manifest that this partwise reads.
    """
    advice = _advise(path.parent)
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StoreError(f"cannot read the manifest {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise StoreError(f"{path} is not a manifest ({exc}): {advice}") from exc
    if manifest.format != MANIFEST_FORMAT:
        raise StoreError(
            f"{path} has format {manifest.format}, this partwise reads {MANIFEST_FORMAT}: {advice}"
        )
    return manifest


def _advise(folder: Path) -> str:
    """What to do about a manifest that is of no use: only version 0's can be made again."""
    if folder.name.isdecimal() and int(folder.name):
        return (
            "nothing else says where this version's weights lie; restore it from a copy, or"
            f" delete the folder {folder}, which is the version (those made from it may refer to"
            " its files), and compress again"
        )
    return f"delete the folder {folder}: it is made again from the model's headers"


def refer_to(model: Path) -> Manifest:
    """Version 0 of a model directory, from the headers of its shards alone.

    Raises:
        DamagedModel: a shard is missing, truncated or contradicts its header.
    """
    entries = read_headers(model)
    files = sorted({_relative(model, entry) for entry in entries.values()})
    return Manifest(
        version=0,
        shards=tuple(describe_shard(model, file) for file in files),
        tensors={name: describe_stored(model, entry) for name, entry in entries.items()},
    )


def adopt(manifest: Manifest, folder: Path) -> None:
    """Make ``manifest`` the one in ``folder``, if the headers have changed or it is the first.

    A manifest made anew starts without digests: those on file were of other bytes.

    Raises:
        StoreError: the manifest on file is invalid, or cannot be written.
    """
    path = folder / MANIFEST_NAME
    if read_manifest(path) == manifest:
        return
    with locked(folder):
        if read_manifest(path) != manifest:
            # Digests go first: a crash in between leaves the old manifest, which is noticed.
            remove_file(folder / DIGESTS_NAME)
            replace_file(path, encode_manifest(manifest))


def _relative(model: Path, entry: TensorEntry) -> str:
    file = Path(entry.file)
    return (file.relative_to(model) if file.is_relative_to(model) else file).as_posix()


def describe_stored(model: Path, entry: TensorEntry) -> StoredTensor:
    """Where a tensor that a header describes lies, seen from the model's directory."""
    return StoredTensor(
        file=_relative(model, entry),
        offset=entry.offset,
        num_bytes=entry.num_bytes,
        dtype=entry.dtype,
        shape=tuple(entry.shape),
    )


def describe_shard(model: Path, name: str) -> Shard:
    """A shard of the model's directory, or of an absolute path.

    Raises:
        DamagedModel: it cannot be read.
    """
    try:
        with (model / name).open("rb") as file:
            length = file.read(_LENGTH_BYTES)
            header = file.read(int.from_bytes(length, "little"))
            num_bytes = file.seek(0, 2)
    except OSError as exc:
        raise DamagedModel(
            f"cannot read shard {model / name}: {exc.strerror}; restore it or permit reading"
        ) from exc
    digest = hashlib.sha256(length + header).hexdigest()
    return Shard(file=name, num_bytes=num_bytes, header_sha256=digest)
