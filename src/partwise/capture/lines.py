"""The line of a module's code that an error is about."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from pathlib import Path
from typing import Any

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_NOWHERE = "an unknown line"


def find_line(node: Any) -> str:
    """Where the operation of an fx ``node`` stands: ``file:line: code``."""
    trace = node.meta.get("stack_trace") or node.stack_trace or ""
    frames = [(match["file"], int(match["line"])) for match in _FRAME.finditer(trace)]
    return _say(frames)


def find_raised(error: BaseException) -> str:
    """The innermost line of the user's code that ``error`` came through."""
    frames = [(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__)]
    # Exporters say in their messages which of the user's lines they stopped at.
    frames += [(match["file"], int(match["line"])) for match in _FRAME.finditer(str(error))]
    return _say(frames)


def _say(frames: list[tuple[str, int]]) -> str:
    own = [frame for frame in frames if not _is_library(frame[0])]
    if not (own or frames):
        return _NOWHERE
    file, line = (own or frames)[-1]
    code = linecache.getline(file, line).strip()
    return f"{file}:{line}" + (f": {code}" if code else "")


def _is_library(file: str) -> bool:
    """Whether ``file`` is torch's or this package's, where users have no code."""
    here = str(Path(__file__).parents[1])
    libraries = [f"{sysconfig.get_paths()[key]}/torch/" for key in ("purelib", "platlib")]
    stdlib = sysconfig.get_paths()["stdlib"]
    is_stdlib = file.startswith(stdlib) and "site-packages" not in file
    return file.startswith((here, *libraries, "<")) or is_stdlib
