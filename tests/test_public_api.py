"""The public surface: a change here is a change for every user, and belongs in the changelog."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest

import partwise

NAMES = [
    "Answer",
    "DeployOptions",
    "ExchangeReport",
    "Generation",
    "LinkReport",
    "Model",
    "ModuleNet",
    "Net",
    "PartReport",
    "PartwiseError",
    "Plan",
    "Request",
    "Token",
    "__version__",
    "balance_layers",
    "deploy",
    "open_model",
]
SIGNATURES = {
    "deploy": (
        "(model: 'str | Path | torch.nn.Module', example_inputs: 'Any' = None, *,"
        " parts: 'int | None' = None, servers: 'Sequence[str]' = (),"
        " plan: 'Plan | None' = None, version: 'int | None' = None,"
        " strategy: 'str | tuple[str, Mapping[str, Any]] | None' = None,"
        " options: 'DeployOptions' = {options}) -> 'Net | ModuleNet'"
    ),
    "Net.generate": (
        "(self, prompt: 'str', *, max_tokens: 'int' = 256, chat: 'bool | None' = None) -> 'Answer'"
    ),
    "Net.submit": "(self, request: 'Request') -> 'Generation'",
    "Net.counters": "(self) -> 'list[Stats]'",
    "Net.reports": "(self, before: 'Sequence[Stats] | None' = None) -> 'list[PartReport]'",
    "Net.replan": "(self, plan: 'Plan', *, timeout_s: 'float' = 600.0) -> 'None'",
    "Net.close": "(self) -> 'None'",
    "ModuleNet.__call__": "(self, *args: 'Any', **kwargs: 'Any') -> 'Any'",
    "ModuleNet.predict_pushed": "(self, batch: 'int') -> 'dict[tuple[str, str], int]'",
    "ModuleNet.count_pushed": "(self) -> 'dict[tuple[str, str], int]'",
    "ModuleNet.close": "(self) -> 'None'",
    "Answer.cancel": "(self) -> 'None'",
}
FIELDS = {
    "Request": {
        "prompt_ids": "tuple[int, ...]",
        "max_tokens": "int",
        "stop_ids": "frozenset[int]",
        "wants_logprobs": "bool",
        "wants_logits": "bool",
    },
    "DeployOptions": {
        "threads": "int",
        "is_pinned": "bool",
        "is_deterministic": "bool",
        "codec": "str | None",
        "max_in_flight": "int",
        "chunk_tokens": "int",
        "step_timeout_s": "float",
        "token_file": "Path | None",
        "precision": "str | None",
        "runner": "str | None",
        "device": "str",
        "on_load": "Callable[[int, int], None]",
        "on_notice": "Callable[[str], None]",
        "module_folder": "Path | None",
    },
    "PartReport": {
        "name": "str",
        "server": "str",
        "layers": "str",
        "weight_bytes": "int",
        "resident_bytes": "int",
        "compute_ms_per_token": "float | None",
        "wait_ms_per_token": "float | None",
        "hop_ms_per_token": "float | None",
        "sent_bytes_per_token": "float | None",
        "compute_s": "float",
        "wait_s": "float",
        "exposed_s": "float",
        "hidden_s": "float",
        "links": "tuple[LinkReport, ...]",
        "exchange": "ExchangeReport | None",
    },
    "ExchangeReport": {
        "calls": "int",
        "sent_bytes": "int",
        "exchange_s": "float",
        "wait_s": "float",
        "ms_per_token": "float | None",
        "sent_bytes_per_token": "float | None",
    },
    "LinkReport": {
        "source": "str",
        "target": "str",
        "codec": "str",
        "frames": "int",
        "plain_bytes": "int",
        "moved_bytes": "int",
        "pack_us_per_frame": "float | None",
        "unpack_us_per_frame": "float | None",
        "beside_percent": "float | None",
    },
}


def find(path: str) -> Any:
    value: Any = partwise
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_the_public_names_are_these_and_each_exists() -> None:
    assert partwise.__all__ == NAMES
    for name in NAMES:
        assert getattr(partwise, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        find("nonsense")


@pytest.mark.parametrize("path", SIGNATURES)
def test_a_signature_stays_as_it_is(path: str) -> None:
    expected = SIGNATURES[path].replace("{options}", repr(partwise.DeployOptions()))
    assert str(inspect.signature(find(path))) == expected


@pytest.mark.parametrize("path", FIELDS)
def test_the_fields_stay_as_they_are(path: str) -> None:
    kind = find(path)
    assert {field.name: field.type for field in fields(kind)} == FIELDS[path]
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(kind).parameters.values())


def test_defaults_are_what_the_documentation_promises() -> None:
    request = partwise.Request(prompt_ids=(1,), max_tokens=1)
    assert request.stop_ids == frozenset()
    assert not request.wants_logprobs
    assert not request.wants_logits
    options = partwise.DeployOptions()
    assert (options.threads, options.max_in_flight, options.token_file) == (0, 0, None)
    assert not options.is_pinned
    assert not options.is_deterministic
