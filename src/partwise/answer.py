"""A running generation as text."""

from __future__ import annotations

from collections.abc import Iterator

from partwise.engine.sequence import FinishReason, Generation
from partwise.engine.text import Text


class Answer:
    """A running generation as text. Iterating gives its pieces as they come, and leaving the
    loop before the end cancels it.

    ``token_ids`` grow as it runs; ``finish_reason`` is set at its end.
    """

    def __init__(self, generation: Generation, text: Text) -> None:
        self.token_ids: list[int] = []
        self.generation = generation
        self._text = text

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._text.stream(self._ids())
        finally:
            if self.finish_reason is None:  # nobody listens any more
                self.cancel()

    def _ids(self) -> Iterator[int]:
        for token in self.generation:
            self.token_ids.append(token.token_id)
            yield token.token_id

    def cancel(self) -> None:
        """Stop generating."""
        self.generation.cancel()

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text.decode(self.token_ids)

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt has."""
        return len(self.generation.request.prompt_ids)

    @property
    def max_tokens(self) -> int:
        """How many tokens it may have: fewer than were asked for where the context ends."""
        return self.generation.request.max_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it runs."""
        return self.generation.finish_reason
