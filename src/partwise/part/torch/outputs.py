"""What a version of a model gives for windows of text, up to its head: what accuracy is
measured from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from partwise.compress.accuracy import Outputs
from partwise.model import LayerKind
from partwise.part.torch.walk import TorchWalk
from partwise.store import Store, open_version


def run_to_head(
    path: Path,
    version: int,
    windows: Sequence[Sequence[int]],
    on_layer: Callable[[int, int], None],
) -> Outputs:
    """Take each window of token ids through the layers before the head, one layer in memory.

    ``on_layer(done, total)`` follows.

    Raises:
        PartwiseError: as `open_version` and `Store.read`.
    """
    model = open_version(path, version)
    with Store.open(path, version) as store:
        walk = TorchWalk(model, store.config, windows)
        for index, layer in enumerate(model.layers):
            on_layer(index, len(model.layers))
            weights = {p.name: store.read(p.stored_name) for p in layer.parameters}
            if layer.kind is LayerKind.HEAD:
                on_layer(len(model.layers), len(model.layers))
                return Outputs(states=walk.states, head=weights[layer.parameters[0].name])
            walk.advance(index, weights)
    raise AssertionError(f"{model.name} has no head")
