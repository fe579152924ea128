"""Bad input: one clear line on stderr, exit code 1, nothing left running."""

from __future__ import annotations

import io
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from partwise import deployment
from partwise.cli.main import main
from partwise.distributor import balance_layers, encode_plan
from partwise.distributor.plan import Plan
from partwise.model import open_model
from partwise.remote.tcp import TcpTransport

pytestmark = pytest.mark.usefixtures("started")


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that fails before it starts a server; its one line."""
    monkeypatch.setattr(deployment, "LocalServers", lambda *_: pytest.fail("a server starts"))

    def run(*words: object, code: int = 1) -> str:
        assert main([str(word) for word in words]) == code
        out, err = capsys.readouterr()
        notes = [line for line in err.splitlines() if not line.startswith("loading bytes")]
        assert out == ""
        assert len(notes) == 1, err
        assert notes[0].startswith("partwise: ")
        return notes[0]

    return run


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy to damage, without what a store keeps beside it."""
    return copy_model(tiny_llama, tmp_path / "model")


def copy_model(source: Path, to: Path) -> Path:
    shutil.copytree(source, to, ignore=shutil.ignore_patterns(".partwise"))
    return to


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_prompt_on_stdin_that_is_not_utf_8(
    model: Path, fail: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    assert "stdin is not UTF-8 text" in fail("generate", model, "-")


def write_plan(folder: Path, plan: Plan) -> Path:
    path = folder / "plan.json"
    path.write_bytes(encode_plan(plan))
    return path


def local_plan(model: Path) -> Plan:
    return balance_layers(open_model(model), ["local-0", "local-1"])


# The model


def test_a_missing_shard_is_named(fail, model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    shards = {"one.safetensors": list(tensors)[::2], "two.safetensors": list(tensors)[1::2]}
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, model / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {}, "weight_map": weight_map}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "two.safetensors").unlink()
    assert "two.safetensors" in fail("generate", model, "hi")


def test_a_truncated_shard_is_named(fail, model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    line = fail("generate", model, "hi")
    assert "model.safetensors" in line
    assert "truncated" in line or "bytes" in line


def test_an_unknown_architecture_is_named(fail, model: Path) -> None:
    edit_json(model / "config.json", architectures=["MysteryForCausalLM"])
    assert "MysteryForCausalLM" in fail("generate", model, "hi")


def test_more_parts_than_layers_are_refused(fail, tiny_llama: Path) -> None:
    line = fail("generate", tiny_llama, "hi", "--parts", 99)
    assert "99 parts are more than the 9 layers" in line


# The prompt


def test_a_prompt_longer_than_the_context_is_refused(fail, tiny_llama: Path) -> None:
    line = fail("generate", tiny_llama, "x" * 600, "--raw")
    assert "the prompt has 600 tokens and the context" in line
    assert "shorten it to 511 or fewer" in line


@pytest.mark.parametrize("form", ["--raw", "--chat"])
def test_an_empty_prompt_is_refused(fail, tiny_llama: Path, form: str) -> None:
    assert "the prompt is empty" in fail("generate", tiny_llama, "", form)


def test_an_empty_prompt_on_stdin_is_refused(
    fail, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "the prompt is empty" in fail("generate", tiny_llama, "-")


# The plan


def test_a_plan_for_another_model_is_refused(
    fail, tiny_llama: Path, tiny_gpt2: Path, tmp_path: Path
) -> None:
    plan = write_plan(tmp_path, local_plan(tiny_gpt2))
    line = fail("generate", tiny_llama, "hi", "--plan", plan)
    assert "the plan is for another model" in line


def test_a_plan_for_the_model_with_another_config_is_refused(
    fail, tiny_llama: Path, model: Path, tmp_path: Path
) -> None:
    plan = write_plan(tmp_path, local_plan(tiny_llama))
    edit_json(model / "config.json", rope_theta=77.0, rope_parameters=None)
    line = fail("generate", model, "hi", "--plan", plan)
    assert "the plan is for another model" in line


@pytest.mark.parametrize(("shift", "says"), [(1, "has a gap"), (-1, "overlaps")])
def test_a_plan_with_a_gap_or_an_overlap_is_refused(
    fail, tiny_llama: Path, tmp_path: Path, shift: int, says: str
) -> None:
    plan = local_plan(tiny_llama)
    first, second = plan.stages
    moved = msgspec.structs.replace(second, start=second.start + shift)
    plan = msgspec.structs.replace(plan, stages=(first, moved))
    assert says in fail("generate", tiny_llama, "hi", "--plan", write_plan(tmp_path, plan))


def test_a_plan_with_an_unknown_server_is_refused(fail, tiny_llama: Path, tmp_path: Path) -> None:
    plan = balance_layers(open_model(tiny_llama), ["local-0", "lab-7"])
    line = fail("generate", tiny_llama, "hi", "--plan", write_plan(tmp_path, plan))
    assert "unknown server 'lab-7'" in line


@pytest.mark.parametrize("content", [None, b"{}", b"not json"])
def test_a_plan_that_is_none_is_refused(
    fail, tiny_llama: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    assert "plan" in fail("generate", tiny_llama, "hi", "--plan", path)


# The servers


def test_a_server_that_nobody_started_is_named(fail, tiny_llama: Path, thread_servers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
    line = fail(
        "generate", tiny_llama, "hi", "--servers", address,
        "--token-file", thread_servers.token_file,
    )  # fmt: skip
    assert f"cannot reach server {address}" in line


def test_a_server_that_does_not_answer_is_named(
    fail, tiny_llama: Path, thread_servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TcpTransport.connect, "__kwdefaults__", {"deadline_s": 0.5})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        line = fail(
            "generate", tiny_llama, "hi", "--servers", address,
            "--token-file", thread_servers.token_file,
        )  # fmt: skip
    assert f"server {address} did not finish the handshake in 0.5 s" in line


def test_a_wrong_token_is_refused(fail, tiny_llama: Path, tmp_path: Path, thread_servers) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("f" * 64)
    address = thread_servers.addresses[0]
    line = fail(
        "generate", tiny_llama, "hi", "--servers", address, "--token-file", token_file
    )  # fmt: skip
    assert f"server {address} refused our token" in line


def test_a_port_in_use_is_named(fail, thread_servers) -> None:
    address = thread_servers.addresses[0]
    line = fail("server", "--listen", address, "--token-file", thread_servers.token_file)
    assert f"cannot listen on {address}: Address already in use" in line


# The numbers


def test_logits_that_are_not_numbers_stop_and_name_the_part(
    fail, model: Path, thread_servers
) -> None:
    path = model / "model.safetensors"
    tensors = {name: np.array(tensor) for name, tensor in load_file(path).items()}
    tensors["model.layers.4.mlp.down_proj.weight"][3, 5] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
    line = fail("generate", model, "hi", *thread_servers.options)
    assert "part1 (blocks" in line
    assert "computed NaN or infinity" in line


def test_servers_take_the_next_coordinator_after_failures(tiny_llama: Path, thread_servers) -> None:
    words = ["generate", str(tiny_llama), "hi", "--max-tokens", "3", *thread_servers.options]
    assert main(words) == 0
