"""`partwise server`, as a process and from its arguments."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from partwise.cli.main import main
from partwise.launch import listening


def test_a_server_serves_one_coordinator_after_the_other_until_it_is_told_to_stop(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], started
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("0" * 64)
    words = ["server", "--listen", "127.0.0.1:0", "--token-file", str(token_file)]
    server = subprocess.Popen(
        [sys.executable, "-m", "partwise.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = server.stderr.readline()
    address = re.fullmatch(r"server (127\.0\.0\.1:\d+) listens on \1\n", line)[1]
    assert not address.endswith(":0")
    # The line means ready: what takes seconds to import is there.
    assert "libtorch" in Path(f"/proc/{server.pid}/maps").read_text()
    options = ["--servers", address, "--token-file", str(token_file), "--max-tokens", "3"]
    for _ in range(2):
        assert main(["generate", str(tiny_llama), "hi", *options]) == 0
        assert "3 tokens (length)" in capsys.readouterr().err
    server.send_signal(signal.SIGTERM)
    out, err = server.communicate(timeout=10)
    assert (server.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(("asked", "own", "used"), [(0, 0, "all"), (0, 3, 3), (2, 3, 2)])
def test_threads_are_the_coordinators_then_the_servers_then_all(
    asked: int, own: int, used: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, str]] = []

    class Server:
        def __init__(self, name, transport, listener, make_runner) -> None:
            self.make_runner = make_runner

        def run(self) -> None:
            self.make_runner(options)

    from partwise.part.runner import RunnerOptions

    options = RunnerOptions(
        plan=None, part="", model=None, model_path=Path(), store=None, threads=asked,
        on_progress=print,
    )  # fmt: skip
    monkeypatch.setattr(listening, "PartServer", Server)
    monkeypatch.setattr(
        listening,
        "make_planned_runner",
        lambda made_of: made.append((made_of.threads, made_of.device)),
    )
    monkeypatch.setattr(listening.signal, "signal", lambda *_: None)
    monkeypatch.setattr(
        listening, "os", SimpleNamespace(_exit=lambda _: None, sched_getaffinity=lambda _: range(7))
    )
    listening.serve("name", None, None, threads=own, device="cuda:1")
    assert made == [(7 if used == "all" else used, "cuda:1")]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--listen", "127.0.0.1:0", "--token-file", "absent"], 1, "cannot read the token file"),
        (["--listen", "127.0.0.1:0", "--token-file", "SHORT"], 1, "has 5 bytes, at least 16 are"),
        (["--listen", "192.0.2.1:0", "--token-file", "LONG"], 1, "cannot listen on 192.0.2.1:0"),
        (["--listen", "nowhere", "--token-file", "LONG"], 2, "'nowhere' is not HOST:PORT"),
        (["--listen", "h:1", "--token-file", "LONG", "--threads", "0"], 2, "--threads is 0"),
        (["--listen", "h:1", "--token-file", "LONG", "--threads", "1025"], 2, "at most 1024"),
        (["--listen", "127.0.0.1:0"], 2, "--token-file"),
        (["--listen", "h:1", "--token-file", "LONG", "--device", "gpu"], 2, "'gpu' is not known"),
        (
            ["--listen", "h:1", "--token-file", "LONG", "--device", "cuda:999"],
            1,
            "cuda:999 is not there: ",
        ),
        (
            ["--listen", "h:1", "--token-file", "LONG", "--device", "cuda", "--runner", "onnx"],
            2,
            "--runner onnx computes on CPUs alone and --device is cuda: leave one of them out",
        ),
        (
            ["--listen", "h:1", "--token-file", "LONG", "--device", "cuda", "--runner", "module"],
            2,
            "--runner module computes on CPUs alone",
        ),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"SHORT": tmp_path / "short", "LONG": tmp_path / "long"}
    files["SHORT"].write_text("short\n")
    files["LONG"].write_text("0" * 64)
    assert main(["server", *(str(files.get(word, word)) for word in words)]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("partwise: ")
    assert says in err
