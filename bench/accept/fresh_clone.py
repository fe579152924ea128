"""`make demo` in a fresh clone of this repository's HEAD, which sets everything up by itself.

Then, in the clone: the demo's answer as JSON against transformers' own ids, and a second
set-up, which must do nothing. Prints its figures as a JSON line.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = "models/SmolLM2-135M-Instruct"
QUESTION = "What is the capital of France?"
MAX_TOKENS = "64"
PART_ROW = re.compile(r"^(part\d+) ", re.MULTILINE)
"""In the tables of parts and of links; a part has rows in both."""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the clone as somebody without our environment would."""
    ours = str(Path(sys.executable).parent)
    path = [one for one in os.environ["PATH"].split(os.pathsep) if one != ours]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": os.pathsep.join(path)}, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    sys.stderr.write(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        sys.exit(f"{' '.join(words)} ended with exit code {done.returncode}: {last}")
    return done


def modified_ns(folder: Path) -> list[int]:
    """When the set-up and the model's import ended last."""
    names = (".venv/.setup-done", f"{MODEL}/source.json", f"{MODEL}/config.json")
    return [(folder / name).stat().st_mtime_ns for name in names]


def show(folder: Path) -> dict[str, Any]:
    """The figures of the clone in ``folder``."""
    start_s = time.monotonic()
    demo = run(folder, "make", "demo")
    demo_s = time.monotonic() - start_s
    command = (".venv/bin/partwise", "generate", MODEL, QUESTION, "--parts", "3", "--chat")
    answer = json.loads(run(folder, *command, "--max-tokens", MAX_TOKENS, "--json").stdout)
    script = "bench/accept/reference_answer.py"
    words = (".venv/bin/python", script, MODEL, QUESTION, MAX_TOKENS)
    reference = json.loads(run(folder, *words).stdout.splitlines()[-1])
    before = modified_ns(folder)
    start_s = time.monotonic()
    run(folder, "make", "setup", "model")
    return {
        "says_paris": "Paris" in demo.stdout and reference["text"] in demo.stdout,
        "num_parts": len(answer["parts"]),
        "num_parts_shown": len(set(PART_ROW.findall(demo.stderr))),
        "ids_equal": answer["token_ids"] == reference["token_ids"],
        "is_set_up_once": modified_ns(folder) == before,
        "demo_s": demo_s,
        "second_set_up_s": time.monotonic() - start_s,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="partwise-") as scratch:
        clone = Path(scratch) / "partwise"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        figures = show(clone)
    print(json.dumps(figures))
