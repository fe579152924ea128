"""A benchmark that fails ends by itself and leaves nothing running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent.parent / "bench"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=BENCH, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_hop_that_cannot_be_measured_ends_its_servers(started) -> None:
    done = run("hop.py", "--model", "/nonexistent")
    assert done.returncode == 1
    assert "ModelError" in done.stderr
    assert started.processes() == []


def test_a_decode_that_fails_ends_transformers_and_the_parts(started, tiny_llama: Path) -> None:
    code = (
        "import pathlib, decode;"
        f"decode.SMOLLM2 = pathlib.Path({str(tiny_llama)!r});"
        "deploy = decode.deploy;"
        "decode.deploy = lambda stack, parts, *_: deploy(stack, 1, 1 // (2 - parts));"
        "decode.main()"
    )
    done = run("-c", code)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert started.wait_for_end(3) == []
