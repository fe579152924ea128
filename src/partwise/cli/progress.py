"""Progress of long work on stderr: a bar on a terminal, one plain line per step elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self


class Progress:
    """Follows work that reports ``(step, done, total)``; one step after the other.

    A context manager: leaving it closes the bar. Use from one thread.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._step: str | None = None
        self._bar: Any = None

    def report(self, step: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` units of ``step`` are finished."""
        if step != self._step:
            self._start(step, total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the bar of the last step."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._step = None

    def _start(self, step: str, total: int) -> None:
        self.close()
        self._step = step
        if not self._is_terminal:
            print(f"{step} ({total})", file=sys.stderr, flush=True)
            return
        from tqdm import tqdm

        self._bar = tqdm(desc=step, total=total, file=sys.stderr, leave=True, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
