"""Finished lines of a commit, kept between runs in .accept/COMMIT.json."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import msgspec

from accept.line import Record

# Benchmarks write results into the checkout; that changes nothing of what they measure.
NOT_RESULTS = ("--", ".", ":(exclude)bench/results")


class State:
    """Records by line id. Written whole after each line, so that a stop loses only one."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier run left at ``path``.

        Raises:
            ValueError: it is not what a run leaves.
        """
        self.path = path
        self.records: dict[str, Record] = {}
        if path.is_file():
            try:
                self.records = msgspec.json.decode(path.read_bytes(), type=dict[str, Record])
            except msgspec.MsgspecError as exc:
                raise ValueError(f"cannot read {path}: {exc}; delete it") from exc

    def put(self, line_id: str, record: Record) -> None:
        """Remember ``record``."""
        self.records[line_id] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self.records), indent=1))
        draft.replace(self.path)


def name_commit(root: Path) -> str:
    """The commit of the checkout at ``root``; with a digest of what differs from it, if
    anything does: a line that passed before an edit is run again after it."""
    commit = git(root, "rev-parse", "HEAD").decode().strip()
    digest = hashlib.sha256(git(root, "diff", "HEAD", "--binary", *NOT_RESULTS))
    untracked = git(root, "ls-files", "-z", "--others", "--exclude-standard", *NOT_RESULTS)
    for name in filter(None, untracked.split(b"\0")):
        digest.update(name + b"\0" + (root / os.fsdecode(name)).read_bytes())
    is_clean = digest.digest() == hashlib.sha256().digest()
    return commit if is_clean else f"{commit}-changed-{digest.hexdigest()[:12]}"


def git(root: Path, *words: str) -> bytes:
    """The output of a git command."""
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True).stdout
