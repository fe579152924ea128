"""What a server imports before its first part."""

from __future__ import annotations

import pytest

from partwise.launch import listening
from partwise.model.families import FAMILIES
from partwise.part.torch import families


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that are asked for."""
    names: list[str] = []
    monkeypatch.setattr(listening.importlib, "import_module", names.append)
    return names


def test_every_family_that_can_be_described_is_imported(imported: list[str]) -> None:
    listening.import_runners(["torch", "onnx"])
    sources = [families.FAMILIES[family.architecture].source for family in FAMILIES]
    assert imported == ["partwise.part.onnx.runner", "partwise.part.torch.runner", *sources]


def test_of_one_architecture_its_module_alone_is_imported(
    imported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NewFamily:
        source = "transformers.models.new.modeling_new"

    monkeypatch.setitem(families.FAMILIES, "NewForCausalLM", NewFamily)
    listening.import_runners(["torch"], "NewForCausalLM")
    assert imported == ["partwise.part.torch.runner", NewFamily.source]


def test_the_modules_named_are_those_that_the_layers_come_from() -> None:
    import importlib

    for architecture, family in families.FAMILIES.items():
        assert hasattr(importlib.import_module(family.source), architecture)
