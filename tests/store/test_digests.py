from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from partwise.errors import DigestMismatch, StoreError
from partwise.store import Store

# Python 3.12 warns of fork where a framework has started threads; these children use none.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

BLOCK = 64
"""Bytes: 16 elements of fp32."""


@pytest.fixture
def model(tmp_path: Path, write_model) -> Path:
    arrays = {f"t{i}": np.arange(40, dtype=np.float32) + i for i in range(16)}
    return write_model(tmp_path, {"odd": np.zeros(1, np.float16), **arrays})


def recorded(store: Store) -> dict[str, list[str | None]]:
    return msgspec.json.decode((store.location / "digests.json").read_bytes())["sha256"]


def test_blocks_count_from_the_start_of_their_tensor(model: Path) -> None:
    with Store.open(model, block_bytes=BLOCK) as store:
        store.read("t3", (slice(20, 21),))
        assert not (store.location / "digests.json").exists()
    block = (np.arange(40, dtype=np.float32) + 3)[16:32].tobytes()
    assert recorded(store) == {"t3": [None, hashlib.sha256(block).hexdigest(), None]}
    with store:
        store.read("t3")
    last = (np.arange(40, dtype=np.float32) + 3)[32:].tobytes()
    assert recorded(store)["t3"][2] == hashlib.sha256(last).hexdigest()


def test_a_flipped_byte_is_found_by_the_second_read(model: Path, flip_byte) -> None:
    store = Store.open(model, block_bytes=BLOCK)
    store.read("t3")
    offset = store.manifest.tensors["t3"].offset
    flip_byte(model / "model.safetensors", offset + 70)
    expected = (
        rf"block 1 of tensor 't3' .* bytes {offset + 64}:{offset + 128} of model.safetensors"
        rf".*restore that file.*delete .*digests.json"
    )
    with pytest.raises(DigestMismatch, match=expected):
        store.read("t3")
    assert store.read("t3", (slice(0, 16),)).tolist() == [3 + i for i in range(16)]


def test_a_flipped_byte_beside_the_slice_is_found_in_its_block(model: Path, flip_byte) -> None:
    store = Store.open(model, block_bytes=BLOCK)
    store.read("t3")
    flip_byte(model / "model.safetensors", store.manifest.tensors["t3"].offset + 159)
    with pytest.raises(DigestMismatch, match=r"block 2 .*bytes \d+:\d+ of"):
        store.read("t3", (slice(32, 33),))


def _read_all(model: Path, outcome) -> None:
    try:
        with Store.open(model, block_bytes=BLOCK) as store:
            store.read("t3")
        outcome.put("read")
    except DigestMismatch as exc:
        outcome.put(str(exc))


def test_a_flipped_byte_is_found_by_another_process(model: Path, flip_byte) -> None:
    with Store.open(model, block_bytes=BLOCK) as store:
        store.read("t3")
    flip_byte(model / "model.safetensors", store.manifest.tensors["t3"].offset)
    fork = multiprocessing.get_context("fork")
    outcome = fork.SimpleQueue()
    process = fork.Process(target=_read_all, args=(model, outcome))
    process.start()
    process.join(20)
    assert "block 0 of tensor 't3'" in outcome.get()


def test_deleting_the_side_file_accepts_the_files_as_they_are(model: Path, flip_byte) -> None:
    with Store.open(model, block_bytes=BLOCK) as store:
        store.read("t3")
    flip_byte(model / "model.safetensors", store.manifest.tensors["t3"].offset)
    (store.location / "digests.json").unlink()
    with Store.open(model, block_bytes=BLOCK) as store:
        store.read("t3")


def _read_some(model: Path, names: list[str], barrier) -> None:
    store = Store.open(model, block_bytes=BLOCK)
    barrier.wait(20)
    for name in names:
        with store:
            store.read(name)


def test_four_processes_that_record_at_once_keep_all_digests(model: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)
    shares = [[f"t{i}" for i in range(part, 16, 4)] + ["odd"] for part in range(4)]
    processes = [fork.Process(target=_read_some, args=(model, s, barrier)) for s in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    found = recorded(Store.open(model, block_bytes=BLOCK))
    assert sorted(found) == sorted(["odd", *(f"t{i}" for i in range(16))])
    assert all(None not in digests for digests in found.values())


def test_two_first_reads_of_different_bytes_conflict_when_they_are_merged(
    model: Path, flip_byte
) -> None:
    first, second = (Store.open(model, block_bytes=BLOCK) for _ in range(2))
    first.read("t3")
    flip_byte(model / "model.safetensors", first.manifest.tensors["t3"].offset)
    second.read("t3")
    first.flush()
    with pytest.raises(DigestMismatch, match=r"block 0 .* other bytes by another process"):
        second.flush()


def test_nothing_new_writes_nothing(model: Path) -> None:
    with Store.open(model, block_bytes=BLOCK) as store:
        store.read("t3")
    before = (store.location / "digests.json").stat().st_mtime_ns
    with Store.open(model, block_bytes=BLOCK) as store:
        store.read("t3")
    assert (store.location / "digests.json").stat().st_mtime_ns == before


def test_digests_are_saved_even_when_the_reading_fails(model: Path) -> None:
    store = Store.open(model, block_bytes=BLOCK)

    def read_both() -> None:
        with store:
            store.read("t3")
            store.read("t99")

    with pytest.raises(StoreError, match="no tensor"):
        read_both()
    assert None not in recorded(store)["t3"]


def _damage(data: bytes, how: str) -> bytes:
    content = msgspec.json.decode(data)
    match how:
        case "torn":
            return data[: len(data) // 2]
        case "empty":
            return b""
        case "not a digest":
            content["sha256"]["t3"][0] = "abc"
        case "format":
            content["format"] = 9
        case "too few blocks":
            content["sha256"]["t3"].pop()
        case "unknown tensor":
            content["sha256"]["t99"] = []
        case "other headers":
            content["manifest_sha256"] = "0" * 64
    return msgspec.json.encode(content)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("torn", "torn or not a digest file"),
        ("empty", "torn or not a digest file"),
        ("not a digest", "torn or not a digest file"),
        ("format", "of format 9"),
        ("too few blocks", "at odds with the model about tensor 't3'"),
        ("unknown tensor", "at odds with the model about tensor 't99'"),
        ("other headers", "for other headers"),
    ],
)
def test_an_invalid_side_file_is_an_error_with_advice(model: Path, how: str, message: str) -> None:
    with Store.open(model, block_bytes=BLOCK) as store:
        store.read("t3")
    path = store.location / "digests.json"
    path.write_bytes(_damage(path.read_bytes(), how))
    with pytest.raises(StoreError, match=rf"{message}.*delete it and open the model again"):
        Store.open(model, block_bytes=BLOCK)


def test_digests_of_other_blocks_are_refused(model: Path) -> None:
    with Store.open(model, block_bytes=BLOCK) as store:
        store.read("t3")
    with pytest.raises(StoreError, match="for blocks of 64 bytes, not 128"):
        Store.open(model, block_bytes=128)


def test_a_stale_temporary_file_does_no_harm(model: Path) -> None:
    store = Store.open(model, block_bytes=BLOCK)
    (store.location / "digests.json.tmp").write_bytes(b'{"format": 1, "sha')
    with store:
        store.read("t3")
    assert list(recorded(store)) == ["t3"]
    assert not (store.location / "digests.json.tmp").exists()


def test_a_model_replaced_while_it_is_open_is_not_recorded(
    model: Path, tmp_path: Path, write_model
) -> None:
    store = Store.open(model, block_bytes=BLOCK)
    store.read("t3")
    write_model(tmp_path, {"t3": np.zeros(4, np.float32)})
    Store.open(model, block_bytes=BLOCK)
    with pytest.raises(StoreError, match="made anew while the model was open"):
        store.flush()
    assert not (store.location / "digests.json").exists()
