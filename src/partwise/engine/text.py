"""Text in, text out: the model's tokenizer, its chat template, and streaming."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from partwise.errors import ModelError, PromptError


class Text:
    """What turns a model's ids into text and back. Reads the files beside its weights."""

    def __init__(self, directory: Path) -> None:
        """Read the tokenizer in ``directory``.

        Raises:
            ModelError: there is none, or it cannot be read.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{directory} has no tokenizer.json: copy the one that belongs to the model there"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as exc:  # tokenizers raises bare Exception
            raise ModelError(f"cannot read {path}: {exc}") from exc
        self._config = _read_json(directory / "tokenizer_config.json")
        self._template = _read_template(directory, self._config)
        self.stop_ids = _stop_ids(directory)

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` works."""
        return self._template is not None

    def encode(self, prompt: str) -> tuple[int, ...]:
        """The ids of plain text, with the special tokens that the tokenizer adds itself.

        Raises:
            PromptError: nothing to run, or no text that UTF-8 can hold.
        """
        ids = self._encode(prompt) if prompt else ()
        if not ids:
            raise PromptError("the prompt is empty: write something to go on from")
        return ids

    def encode_chat(self, prompt: str) -> tuple[int, ...]:
        """The ids of one user message in the model's chat template.

        Raises:
            PromptError: the prompt is empty or none that UTF-8 can hold, or the model has no
                template or a broken one.
        """
        if not prompt.strip():
            raise PromptError("the prompt is empty: write something to answer")
        if self._template is None:
            raise PromptError("the model has no chat template: use --raw")
        text = self._render([{"role": "user", "content": prompt}])
        return self._encode(text, add_special_tokens=False)

    def _encode(self, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        try:
            text.encode()
        except UnicodeEncodeError as exc:  # as of bytes that Python could not decode
            raise PromptError(
                f"the prompt is not UTF-8 text ({exc.reason} at character {exc.start}): convert it"
            ) from exc
        return tuple(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def _render(self, messages: list[dict[str, str]]) -> str:
        # The template is code from the model's directory: it runs in a sandbox.
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        special = {
            key: value.get("content") if isinstance(value, dict) else value
            for key, value in self._config.items()
            if key in ("bos_token", "eos_token", "pad_token", "unk_token") and value
        }
        try:
            return environment.from_string(self._template or "").render(
                messages=messages, add_generation_prompt=True, **special
            )
        except TemplateError as exc:
            raise PromptError(f"the model's chat template refuses this prompt: {exc}") from exc
        except Exception as exc:  # the model's code: it raises what it likes
            raise PromptError(
                f"the model's chat template fails with {type(exc).__name__}: {exc}; use --raw"
            ) from exc

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids`` without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ``ids`` piece by piece, each as soon as its characters are complete."""
        decoder = DecodeStream(skip_special_tokens=True)
        held: list[int] = []
        streamed = ""
        for token_id in ids:
            held.append(token_id)
            piece = decoder.step(self._tokenizer, token_id)
            if piece:
                streamed += piece
                yield piece
        rest = self.decode(held).removeprefix(streamed)
        if rest and held and self.decode(held) == streamed + rest:
            yield rest


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"cannot read {path}: {exc}") from exc
    return content if isinstance(content, dict) else {}


def _read_template(directory: Path, config: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, or in the config alone or the default of several."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ModelError(f"cannot read {path}: {exc}") from exc
    template = config.get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict)]
        template = next((e.get("template") for e in named if e.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise ModelError(
            f"{directory}/tokenizer_config.json has a chat_template that is no text: download the"
            " file again"
        )
    return template


def _stop_ids(directory: Path) -> frozenset[int]:
    """The ids that end a text: of generation_config.json, else of config.json."""
    for name in ("generation_config.json", "config.json"):
        found = _read_json(directory / name).get("eos_token_id")
        if found is None:
            continue
        ids = found if isinstance(found, list) else [found]
        if not all(type(token_id) is int for token_id in ids):
            raise ModelError(
                f"{directory / name} has eos_token_id = {found!r}, expected a whole number or a"
                " list of them: download it again"
            )
        return frozenset(ids)
    return frozenset()
