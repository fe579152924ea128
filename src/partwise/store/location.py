"""Where the store of a model keeps its manifests and digests.

Beside the model where that can be written, else in the user's cache. The choice is made
once per opening; two users of one model may so have a folder each.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from partwise.errors import StoreError

LAST_NAME = "last"
"""Beside the version folders: the last number that was given, for its folder may be removed."""
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def version_folder(model: Path, version: int) -> Path:
    """The folder of one version, made if needed and proven writable.

    Raises:
        StoreError: neither the model's directory nor the user's cache can be written.
    """
    refused: list[str] = []
    for root in roots_of(model):
        folder = root / "versions" / f"{version:08d}"
        try:
            _prove_writable(folder)
        except OSError as exc:
            if exc.errno not in _NOT_WRITABLE:
                raise StoreError(f"cannot make the store folder {folder}: {exc.strerror}") from exc
            refused.append(str(folder))
        else:
            return folder
    raise StoreError(
        f"no permission to write the store in {' or '.join(refused)}: "
        "permit one of them, or set XDG_CACHE_HOME to a folder of yours"
    )


def roots_of(model: Path) -> Iterator[Path]:
    """Where a store of ``model`` may be, the best place first.

    Raises:
        StoreError: the second is asked for, and this user has no home directory.
    """
    yield _beside(model)
    yield _in_cache(model)


def last_number(model: Path) -> int:
    """The highest number that a version of ``model`` was given, wherever it is: readers look in
    all these places, so that a number has to be one version's in all of them. 0: there is none.

    A user without a home directory has but the first place. Caches of other users are not seen,
    neither here nor by readers.
    """
    numbers = [0]
    with contextlib.suppress(StoreError):
        for root in roots_of(model):
            folders = (root / "versions").glob("[0-9]*")
            numbers += [int(folder.name) for folder in folders if folder.name.isdecimal()]
            numbers.append(_read_number(root / "versions" / LAST_NAME))
    return max(numbers)


def _read_number(path: Path) -> int:
    """Folders tell what a file that is missing or torn does not, but for removed ones."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _beside(model: Path) -> Path:
    return model / ".partwise"


def _in_cache(model: Path) -> Path:
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as exc:
        raise StoreError(
            f"no permission to write a store in {model}, and this user has no home directory: "
            "set XDG_CACHE_HOME to a folder of yours"
        ) from exc
    key = hashlib.sha256(os.fsencode(model.resolve())).hexdigest()[:16]
    return cache / "partwise" / "stores" / key


def _prove_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Opening the lock for writing is what every later write does first; unlike os.access it
    # also sees read-only mounts and the effective user.
    os.close(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
    if not os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
