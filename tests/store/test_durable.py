from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from partwise.errors import StoreError
from partwise.store.durable import locked, replace_file, sync_folder

# Python 3.12 warns of fork where a framework has started threads; these children use none.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.mark.quiet
def test_the_lock_excludes_other_threads_and_its_wait_has_a_deadline(tmp_path: Path) -> None:
    with locked(tmp_path):
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"was held by another process for 0.1 s"):
            locked(tmp_path, timeout_s=0.1).__enter__()
        assert time.monotonic() - start < 2
    with locked(tmp_path, timeout_s=0.1):
        pass


def test_a_waiting_writer_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    order = []

    def wait() -> None:
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.05)
        order.append("first")
    waiter.join(5)
    assert order == ["first", "second"]


def test_a_killed_writer_leaves_neither_a_lock_nor_half_a_file(tmp_path: Path) -> None:
    replace_file(tmp_path / "data", b"old")
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            (tmp_path / "data.tmp").write_bytes(b"half of a much longer content")
            os.write(tell, b".")
            signal.pause()
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(tell)
    with locked(tmp_path, timeout_s=1):
        assert (tmp_path / "data").read_bytes() == b"old"
        replace_file(tmp_path / "data", b"new")
    assert (tmp_path / "data").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "lock"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*missing/data \(3 bytes\)"):
        replace_file(tmp_path / "missing" / "data", b"new")


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot sync the folder .*missing: No such file"):
        sync_folder(tmp_path / "missing")
