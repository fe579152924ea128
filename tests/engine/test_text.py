"""Text in and out: pieces are whole characters, special tokens stay inside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from partwise.engine.text import Text
from partwise.errors import ModelError, PromptError

END_ID = 382


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """The files beside the weights, to change."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        shutil.copy(tiny_llama / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def text(folder: Path) -> Text:
    return Text(folder)


def test_a_piece_comes_when_its_characters_are_complete(text: Text) -> None:
    ids = text.encode("aé🙂b")
    assert len(ids) == 1 + 2 + 4 + 1  # a token is a byte here
    pieces = text.stream(iter(ids))
    assert list(pieces) == ["a", "é", "🙂", "b"]


def test_nothing_is_held_back_longer_than_needed(text: Text) -> None:
    taken: list[int] = []

    def ids():
        for token_id in text.encode("é🙂b"):
            taken.append(token_id)
            yield token_id

    seen = [(piece, len(taken)) for piece in text.stream(ids())]
    assert seen == [("é", 2), ("🙂", 6), ("b", 7)]


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_character_that_is_cut_off_ends_the_stream_as_it_ends_the_text(
    text: Text, missing: int
) -> None:
    ids = text.encode("aé🙂")[:-missing]
    pieces = list(text.stream(ids))
    assert pieces == ["a", "é", "\N{REPLACEMENT CHARACTER}"]
    assert "".join(pieces) == text.decode(ids)


def test_special_tokens_are_in_no_text(text: Text) -> None:
    ids = (*text.encode("one"), END_ID, *text.encode(" two"))
    assert text.decode(ids) == "one two"
    assert "".join(text.stream(ids)) == "one two"
    assert list(text.stream([END_ID])) == []


def test_a_chat_message_is_in_the_models_template(text: Text) -> None:
    written = "<|start|>user\nhi<|end|>\n<|start|>assistant\n"
    assert text.has_chat_template
    assert text.encode_chat("hi") == text.encode(written)
    assert END_ID in text.encode_chat("hi")
    with pytest.raises(PromptError, match="the prompt is empty"):
        text.encode_chat(" \n")


def test_a_template_may_be_in_the_tokenizers_config_and_use_its_tokens(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    template = "{{ eos_token }}{{ messages[0]['content'] }}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    text = Text(folder)
    assert text.encode_chat("hi") == (END_ID, *text.encode("hi"))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('one at a time') }}", "refuses this prompt: one at a time"),
        ("{% if %}", "chat template refuses"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "chat template refuses"),
    ],
)
def test_a_template_that_refuses_breaks_or_reaches_out_is_named(
    folder: Path, template: str, says: str
) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(PromptError, match=says):
        Text(folder).encode_chat("hi")


def test_without_a_template_there_is_no_chat(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    text = Text(folder)
    assert not text.has_chat_template
    with pytest.raises(PromptError, match="no chat template: use --raw"):
        text.encode_chat("hi")


def test_the_generation_config_says_what_ends_a_text_else_the_config(folder: Path) -> None:
    assert Text(folder).stop_ids == {END_ID}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert Text(folder).stop_ids == {7, 9}


def test_a_tokenizer_that_is_missing_or_damaged_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot read .*tokenizer.json"):
        Text(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer.json"):
        Text(folder)


def test_what_utf_8_cannot_hold_is_no_prompt(text: Text) -> None:
    for encode in (text.encode, text.encode_chat):
        with pytest.raises(PromptError, match=r"not UTF-8 text \(surrogates .* at character"):
            encode("a\udcff")


def test_the_default_of_several_templates_is_taken(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    tools = {"name": "tools", "template": "no"}
    default = {"name": "default", "template": "{{ messages[0]['content'] }}!"}
    path.write_text(json.dumps(config | {"chat_template": [tools, default]}))
    text = Text(folder)
    assert text.encode_chat("hi") == text.encode("hi!")
    path.write_text(json.dumps(config | {"chat_template": [tools]}))
    assert not Text(folder).has_chat_template
    path.write_text(json.dumps(config | {"chat_template": 7}))
    with pytest.raises(ModelError, match="chat_template that is no text"):
        Text(folder)


def test_a_template_that_is_not_utf_8_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff{{ messages }}")
    with pytest.raises(ModelError, match="cannot read .*chat_template.jinja"):
        Text(folder)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages | tojson(indent=[]) }}"])
def test_whatever_a_template_raises_is_one_error(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(PromptError, match="chat template fails with .*Error"):
        Text(folder).encode_chat("hi")


@pytest.mark.parametrize("ids", [[[1]], "2", True, [1, None], 1.5, {}])
def test_ids_that_end_a_text_must_be_numbers(folder: Path, ids: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(ModelError, match="eos_token_id = .*, expected a whole number"):
        Text(folder)
